//! Memory for programs that live for a moment: handed out from one static piece, front to back.
//!
//! A runtime's command allocates a few hundred small things and ends. A general allocator maps and unmaps pages for them,
//! and each page costs a fault again; here the only thing that is ever given back is what was handed out last. What no
//! longer fits comes from the system's allocator and goes back to it, so that a program that lives on (a monitor) is no
//! worse off than without. Deliberately absent: free lists.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};

/// For `#[global_allocator]`; `SIZE` is in bytes. Untouched pages of it cost nothing.
#[derive(Debug)]
#[repr(C, align(4096))] // The space comes first, on a page.
pub struct Arena<const SIZE: usize> {
    space: UnsafeCell<MaybeUninit<[u8; SIZE]>>,
    /// Bytes from the front that are handed out.
    used: AtomicUsize,
}

// SAFETY: no two callers are ever given the same bytes: `used` moves by compare-and-swap alone.
unsafe impl<const SIZE: usize> Sync for Arena<SIZE> {}

impl<const SIZE: usize> Arena<SIZE> {
    /// Empty.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            space: UnsafeCell::new(MaybeUninit::uninit()),
            used: AtomicUsize::new(0),
        }
    }

    fn front(&self) -> *mut u8 {
        self.space.get().cast()
    }

    /// How far from the front `pointer` is, if it is of this arena.
    fn offset(&self, pointer: *mut u8) -> Option<usize> {
        let offset = pointer.addr().checked_sub(self.front().addr())?;
        (offset < SIZE).then_some(offset)
    }

    fn take(&self, layout: Layout) -> Option<*mut u8> {
        let mut begin = 0;
        let fits = |used: usize| {
            // The arena begins on a page; no layout of ours asks for more.
            begin = used.checked_next_multiple_of(layout.align())?;
            let end = begin.checked_add(layout.size())?;
            (layout.align() <= 4096 && end <= SIZE).then_some(end)
        };
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .ok()?;
        // SAFETY: begin <= SIZE, so the pointer stays within the arena or at its end.
        Some(unsafe { self.front().add(begin) })
    }

    /// Moves the end of what was handed out last, which is `old` bytes at `offset`. Whether it was the last.
    fn resize(&self, offset: usize, old: usize, new: usize) -> bool {
        let (from, to) = (offset + old, offset.saturating_add(new));
        to <= SIZE && {
            let (order, failed) = (Ordering::Relaxed, Ordering::Relaxed);
            self.used.compare_exchange(from, to, order, failed).is_ok()
        }
    }
}

impl<const SIZE: usize> Default for Arena<SIZE> {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: what `take` gives is aligned, large enough and nobody else's until it is given back; what is not of the arena is
// the system's, which is asked for it with the same layout again.
unsafe impl<const SIZE: usize> GlobalAlloc for Arena<SIZE> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.take(layout) {
            Some(pointer) => pointer,
            // SAFETY: the caller's promise is the same.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        match self.offset(pointer) {
            Some(offset) => {
                self.resize(offset, layout.size(), 0);
            }
            // SAFETY: it came from there with this layout.
            None => unsafe { System.dealloc(pointer, layout) },
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some(offset) = self.offset(pointer) else {
            // SAFETY: it came from there with this layout, and the caller's promise on `size` is the same.
            return unsafe { System.realloc(pointer, layout, size) };
        };
        if self.resize(offset, layout.size(), size) || size <= layout.size() {
            return pointer;
        }
        // SAFETY: the caller promises that `size`, rounded up to the alignment, does not overflow.
        let grown = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: `size` is not zero, says the caller.
        let copy = unsafe { self.alloc(grown) };
        if !copy.is_null() {
            // SAFETY: both are at least as long as the smaller one, and the new one is nobody else's.
            unsafe { std::ptr::copy_nonoverlapping(pointer, copy, layout.size()) };
            // SAFETY: the caller gives `pointer` up, as it does with `dealloc`.
            unsafe { self.dealloc(pointer, layout) };
        }
        copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn pieces_are_aligned_and_apart() {
        let arena = Box::new(Arena::<4096>::new());
        let mut end = 0;
        for (size, align) in [(1, 1), (8, 8), (3, 1), (64, 64), (100, 16)] {
            let piece = arena.take(bytes(size, align)).unwrap();
            assert!(piece.addr().is_multiple_of(align));
            let offset = arena.offset(piece).unwrap();
            assert!(offset >= end);
            end = offset + size;
        }
    }

    #[test]
    fn only_the_last_piece_goes_back() {
        let arena = Box::new(Arena::<4096>::new());
        let layout = bytes(16, 8);
        // SAFETY: each pointer is given back once, with its layout.
        unsafe {
            let (first, second) = (arena.alloc(layout), arena.alloc(layout));
            arena.dealloc(first, layout);
            assert_eq!(arena.used.load(Ordering::Relaxed), 32);
            arena.dealloc(second, layout);
            assert_eq!(arena.used.load(Ordering::Relaxed), 16);
        }
    }

    #[test]
    fn the_last_piece_grows_where_it_is_and_others_move() {
        let arena = Box::new(Arena::<4096>::new());
        let layout = bytes(16, 8);
        // SAFETY: each pointer is used while it is ours, within its layout.
        unsafe {
            let first = arena.alloc(layout);
            first.write_bytes(7, 16);
            assert_eq!(arena.realloc(first, layout, 32), first);
            let second = arena.alloc(layout);
            let moved = arena.realloc(first, bytes(32, 8), 64);
            assert!(moved > second);
            assert_eq!(std::slice::from_raw_parts(moved, 16), [7; 16]);
            assert_eq!(arena.realloc(second, layout, 8), second);
        }
    }

    #[test]
    fn what_does_not_fit_is_the_systems() {
        let arena = Box::new(Arena::<4096>::new());
        let full = bytes(4096, 1);
        // SAFETY: each pointer is given back once, with the layout that it has then.
        unsafe {
            assert!(arena.offset(arena.alloc(full)).is_some());
            let small = bytes(16, 8);
            let other = arena.alloc(small);
            assert!(arena.offset(other).is_none());
            other.write_bytes(7, 16);
            let grown = arena.realloc(other, small, 64);
            assert_eq!(std::slice::from_raw_parts(grown, 16), [7; 16]);
            arena.dealloc(grown, bytes(64, 8));
            let wide = bytes(16, 8192);
            let aligned = Arena::<4096>::new().alloc(wide);
            assert!(aligned.addr().is_multiple_of(8192));
            System.dealloc(aligned, wide);
        }
    }
}
