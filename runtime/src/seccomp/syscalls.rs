//! The system calls by name, on every architecture that a filter can meet.

use super::abi::Abi;

mod multiplexed;
mod table;

pub(super) use multiplexed::{IPC, SOCKETCALL, multiplexed};

/// In the table: no call of that name on that architecture.
const NONE: u32 = u32::MAX;

/// arm's own calls stand far above the others (`__ARM_NR_BASE`, asm/unistd.h).
pub(super) const ARM_PRIVATE: u32 = 0xf_0000;

/// The numbers of a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers(&'static [u32; 5]);

impl Numbers {
    /// Its number, without the bit of x32; None if the architecture has none of that name.
    pub(super) fn on(self, abi: Abi) -> Option<u32> {
        let column = match abi {
            Abi::X86_64 => 0,
            Abi::X86 => 1,
            Abi::X32 => 2,
            Abi::Aarch64 => 3,
            Abi::Arm => 4,
        };
        Some(self.0[column]).filter(|number| *number != NONE)
    }
}

/// None if no architecture of the table has a call of this name, or it is newer than the table.
pub(super) fn numbers(name: &str) -> Option<Numbers> {
    let at = table::TABLE.binary_search_by(|(known, _)| (*known).cmp(name));
    at.ok().map(|at| Numbers(&table::TABLE[at].1))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const ALL: [Abi; 5] = [Abi::X86_64, Abi::X86, Abi::X32, Abi::Aarch64, Abi::Arm];

    #[test]
    fn names_ascend_so_that_they_are_found() {
        for (name, _) in table::TABLE {
            assert!(numbers(name).is_some(), "{name}");
        }
        assert!(numbers("no_such_call").is_none());
    }

    /// arm has two names for one call.
    #[test]
    fn no_two_names_share_a_number() {
        for abi in ALL {
            let mut seen = HashMap::new();
            for (name, _) in table::TABLE {
                let Some(number) = numbers(name).and_then(|numbers| numbers.on(abi)) else {
                    continue;
                };
                let before = seen.insert(number, *name).unwrap_or(name);
                let twins = ["arm_sync_file_range", "sync_file_range2"].contains(name);
                assert!(
                    before == *name || twins,
                    "{abi:?} {number}: {before} {name}"
                );
            }
            assert!(seen.len() > 300, "{abi:?}");
        }
    }

    /// Of man pages and headers, so that a shifted column is seen.
    #[test]
    fn numbers_are_the_kernels() {
        let known = [
            ("read", [Some(0), Some(3), Some(0), Some(63), Some(3)]),
            (
                "execve",
                [Some(59), Some(11), Some(520), Some(221), Some(11)],
            ),
            ("clone3", [Some(435); 5]),
            ("socketcall", [None, Some(102), None, None, None]),
            ("set_tls", [None, None, None, None, Some(0xf_0005)]),
        ];
        for (name, wanted) in known {
            let numbers = numbers(name).unwrap();
            assert_eq!(ALL.map(|abi| numbers.on(abi)), wanted, "{name}");
        }
        let native = super::super::Machine::NATIVE.own();
        for (name, number) in [
            ("openat2", libc::SYS_openat2),
            ("kexec_load", libc::SYS_kexec_load),
        ] {
            assert_eq!(numbers(name).unwrap().on(native), Some(number as u32));
        }
    }
}
