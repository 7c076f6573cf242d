//! bpf(2), as far as the device list of a v2 group needs it: load, attach, list and detach programs of type
//! BPF_PROG_TYPE_CGROUP_DEVICE. Nothing else of bpf(2) is here.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// One eBPF instruction (`struct bpf_insn`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// The opcode.
    pub code: u8,
    /// Both register numbers, as the kernel packs them.
    pub registers: u8,
    /// The jump distance or memory offset.
    pub offset: i16,
    /// The constant.
    pub immediate: i32,
}

impl Instruction {
    /// `to` and `from` are register numbers below 11; only their low four bits are used.
    pub const fn new(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
        // The kernel declares two bit fields, whose order follows the byte order.
        let registers = if cfg!(target_endian = "little") {
            (from & 15) << 4 | (to & 15)
        } else {
            (to & 15) << 4 | (from & 15)
        };
        Instruction {
            code,
            registers,
            offset,
            immediate,
        }
    }
}

// Numbers of linux/bpf.h.
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const PROG_QUERY: libc::c_long = 16;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;
/// BPF_CGROUP_MAX_PROGS: more cannot be attached to one group.
const MAX_ATTACHED: usize = 64;

// The arms of `union bpf_attr`. Each is a prefix of its arm and has no implicit padding; the kernel takes
// what is beyond the size it is told as zero.

#[repr(C)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

#[repr(C)]
struct Query {
    target: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    reserved: u32,
    attach_flags_of_ids: u64,
    links: u64,
    attach_flags_of_links: u64,
    revision: u64,
}

/// Some kernels from 6.17 on write `revision` whatever size they are told, so the room for it is never left out;
/// older ones accept what they do not know as long as it is zero.
const _: () = assert!(size_of::<Query>() == 64 && std::mem::offset_of!(Query, revision) == 56);

#[repr(C)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

/// Loads a device program. Errors: EPERM without CAP_BPF and CAP_NET_ADMIN (or CAP_SYS_ADMIN), EINVAL or
/// EACCES if the verifier refuses the program.
pub fn load_device_program(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let mut attr = Load {
        kind: TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(instructions.len())
            .map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        instructions: instructions.as_ptr() as u64,
        // No helper of the kernel is called, so no helper's licence binds us.
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"longshore_dev\0\0\0",
    };
    // SAFETY: `Load` is the prefix of the arm of BPF_PROG_LOAD. `instructions` points to
    // `instruction_count` values laid out as `struct bpf_insn`, borrowed until after the call, and `license`
    // to a static string that ends in NUL; the kernel copies both and writes to neither. There is no log.
    let fd = unsafe { bpf(PROG_LOAD, &raw mut attr) }?;
    // SAFETY: on success BPF_PROG_LOAD returns a new descriptor (close-on-exec), which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a program to a group, beside those that are attached (BPF_F_ALLOW_MULTI): a device is open to a
/// process if all programs of its group and of the ancestors agree. The group's fd must be a directory fd
/// that is not O_PATH.
pub fn attach_device_program(group: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    attach_or_detach(PROG_ATTACH, group, program, ALLOW_MULTI)
}

/// Detaches the program of this id; fine if it is gone already.
pub fn detach_device_program(group: BorrowedFd<'_>, id: u32) -> io::Result<()> {
    let missing = |error: &io::Error| error.raw_os_error() == Some(libc::ENOENT);
    let mut attr = ById {
        id,
        next: 0,
        flags: 0,
    };
    // SAFETY: `ById` is the prefix of the arm of BPF_PROG_GET_FD_BY_ID and holds no pointer.
    let fd = match unsafe { bpf(PROG_GET_FD_BY_ID, &raw mut attr) } {
        Err(error) if missing(&error) => return Ok(()),
        other => other?,
    };
    // SAFETY: on success BPF_PROG_GET_FD_BY_ID returns a new descriptor, which nobody else owns.
    let program = unsafe { OwnedFd::from_raw_fd(fd) };
    match attach_or_detach(PROG_DETACH, group, program.as_fd(), 0) {
        Err(error) if missing(&error) => Ok(()),
        other => other,
    }
}

/// The ids of the device programs that are attached to this group itself.
pub fn attached_device_programs(group: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; MAX_ATTACHED];
    let mut attr = Query {
        target: group.as_raw_fd() as u32,
        kind: ATTACH_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: MAX_ATTACHED as u32,
        reserved: 0,
        attach_flags_of_ids: 0,
        links: 0,
        attach_flags_of_links: 0,
        revision: 0,
    };
    // SAFETY: `Query` is the whole arm of BPF_PROG_QUERY and writable, as the kernel answers in it. The three
    // addresses behind `reserved` are null, so nothing is written through them.
    // `ids` points to `count` writable u32 values that live until after the call; the kernel writes no more.
    unsafe { bpf(PROG_QUERY, &raw mut attr) }?;
    Ok(ids[..(attr.count as usize).min(MAX_ATTACHED)].to_vec())
}

fn attach_or_detach(
    command: libc::c_long,
    group: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    flags: u32,
) -> io::Result<()> {
    let mut attr = Attach {
        target: group.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: ATTACH_CGROUP_DEVICE,
        flags,
    };
    // SAFETY: `Attach` is the prefix of the arm of BPF_PROG_ATTACH and BPF_PROG_DETACH and holds no pointer;
    // both descriptors are borrowed, therefore open, until after the call.
    unsafe { bpf(command, &raw mut attr) }?;
    Ok(())
}

/// # Safety
/// `attr` must point to a writable value that is a prefix of the arm of `union bpf_attr` for `command` and holds every
/// field that the kernel answers in, fully initialised, and every address in it must be what that command demands, until the call returns.
unsafe fn bpf<T>(command: libc::c_long, attr: *mut T) -> io::Result<RawFd> {
    // SAFETY: the caller upholds the contract above; the size is that of the value behind `attr`. The kernel reads no
    // more than that, and writes to the fields of an answer alone, which are in it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // A descriptor or 0: within an int.
    Ok(result as RawFd)
}
