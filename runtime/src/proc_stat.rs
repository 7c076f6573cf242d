//! What /proc/PID/stat tells of a process: who its parent is, which group it belongs to, whether it stands still.

use crate::kernel_text;

/// Some of the fields of proc_pid_stat(5), of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// `R`, `S`, `T`: stopped, `Z`: ended and not waited for.
    pub(crate) state: char,
    /// Pid of its parent.
    pub(crate) parent: u32,
    /// Its process group; its own pid if it leads one.
    pub(crate) group: u32,
}

impl Stat {
    /// None if there is no such process.
    pub(crate) fn of(pid: u32) -> Option<Stat> {
        let text = kernel_text::read(format!("/proc/{pid}/stat")).ok()?;
        Stat::parse(&String::from_utf8_lossy(&text))
    }

    fn parse(text: &str) -> Option<Stat> {
        // The name is in parentheses, and may have anything in it.
        let (_, rest) = text.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        Some(Stat {
            state: fields.next()?.chars().next()?,
            parent: fields.next()?.parse().ok()?,
            group: fields.next()?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_look_like_fields() {
        let stat = Stat::parse("7 (a) Z 9 9 (x) S 3 5 5 0 -1").unwrap();
        let (state, parent, group) = ('S', 3, 5);
        assert_eq!(
            stat,
            Stat {
                state,
                parent,
                group
            }
        );
        for bad in ["", "7 (a", "7 (a)", "7 (a) S x 5", "7 (a) S 3"] {
            assert!(Stat::parse(bad).is_none(), "{bad:?}");
        }
    }
}
