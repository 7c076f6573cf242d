//! The first instructions of `longshore-runtime`: before libc, before `main`, it becomes the program of a file that nobody
//! can write to, if it is about to make a process inside a container (CVE-2019-5736): a read-only clone of its own. Where
//! it cannot change its seat (`seat`), it executes that one.
//!
//! The command's own seal does the same and remains the proof: it asks the kernel whether this program is sealed, and falls
//! back where a mount cannot be cloned. This one only comes before it, so that libc and std are set up once and not
//! twice: that is a third of what a start costs. Whatever fails here is left for that one.
//!
//! Nothing of libc or std may be used: no thread-local storage, no memcpy by IFUNC, no relocated pointer. Therefore the
//! system calls are made by hand, texts are compared byte by byte, and no table of texts exists.

use core::arch::naked_asm;
use core::sync::atomic::{AtomicI32, Ordering};
use std::os::fd::{FromRawFd, OwnedFd};

mod raw;
mod seat;

use raw::call;

/// The commands that make processes inside a container. An argument that only looks like one costs a needless seal.
fn enters(word: *const u8) -> bool {
    equals(word, b"run\0") || equals(word, b"exec\0") || equals(word, b"create\0")
}

/// Where the kernel begins with this program, by `-e longshore_start`: the initial stack is looked at, then libc's own entry
/// has it as it was.
///
/// # Safety
///
/// Only the kernel or the dynamic loader may jump here.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn longshore_start() -> ! {
    // rdx is what the loader wants to have called at exit. The stack is aligned here as a call needs it.
    naked_asm!(
        "mov r12, rdx",
        "mov rdi, rsp",
        "call {seal}",
        "mov rdx, r12",
        "xor ebp, ebp",
        "jmp _start",
        seal = sym seal,
    )
}

/// As on x86_64.
///
/// # Safety
///
/// As on x86_64.
#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn longshore_start() -> ! {
    naked_asm!(
        "mov x19, x0",
        "mov x0, sp",
        "bl {seal}",
        "mov x0, x19",
        "mov x29, xzr",
        "mov x30, xzr",
        "b _start",
        seal = sym seal,
    )
}

/// `stack` is argc, then argv and environ, each of which ends with a null pointer.
extern "C" fn seal(stack: *const usize) {
    // SAFETY: so the kernel has laid it out (execve(2)), and nobody has changed it since.
    let (argv, environ) = unsafe {
        let argv = stack.add(1).cast::<*const u8>();
        (argv, argv.add(*stack + 1))
    };
    let mut at = argv;
    // SAFETY: up to the null pointer all are texts of this process.
    let found = unsafe {
        loop {
            match *at {
                word if word.is_null() => break false,
                word if enters(word) => break true,
                _ => at = at.add(1),
            }
        }
    };
    if found {
        execute_sealed(argv, environ);
    }
}

/// Comes back if this is sealed already, or cannot be.
fn execute_sealed(argv: *const *const u8, environ: *const *const u8) {
    let own = c"/proc/self/exe".as_ptr() as usize;
    let here = libc::AT_FDCWD as usize;
    // One of ours shows as `/` or `/memfd:...`; as the command's own seal has it.
    let mut name = [0u8; 7];
    // SAFETY: readlinkat(2) writes at most so many bytes.
    let length = unsafe {
        call(
            libc::SYS_readlinkat,
            [here, own, name.as_mut_ptr() as usize, 7, 0, 0],
        )
    };
    if length <= 0 || length == 1 || (length == 7 && equals_bytes(&name, b"/memfd:")) {
        return;
    }
    let flags = (OPEN_TREE_CLONE | libc::O_CLOEXEC) as usize;
    // SAFETY: open_tree(2) reads a text.
    let clone = unsafe { call(libc::SYS_open_tree, [here, own, flags, 0, 0, 0]) };
    if clone < 0 {
        return;
    }
    let attributes = [libc::MOUNT_ATTR_RDONLY, 0, libc::MS_PRIVATE, 0];
    let (clone, empty) = (clone as usize, c"".as_ptr() as usize);
    let by_descriptor = libc::AT_EMPTY_PATH as usize;
    let size = size_of_val(&attributes);
    // SAFETY: mount_setattr(2) reads a text and a struct of four u64; execveat(2) reads a text and two lists that are as
    // the kernel itself has laid them out; close(2) closes what nobody else knows of.
    unsafe {
        let attributes = attributes.as_ptr() as usize;
        let sealed = call(
            libc::SYS_mount_setattr,
            [clone, empty, by_descriptor, attributes, size, 0],
        );
        if sealed == 0 && seat::change(clone, argv, environ) {
            HELD.store(clone as i32, Ordering::Relaxed);
            return;
        }
        if sealed == 0 {
            let (argv, environ) = (argv as usize, environ as usize);
            call(
                libc::SYS_execveat,
                [clone, empty, argv, environ, by_descriptor, 0],
            );
        }
        call(libc::SYS_close, [clone, 0, 0, 0, 0, 0]);
    }
}

/// Gives back the clone that this program became, which is only still open because its end takes time: the kernel lets
/// a grace period pass before a mount that was attached nowhere is gone (synchronize_rcu_expedited). So it is closed
/// where the process would wait anyway, and if it never does, by its end. The program stays what it is.
pub fn let_go() {
    let held = HELD.swap(-1, Ordering::Relaxed);
    if held >= 0 {
        // SAFETY: the descriptor was opened here, and nobody else knows of it.
        drop(unsafe { OwnedFd::from_raw_fd(held) });
    }
}

/// Close-on-exec, as no caller's descriptor that is to be kept may be. -1: none.
static HELD: AtomicI32 = AtomicI32::new(-1);

/// linux/mount.h
const OPEN_TREE_CLONE: i32 = 1;

/// `text` ends with its NUL.
fn equals(word: *const u8, text: &[u8]) -> bool {
    let mut at = 0;
    while at < text.len() {
        // SAFETY: the word ends with a NUL, and nothing behind the first byte that differs is read.
        if unsafe { word.add(at).read() } != text[at] {
            return false;
        }
        at += 1;
    }
    true
}

fn equals_bytes(one: &[u8; 7], other: &[u8; 7]) -> bool {
    let mut at = 0;
    while at < one.len() {
        if one[at] != other[at] {
            return false;
        }
        at += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_commands_that_enter_a_container_are_sealed_early() {
        for (word, expected) in [
            (c"run", true),
            (c"exec", true),
            (c"create", true),
            (c"created", false),
            (c"ru", false),
            (c"", false),
            (c"state", false),
        ] {
            assert_eq!(enters(word.as_ptr().cast()), expected, "{word:?}");
        }
    }
}
