//! Id-mapped mounts: which map a mount gets (mount_setattr(2), MOUNT_ATTR_IDMAP).

use std::path::PathBuf;

use oci_spec::runtime::{LinuxIdMapping, Mount};
use serde::{Deserialize, Serialize};

use super::options::{Map, Recursion};
use crate::plan::user::{IdRange, outside};

/// The map of an id-mapped mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountMap {
    /// Whether the mounts below get it too.
    pub recursive: bool,
    /// Where it comes from.
    pub ids: Ids,
}

/// Where a map comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ids {
    /// Written here.
    Ranges {
        /// User ids.
        uids: Vec<IdRange>,
        /// Group ids.
        gids: Vec<IdRange>,
    },
    /// The map of a user namespace that exists.
    Namespace(PathBuf),
}

/// The map that a mount asks for; None if it asks for none. `container` is the one of its user namespace.
pub(super) fn of(
    mount: &Mount,
    option: Option<&Map>,
    container: Option<&Ids>,
) -> Result<Option<MountMap>, String> {
    let recursive = option.is_some_and(|map| map.recursion == Recursion::Tree);
    let given =
        |list: &Option<Vec<LinuxIdMapping>>| list.as_deref().map(ranges).unwrap_or_default();
    let (uids, gids) = (given(mount.uid_mappings()), given(mount.gid_mappings()));
    let written = option.and_then(|map| map.written.as_deref());
    let ids = match (uids.is_empty(), gids.is_empty(), written) {
        (false, false, None) => Ids::Ranges { uids, gids },
        (true, true, Some(text)) => read(text, container)?,
        (true, true, None) if option.is_none() => return Ok(None),
        (true, true, None) => container.cloned().ok_or(
            "an id-mapped mount needs uidMappings and gidMappings of its own, or a user namespace with its own map",
        )?,
        (_, _, Some(_)) => return Err("its map is given twice".into()),
        _ => return Err("uidMappings and gidMappings must be given together".into()),
    };
    Ok(Some(MountMap { recursive, ids }))
}

/// The ranges of a list in the OCI text's form.
fn ranges(list: &[LinuxIdMapping]) -> Vec<IdRange> {
    let range = |mapping: &LinuxIdMapping| IdRange {
        inside: mapping.container_id(),
        outside: mapping.host_id(),
        count: mapping.size(),
    };
    list.iter().map(range).collect()
}

/// `uids=0-1-10#10-11-10;gids=0-100-10`; a list that begins with `@` counts in the container's ids.
fn read(text: &str, container: Option<&Ids>) -> Result<Ids, String> {
    let (mut uids, mut gids) = (Vec::new(), Vec::new());
    for list in text.split(';') {
        let (into, relative_to): (&mut Vec<IdRange>, _) = match list.split_once('=') {
            Some(("uids", ranges)) => (&mut uids, (ranges, 0)),
            Some(("gids", ranges)) => (&mut gids, (ranges, 1)),
            _ => return Err(format!("`{list}` is neither uids=... nor gids=...")),
        };
        let (ranges, which) = relative_to;
        let (ranges, relative) = match ranges.strip_prefix('@') {
            Some(ranges) => (ranges, true),
            None => (ranges, false),
        };
        for range in ranges.split('#') {
            let mut range = triple(range).ok_or(format!("`{range}` is not FIRST-FIRST-COUNT"))?;
            if relative {
                range.outside = of_host(container, which, range.outside)?;
            }
            into.push(range);
        }
    }
    if uids.is_empty() || gids.is_empty() {
        return Err("both uids and gids must be mapped".into());
    }
    Ok(Ids::Ranges { uids, gids })
}

fn triple(text: &str) -> Option<IdRange> {
    let mut numbers = text.split('-').map(|number| number.parse().ok());
    let range = IdRange {
        inside: numbers.next()??,
        outside: numbers.next()??,
        count: numbers.next()??,
    };
    numbers.next().is_none().then_some(range)
}

/// The host's id of one of the container's.
fn of_host(container: Option<&Ids>, which: usize, id: u32) -> Result<u32, String> {
    let Some(Ids::Ranges { uids, gids }) = container else {
        return Err("`@` needs a user namespace whose map is in the spec".into());
    };
    outside([uids, gids][which], id).ok_or(format!("the container's user namespace has no id {id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(inside: u32, outside: u32, count: u32) -> IdRange {
        IdRange {
            inside,
            outside,
            count,
        }
    }

    fn mount(uids: bool, gids: bool) -> Mount {
        let mapping = serde_json::json!([{"containerID": 0, "hostID": 7, "size": 3}]);
        let mut mount = serde_json::json!({"destination": "/x"});
        if uids {
            mount["uidMappings"] = mapping.clone();
        }
        if gids {
            mount["gidMappings"] = mapping;
        }
        serde_json::from_value(mount).unwrap()
    }

    fn option(written: Option<&str>) -> Map {
        Map {
            recursion: Recursion::Tree,
            written: written.map(str::to_owned),
        }
    }

    #[test]
    fn a_map_is_the_mount_s_own_or_the_container_s() {
        let own = Ids::Ranges {
            uids: vec![range(0, 7, 3)],
            gids: vec![range(0, 7, 3)],
        };
        let container = Ids::Namespace("/run/user".into());
        let found = of(&mount(true, true), Some(&option(None)), Some(&container));
        assert_eq!(found.unwrap().unwrap().ids, own);
        let found = of(&mount(true, true), None, None).unwrap().unwrap();
        assert_eq!((found.ids, found.recursive), (own, false));
        let found = of(&mount(false, false), Some(&option(None)), Some(&container));
        assert_eq!(found.unwrap().unwrap().ids, container);
        assert_eq!(of(&mount(false, false), None, Some(&container)), Ok(None));
        let refused = of(&mount(false, false), Some(&option(None)), None);
        assert!(refused.unwrap_err().contains("user namespace"));
        let refused = of(&mount(true, false), None, None);
        assert!(refused.unwrap_err().contains("together"));
    }

    #[test]
    fn a_map_can_be_written_into_the_option() {
        let container = Ids::Ranges {
            uids: vec![range(0, 0, 1), range(1, 2, 1000)],
            gids: vec![range(0, 50, 100)],
        };
        let text = "uids=0-1-10#10-@;gids=0-100-10";
        assert!(read(text, None).is_err());
        let read = |text: &str| read(text, Some(&container));
        let ids = read("uids=0-1-10#10-11-10;gids=@0-3-10").unwrap();
        let expected = Ids::Ranges {
            uids: vec![range(0, 1, 10), range(10, 11, 10)],
            gids: vec![range(0, 53, 10)],
        };
        assert_eq!(ids, expected);
        for bad in [
            "",
            "uids=0-1-1",
            "uids=0-1;gids=0-1-1",
            "uids=0-1-1-1;gids=0-1-1",
            "uids=@0-5000-1;gids=0-1-1",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
