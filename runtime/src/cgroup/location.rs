//! Where a container's cgroup is, by the driver and `linux.cgroupsPath`: a pure reading.
//!
//! | driver   | `cgroupsPath`                  | the group |
//! |----------|--------------------------------|-----------|
//! | cgroupfs | absolute or relative           | that path from the roots of the hierarchies; rootless, a relative one stands beside the caller's own group |
//! | cgroupfs | none                           | `longshore.ID`: one component, so that nothing but it is made and removed |
//! | systemd  | `SLICE:PREFIX:NAME`            | the scope `PREFIX-NAME.scope` in `SLICE` (`NAME` alone if it ends in `.slice` or `PREFIX` is empty) |
//! | systemd  | none                           | `longshore-ID.scope` in `system.slice`, for a user in `user.slice` |
//! | disabled | any                            | none: the container stays where its runtime is |

use std::fmt;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use super::directory::refused;
use crate::StepError;

const STEP: &str = "name cgroup";

/// Who makes the groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// This runtime, by mkdir(2).
    #[default]
    Cgroupfs,
    /// systemd, asked over D-Bus for a transient scope.
    Systemd,
    /// Nobody: there is no group for the container.
    Disabled,
}

impl std::str::FromStr for Driver {
    type Err = StepError;

    fn from_str(text: &str) -> Result<Driver, StepError> {
        match text {
            "cgroupfs" => Ok(Driver::Cgroupfs),
            "systemd" => Ok(Driver::Systemd),
            "disabled" => Ok(Driver::Disabled),
            _ => Err(refused(
                "choose cgroup driver",
                format!("{text:?}"),
                "it is none of cgroupfs, systemd and disabled",
            )),
        }
    }
}

/// Where a container's group is. It is recorded before the group is made and is all that is needed to find
/// and remove it later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Location {
    /// A directory.
    Path {
        /// Relative to the hierarchies' roots; without `.`, `..` and empty components.
        path: String,
        /// Nobody asked for this group: where the host does not let a user make it, the container goes
        /// without, as long as it asks for no limits.
        optional: bool,
    },
    /// A unit of systemd.
    Unit(Unit),
    /// No group.
    Disabled,
}

/// A transient unit of systemd and the slice it stands in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// `machine.slice`, `user-1000.slice`, or `-.slice` for the root.
    pub slice: String,
    /// `PREFIX-NAME.scope`, or `NAME.slice`.
    pub name: String,
    /// It belongs to the user's own systemd and not to the system's.
    pub user: bool,
}

/// What decides about a location besides the spec.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The driver asked for.
    pub driver: Driver,
    /// The container's id.
    pub id: &'a str,
    /// The caller has no privilege on the host.
    pub rootless: bool,
    /// The caller's own v2 group as /proc/self/cgroup tells it (`/user.slice/x`); empty if unknown.
    pub own_group: &'a str,
}

impl Location {
    /// Reads `cgroupsPath`.
    pub fn of(
        cgroups_path: Option<&Path>,
        surroundings: &Surroundings<'_>,
    ) -> Result<Location, StepError> {
        let text = match cgroups_path {
            None => "",
            Some(path) => path
                .to_str()
                .ok_or_else(|| refused(STEP, path.display(), "it must be UTF-8"))?,
        };
        match surroundings.driver {
            Driver::Disabled => Ok(Location::Disabled),
            Driver::Systemd => unit(text, surroundings).map(Location::Unit),
            Driver::Cgroupfs => directory(text, surroundings),
        }
    }

    /// The path of the group from the hierarchies' roots, where a directory was asked for.
    pub fn path(&self) -> Result<&str, StepError> {
        match self {
            Location::Path { path, .. } => Ok(path),
            other => Err(refused(
                STEP,
                other,
                "a cgroup of the cgroupfs driver is needed here",
            )),
        }
    }
}

/// As a plan shows it.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Path { path, .. } => write!(f, "{path}"),
            Location::Unit(unit) => write!(f, "{}:{} (systemd)", unit.slice, unit.name),
            Location::Disabled => write!(f, "none (disabled)"),
        }
    }
}

fn directory(text: &str, surroundings: &Surroundings<'_>) -> Result<Location, StepError> {
    if text.is_empty() {
        let own = format!("longshore.{}", surroundings.id);
        return Ok(Location::Path {
            path: beside_own(&own, surroundings),
            optional: surroundings.rootless,
        });
    }
    let mut parts = Vec::new();
    for component in Path::new(text).components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(part) => parts.extend(part.to_str()),
            Component::ParentDir | Component::Prefix(_) => {
                let cause =
                    "it must not have `..`: no container's group is outside of the path it names";
                return Err(refused(STEP, format!("{text:?}"), cause));
            }
        }
    }
    if parts.is_empty() {
        let cause = "it names the root of the hierarchies; name a group below it";
        return Err(refused(STEP, format!("{text:?}"), cause));
    }
    let path = parts.join("/");
    Ok(Location::Path {
        path: match text.starts_with('/') {
            true => path,
            false => beside_own(&path, surroundings),
        },
        optional: false,
    })
}

/// A user may make groups only below one that is delegated to them. Their own group holds processes, so on
/// v2 nothing can be below it: beside it is the nearest place.
fn beside_own(path: &str, surroundings: &Surroundings<'_>) -> String {
    let above = surroundings.own_group.rsplit_once('/');
    match above.map(|(above, _)| above.trim_matches('/')) {
        Some(above) if surroundings.rootless && !above.is_empty() => format!("{above}/{path}"),
        _ => path.to_owned(),
    }
}

fn unit(text: &str, surroundings: &Surroundings<'_>) -> Result<Unit, StepError> {
    let user = surroundings.rootless;
    let parts: Vec<&str> = text.split(':').collect();
    let (slice, prefix, name) = match parts[..] {
        [""] => ("", "longshore", surroundings.id),
        [slice, prefix, name] => (slice, prefix, name),
        _ => {
            let cause = "with the systemd driver it must have the form SLICE:PREFIX:NAME";
            return Err(refused(STEP, format!("{text:?}"), cause));
        }
    };
    let slice = match (slice, user) {
        ("", false) => "system.slice",
        ("", true) => "user.slice",
        (slice, _) => slice,
    };
    let name = if name.ends_with(".slice") {
        name.to_owned()
    } else if prefix.is_empty() {
        format!("{name}.scope")
    } else {
        format!("{prefix}-{name}.scope")
    };
    check_unit_name(slice)?;
    check_unit_name(&name)?;
    slice_path(slice)?;
    Ok(Unit {
        slice: slice.to_owned(),
        name,
        user,
    })
}

impl Unit {
    /// The group's path below the group of its systemd, as systemd lays units out (systemd.slice(5)).
    pub fn path(&self) -> Result<String, StepError> {
        let above = slice_path(&self.slice)?;
        let name = match self.name.ends_with(".slice") {
            true => return slice_path(&self.name),
            false => &self.name,
        };
        Ok(match above.as_str() {
            "" => name.clone(),
            above => format!("{above}/{name}"),
        })
    }
}

/// systemd.unit(5): at most 255 characters, of these ones; a name is never a path.
fn check_unit_name(name: &str) -> Result<(), StepError> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    if name.len() <= 255 && !name.starts_with('.') && name.bytes().all(valid) {
        return Ok(());
    }
    let cause = "systemd takes unit names of at most 255 of A-Z a-z 0-9 : - _ . \\ @";
    Err(refused(STEP, format!("{name:?}"), cause))
}

/// `a-b.slice` stands in `a.slice`: its path is `a.slice/a-b.slice`. `-.slice` is the root.
fn slice_path(slice: &str) -> Result<String, StepError> {
    let refuse = || {
        refused(
            STEP,
            format!("{slice:?}"),
            "a slice is named `A.slice` or `A-B.slice`, without empty parts",
        )
    };
    let stem = slice.strip_suffix(".slice").ok_or_else(refuse)?;
    if stem == "-" {
        return Ok(String::new());
    }
    let mut path = String::new();
    let mut name = String::new();
    for part in stem.split('-') {
        if part.is_empty() {
            return Err(refuse());
        }
        if !name.is_empty() {
            name.push('-');
            path.push('/');
        }
        name.push_str(part);
        path.push_str(&name);
        path.push_str(".slice");
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(driver: Driver, path: Option<&str>, rootless: bool) -> Result<Location, StepError> {
        let surroundings = Surroundings {
            driver,
            id: "web",
            rootless,
            own_group: "/user.slice/user-7.slice/session.scope",
        };
        Location::of(path.map(Path::new), &surroundings)
    }

    fn path(given: Option<&str>, rootless: bool) -> String {
        read(Driver::Cgroupfs, given, rootless)
            .unwrap()
            .path()
            .unwrap()
            .to_owned()
    }

    #[test]
    fn a_path_is_read_from_the_roots() {
        assert_eq!(path(Some("/a/b"), false), "a/b");
        assert_eq!(path(Some("a/b"), false), "a/b");
        assert_eq!(path(Some("//a/./b/"), false), "a/b");
        assert_eq!(path(None, false), "longshore.web");
        assert_eq!(path(Some(""), false), "longshore.web");
    }

    #[test]
    fn a_user_s_relative_path_stands_beside_their_own_group() {
        let beside = "user.slice/user-7.slice";
        assert_eq!(path(Some("a"), true), format!("{beside}/a"));
        assert_eq!(path(Some("/a"), true), "a");
        let default = read(Driver::Cgroupfs, None, true).unwrap();
        assert_eq!(
            default,
            Location::Path {
                path: format!("{beside}/longshore.web"),
                optional: true
            }
        );
    }

    #[test]
    fn a_path_that_leaves_its_place_is_refused() {
        for bad in ["..", "/../a", "a/../../b", "a/..", "/", "."] {
            assert!(read(Driver::Cgroupfs, Some(bad), false).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn units_are_named_as_systemd_s_callers_name_them() {
        let cases = [
            (
                Some("machine.slice:libpod:1f"),
                "machine.slice/libpod-1f.scope",
            ),
            (Some("a-b.slice:cri:x"), "a.slice/a-b.slice/cri-x.scope"),
            (Some(":p:x"), "system.slice/p-x.scope"),
            (Some("a.slice::x"), "a.slice/x.scope"),
            (Some("-.slice:p:x"), "p-x.scope"),
            (Some("a.slice:p:a-b.slice"), "a.slice/a-b.slice"),
            (None, "system.slice/longshore-web.scope"),
        ];
        for (given, wanted) in cases {
            let Ok(Location::Unit(unit)) = read(Driver::Systemd, given, false) else {
                panic!("{given:?}");
            };
            assert_eq!(unit.path().unwrap(), wanted);
            assert!(!unit.user);
        }
    }

    #[test]
    fn what_is_no_unit_is_refused() {
        for bad in [
            "/a/b",
            "a.slice:b",
            "a:b:c",
            "a.slice:../b:c",
            "a.slice:b:c/d",
            "a--b.slice:p:x",
            "a.slice:p:x:y",
            "/a.slice:p:x",
        ] {
            assert!(read(Driver::Systemd, Some(bad), false).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn disabled_asks_for_nothing() {
        assert_eq!(
            read(Driver::Disabled, Some("../x"), false).unwrap(),
            Location::Disabled
        );
    }

    proptest! {
        #[test]
        fn no_text_leads_out_of_the_hierarchy(text in "[./a:-]{0,20}", rootless: bool) {
            if let Ok(Location::Path { path, .. }) = read(Driver::Cgroupfs, Some(&text), rootless) {
                prop_assert!(path.split('/').all(|part| !matches!(part, "" | "." | "..")));
            }
            if let Ok(Location::Unit(unit)) = read(Driver::Systemd, Some(&text), rootless) {
                prop_assert!(!unit.name.contains('/') && !unit.slice.contains('/'));
            }
        }
    }
}
