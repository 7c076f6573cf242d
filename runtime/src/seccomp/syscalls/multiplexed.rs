//! x86's calls that are one number for many: socketcall(2) and ipc(2).
//!
//! A 32-bit libc makes a socket by `socketcall(SYS_SOCKET, pointer to the arguments)`, so a rule for `socket` must
//! cover that form too. Its arguments lie in memory, where no filter sees them.

/// socketcall(2)
pub(in crate::seccomp) const SOCKETCALL: u32 = 102;
/// ipc(2)
pub(in crate::seccomp) const IPC: u32 = 117;

/// The multiplexer of a call on x86 and its number there.
pub(in crate::seccomp) fn multiplexed(name: &str) -> Option<(u32, u32)> {
    let number = |calls: &[(&str, u32)]| {
        let found = calls.iter().find(|(known, _)| *known == name);
        found.map(|(_, number)| *number)
    };
    number(SOCKET_CALLS)
        .map(|number| (SOCKETCALL, number))
        .or_else(|| number(IPC_CALLS).map(|number| (IPC, number)))
}

/// linux/net.h
const SOCKET_CALLS: &[(&str, u32)] = &[
    ("socket", 1),
    ("bind", 2),
    ("connect", 3),
    ("listen", 4),
    ("accept", 5),
    ("getsockname", 6),
    ("getpeername", 7),
    ("socketpair", 8),
    ("send", 9),
    ("recv", 10),
    ("sendto", 11),
    ("recvfrom", 12),
    ("shutdown", 13),
    ("setsockopt", 14),
    ("getsockopt", 15),
    ("sendmsg", 16),
    ("recvmsg", 17),
    ("accept4", 18),
    ("recvmmsg", 19),
    ("sendmmsg", 20),
];

/// linux/ipc.h
const IPC_CALLS: &[(&str, u32)] = &[
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];
