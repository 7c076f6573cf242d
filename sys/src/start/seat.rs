//! Changes the file that this process is the program of, without executing it again.
//!
//! What execve(2) would do anew is done to the process as it is: each segment of the program is mapped once more from the
//! other file, which has the same content, and the kernel is told that this one is the program now (PR_SET_MM_MAP of
//! prctl(2), which refuses while anything is still mapped from the old one).
//!
//! For programs that were linked statically to a fixed address, before their first instruction but ours. Whatever is
//! refused changes nothing that matters: the content is the same, and whoever asked executes the other file.

use super::raw::call;

/// The words of the auxiliary vector (getauxval(3)) that are needed.
struct Auxiliary {
    headers: *const libc::Elf64_Phdr,
    count: usize,
    page: usize,
}

/// Whether `clone`, a file that is open by O_PATH, is the program now.
///
/// # Safety
///
/// `argv` and `environ` are as the kernel has laid them out; the program has not begun; the file is the same as the program's.
pub(super) unsafe fn change(
    clone: usize,
    argv: *const *const u8,
    environ: *const *const u8,
) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let Some(auxiliary) = auxiliary(environ) else {
            return false;
        };
        let path = path_of(clone);
        let here = libc::AT_FDCWD as usize;
        let flags = (libc::O_RDONLY | libc::O_CLOEXEC) as usize;
        let file = call(
            libc::SYS_openat,
            [here, path.as_ptr() as usize, flags, 0, 0, 0],
        );
        if file < 0 {
            return false;
        }
        let file = file as usize;
        let changed = map(&auxiliary, file) && tell(&auxiliary, file, argv, environ);
        call(libc::SYS_close, [file, 0, 0, 0, 0, 0]);
        changed
    }
}

/// None: it was not linked to the address where it is.
unsafe fn auxiliary(environ: *const *const u8) -> Option<Auxiliary> {
    let mut found = Auxiliary {
        headers: core::ptr::null(),
        count: 0,
        page: 0,
    };
    // SAFETY: behind the environment's null pointer there are pairs of words, up to one whose first is AT_NULL.
    unsafe {
        let mut at = environ;
        while !(*at).is_null() {
            at = at.add(1);
        }
        let mut pair = at.add(1).cast::<usize>();
        while *pair != libc::AT_NULL as usize {
            let value = *pair.add(1);
            if *pair == libc::AT_PHDR as usize {
                found.headers = value as *const libc::Elf64_Phdr;
            } else if *pair == libc::AT_PHNUM as usize {
                found.count = value;
            } else if *pair == libc::AT_PAGESZ as usize {
                found.page = value;
            }
            pair = pair.add(2);
        }
        let complete = !found.headers.is_null() && found.count > 0 && found.page.is_power_of_two();
        // The headers follow upon the file's own, at the beginning of the first segment.
        let first = complete.then(|| &*found.headers)?;
        let expected = first.p_vaddr as usize + size_of::<libc::Elf64_Ehdr>();
        let fixed = first.p_type == libc::PT_LOAD && found.headers as usize == expected;
        fixed.then_some(found)
    }
}

/// `/proc/self/fd/N`
fn path_of(descriptor: usize) -> [u8; 32] {
    let mut path = [0; 32];
    let mut at = 0;
    let prefix = b"/proc/self/fd/";
    while at < prefix.len() {
        path[at] = prefix[at];
        at += 1;
    }
    let (mut digits, mut rest) = (1, descriptor);
    while rest >= 10 {
        rest /= 10;
        digits += 1;
    }
    rest = descriptor;
    while digits > 0 {
        digits -= 1;
        path[at + digits] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    path
}

/// Each segment from the other file.
unsafe fn map(auxiliary: &Auxiliary, file: usize) -> bool {
    let page = auxiliary.page;
    let mut index = 0;
    while index < auxiliary.count {
        // SAFETY: the kernel has told how many there are.
        let header = unsafe { &*auxiliary.headers.add(index) };
        index += 1;
        if header.p_type != libc::PT_LOAD || header.p_filesz == 0 {
            continue;
        }
        let begin = header.p_vaddr as usize;
        let (first, end) = (begin & !(page - 1), begin + header.p_filesz as usize);
        let length = (end - first + page - 1) & !(page - 1);
        let offset = header.p_offset as usize & !(page - 1);
        let protection = protection(header.p_flags);
        let flags = (libc::MAP_PRIVATE | libc::MAP_FIXED) as usize;
        // SAFETY: the same bytes as before come to the same place. Nothing has been written there yet but zeros behind the
        // last byte of the file's part, where the program expects them.
        unsafe {
            let mapped = call(
                libc::SYS_mmap,
                [first, length, protection, flags, file, offset],
            );
            if mapped != first as isize {
                return false;
            }
            if header.p_memsz > header.p_filesz {
                let mut at = end;
                while at < first + length {
                    (at as *mut u8).write_volatile(0);
                    at += 1;
                }
            }
        }
    }
    true
}

fn protection(flags: u32) -> usize {
    let mut protection = 0;
    if flags & libc::PF_R != 0 {
        protection |= libc::PROT_READ;
    }
    if flags & libc::PF_W != 0 {
        protection |= libc::PROT_WRITE;
    }
    if flags & libc::PF_X != 0 {
        protection |= libc::PROT_EXEC;
    }
    protection as usize
}

/// `struct prctl_mm_map` of linux/prctl.h.
#[repr(C)]
struct Map {
    code: [u64; 2],
    data: [u64; 2],
    brk: [u64; 2],
    stack: u64,
    arguments: [u64; 2],
    environment: [u64; 2],
    auxv: u64,
    auxv_size: u32,
    program: u32,
}

/// All of it as it is, but for the program.
unsafe fn tell(
    auxiliary: &Auxiliary,
    file: usize,
    argv: *const *const u8,
    environ: *const *const u8,
) -> bool {
    let (mut code, mut data) = ([0; 2], [0; 2]);
    let mut index = 0;
    while index < auxiliary.count {
        // SAFETY: the kernel has told how many there are.
        let header = unsafe { &*auxiliary.headers.add(index) };
        index += 1;
        if header.p_type == libc::PT_LOAD {
            let range = [header.p_vaddr, header.p_vaddr + header.p_filesz];
            if header.p_flags & libc::PF_X != 0 {
                code = range;
            } else if header.p_flags & libc::PF_W != 0 {
                data = range;
            }
        }
    }
    // SAFETY: brk(2) of 0 asks; the lists end with null pointers, their texts with NUL; prctl(2) reads a struct that
    // lives on, and nothing of it but the program differs from what the kernel knows.
    unsafe {
        let brk = call(libc::SYS_brk, [0; 6]) as u64;
        let (arguments, environment) = (texts(argv), texts(environ));
        let map = Map {
            code,
            data,
            brk: [brk, brk],
            stack: argv as u64 - size_of::<usize>() as u64,
            arguments,
            environment: if environment[0] == 0 {
                [arguments[1]; 2]
            } else {
                environment
            },
            auxv: 0,
            auxv_size: 0,
            program: file as u32,
        };
        let (option, size) = (libc::PR_SET_MM as usize, size_of::<Map>());
        let map = &raw const map as usize;
        let what = libc::PR_SET_MM_MAP as usize;
        call(libc::SYS_prctl, [option, what, map, size, 0, 0]) == 0
    }
}

/// From the first byte of the first text to behind the NUL of the last; zeros if there is none.
unsafe fn texts(list: *const *const u8) -> [u64; 2] {
    let mut range = [0; 2];
    let mut at = list;
    // SAFETY: as `tell` says.
    unsafe {
        while !(*at).is_null() {
            let mut end = *at;
            // Volatile: otherwise this is strlen, which glibc chooses only later.
            while end.read_volatile() != 0 {
                end = end.add(1);
            }
            if at == list {
                range[0] = *at as u64;
            }
            range[1] = end as u64 + 1;
            at = at.add(1);
        }
    }
    range
}
