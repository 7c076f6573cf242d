//! The user namespace that a container makes, and what becomes of host ids in it.
//!
//! Source: user_namespaces(7). Whoever has no privilege on the host may map one id, their own, by themselves and
//! more only through newuidmap(1), and may not change groups unless those were mapped by newgidmap(1).

use std::fmt;

use oci_spec::runtime::{Linux, LinuxIdMapping};
use serde::{Deserialize, Serialize};

use super::facts::HostFacts;
use super::step::Step;
use crate::StepError;

/// Lines that the kernel takes in one map.
const LINES_MAX: usize = 340;

/// One line of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first id in the container.
    pub inside: u32,
    /// The first id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// A new user namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// `uid_map`
    pub uids: Vec<IdRange>,
    /// `gid_map`
    pub gids: Vec<IdRange>,
    /// Who writes the maps, and whether groups can be changed afterwards.
    pub mapper: Mapper,
    /// Whether the stage is cloned into it, and not only init: making a time namespace needs a privilege that
    /// this runtime has nowhere else.
    pub of_stage: bool,
    /// What the parent does to init because the namespace has no right to: OOM score, limits.
    pub by_parent: Vec<Step>,
}

/// Who writes the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mapper {
    /// This runtime, privileged.
    Privileged,
    /// This runtime maps its own ids and nothing else; setgroups(2) is denied for ever.
    OwnIds,
    /// newuidmap(1) and newgidmap(1).
    Helpers,
}

impl UserNamespace {
    pub(super) fn of(linux: &Linux, host: &HostFacts) -> Result<UserNamespace, StepError> {
        let uids = ranges(
            "linux.uidMappings",
            linux.uid_mappings().as_deref(),
            host.privileged,
            host.uid,
        )?;
        let gids = ranges(
            "linux.gidMappings",
            linux.gid_mappings().as_deref(),
            host.privileged,
            host.gid,
        )?;
        let own = |ranges: &[IdRange], id: u32| matches!(ranges, [only] if only.count == 1 && only.outside == id);
        let mapper = match (
            host.privileged,
            own(&uids, host.uid) && own(&gids, host.gid),
        ) {
            (true, _) => Mapper::Privileged,
            (false, true) => Mapper::OwnIds,
            (false, false) => Mapper::Helpers,
        };
        Ok(UserNamespace {
            uids,
            gids,
            mapper,
            of_stage: false,
            by_parent: Vec::new(),
        })
    }

    /// Refuses a user of the process that is nobody here.
    pub(super) fn check_user(&self, uid: u32, gid: u32, groups: &[u32]) -> Result<(), StepError> {
        let unmapped = |what: &str, id: u32| {
            let cause =
                "it has no mapping in the container's user namespace; map it, or choose another";
            StepError::refused(&format!("plan {what}"), id, cause)
        };
        outside(&self.uids, uid).ok_or_else(|| unmapped("user", uid))?;
        for gid in std::iter::once(&gid).chain(groups) {
            outside(&self.gids, *gid).ok_or_else(|| unmapped("group", *gid))?;
        }
        if self.mapper == Mapper::OwnIds && !groups.is_empty() {
            let cause = "without privilege and without newgidmap(1) groups cannot be set; remove additionalGids";
            return Err(StepError::refused(
                "plan groups",
                format!("{groups:?}"),
                cause,
            ));
        }
        Ok(())
    }
}

/// The id outside that an id inside stands for.
pub fn outside(ranges: &[IdRange], inside: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let offset = inside.checked_sub(range.inside)?;
        (offset < range.count).then(|| range.outside + offset)
    })
}

fn ranges(
    name: &str,
    given: Option<&[LinuxIdMapping]>,
    privileged: bool,
    own: u32,
) -> Result<Vec<IdRange>, StepError> {
    let refused = |cause: &str| Err(StepError::refused("plan user namespace", name, cause));
    let ranges: Vec<IdRange> = given
        .unwrap_or_default()
        .iter()
        .map(|mapping| IdRange {
            inside: mapping.container_id(),
            outside: mapping.host_id(),
            count: mapping.size(),
        })
        .collect();
    match ranges.len() {
        // A user's own container: root inside is the user outside.
        0 if !privileged => {
            return Ok(vec![IdRange {
                inside: 0,
                outside: own,
                count: 1,
            }]);
        }
        0 => {
            return refused(
                "a new user namespace needs a mapping; add one, such as 0 from 100000, 65536 ids",
            );
        }
        1..=LINES_MAX => {}
        _ => return refused("the kernel takes at most 340 ranges"),
    }
    if ranges.iter().any(|range| range.count == 0) {
        return refused("a range of size 0 maps nothing");
    }
    if overlap(&ranges, |range| range.inside) {
        return refused("ranges overlap inside, or end above 2^32");
    }
    if overlap(&ranges, |range| range.outside) {
        return refused("ranges overlap outside, or end above 2^32");
    }
    Ok(ranges)
}

/// Sorted by their first id, each range has to end before the next one begins, and the last before the id -1.
fn overlap(ranges: &[IdRange], first: impl Fn(&IdRange) -> u32) -> bool {
    let mut spans: Vec<(u32, u32)> = ranges
        .iter()
        .map(|range| (first(range), range.count))
        .collect();
    spans.sort_unstable();
    let next = spans.iter().skip(1).map(|span| span.0).chain([u32::MAX]);
    let beyond =
        |(span, next): (&(u32, u32), u32)| span.0.checked_add(span.1).is_none_or(|end| end > next);
    spans.iter().zip(next).any(beyond)
}

impl fmt::Display for UserNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, ranges) in [("uids", &self.uids), ("gids", &self.gids)] {
            write!(f, "{name}")?;
            for IdRange {
                inside,
                outside,
                count,
            } in ranges
            {
                write!(f, " {inside}={outside}+{count}")?;
            }
            write!(f, ", ")?;
        }
        f.write_str(match self.mapper {
            Mapper::Privileged => "written by privilege",
            Mapper::OwnIds => "own ids, no setgroups",
            Mapper::Helpers => "written by newuidmap and newgidmap",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn host(privileged: bool) -> HostFacts {
        HostFacts {
            bounding: Vec::new(),
            supported: Vec::new(),
            v1_hierarchies: Vec::new(),
            apparmor: false,
            selinux: false,
            privileged,
            initial_user_namespace: true,
            old_mount_calls: false,
            uid: 1000,
            gid: 1001,
        }
    }

    fn mapping(inside: u32, outside: u32, count: u32) -> Value {
        json!({"containerID": inside, "hostID": outside, "size": count})
    }

    fn namespace(maps: &[Value], privileged: bool) -> Result<UserNamespace, StepError> {
        let linux = json!({"uidMappings": maps, "gidMappings": maps});
        UserNamespace::of(&serde_json::from_value(linux).unwrap(), &host(privileged))
    }

    #[test]
    fn maps_that_the_kernel_would_refuse_are_refused_with_a_reason() {
        let cause = |maps: &[Value]| namespace(maps, true).unwrap_err().cause;
        assert!(cause(&[]).contains("needs a mapping"));
        assert!(cause(&[mapping(0, 5, 0)]).contains("size 0"));
        assert!(cause(&[mapping(0, 100, 10), mapping(9, 200, 1)]).contains("overlap inside"));
        assert!(cause(&[mapping(19, 109, 1), mapping(0, 100, 10)]).contains("overlap outside"));
        assert!(cause(&[mapping(0, u32::MAX, 2)]).contains("outside, or end above"));
        assert!(cause(&vec![mapping(0, 0, 1); 341]).contains("340"));
        assert!(namespace(&[mapping(10, 200, 5), mapping(0, 100, 10)], true).is_ok());
    }

    #[test]
    fn a_user_maps_their_own_ids_or_asks_the_helpers() {
        let own = namespace(&[], false).unwrap();
        assert_eq!(
            own.to_string(),
            "uids 0=1000+1, gids 0=1001+1, own ids, no setgroups"
        );
        assert!(own.check_user(0, 0, &[]).is_ok());
        assert!(
            own.check_user(0, 0, &[0])
                .unwrap_err()
                .cause
                .contains("newgidmap")
        );
        let sub = namespace(&[mapping(0, 1000, 1), mapping(1, 100_000, 9)], false).unwrap();
        assert_eq!(sub.mapper, Mapper::Helpers);
        assert!(sub.check_user(9, 0, &[9]).is_ok());
        assert!(
            sub.check_user(10, 0, &[])
                .unwrap_err()
                .cause
                .contains("no mapping")
        );
        assert!(
            sub.check_user(0, 0, &[10])
                .unwrap_err()
                .cause
                .contains("no mapping")
        );
    }

    proptest! {
        #[test]
        fn accepted_maps_are_one_to_one(lines in proptest::collection::vec((0u32..40, 0u32..40, 0u32..9), 1..6)) {
            let maps: Vec<Value> = lines.iter().map(|(i, o, l)| mapping(*i, *o, *l)).collect();
            if let Ok(user) = namespace(&maps, true) {
                let mut seen: Vec<u32> = (0..50).filter_map(|id| outside(&user.uids, id)).collect();
                let all = seen.len();
                seen.sort_unstable();
                seen.dedup();
                prop_assert_eq!(seen.len(), all);
            }
        }
    }
}
