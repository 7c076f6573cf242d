//! Where the cgroup hierarchies are mounted: a pure reading of /proc/self/cgroup and of /proc/self/mountinfo (proc(5)).
//!
//! What is at a path, and which of the mounts is visible (another may lie on top of it), is not told by the texts alone; the
//! caller asks the kernel about that.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Controllers that a v1 hierarchy may hold (cgroups(7)); what else stands among its options is an option.
const CONTROLLERS: [&str; 15] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "debug",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
    "rdma",
];

/// Controllers that decide whether a host counts as v1: some hosts mount `net_cls` alone as v1 for a
/// VPN's sake, and are v2 in everything that limits.
const LIMITING: [&str; 5] = ["cpu", "cpuacct", "cpuset", "memory", "pids"];

/// A mounted cgroup file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Major and minor number of its superblock: the identity of the hierarchy.
    pub(crate) device: (u32, u32),
    /// The group that is the root of what is mounted.
    pub(crate) root: PathBuf,
    /// The mount point.
    pub(crate) point: PathBuf,
    /// What is mounted.
    pub(crate) kind: Kind,
}

/// The two versions of cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A v1 hierarchy with its controllers and, for a named one, `name=...`.
    V1(Vec<String>),
    /// The v2 hierarchy.
    V2,
}

/// Of which version a mounted hierarchy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// One of several.
    V1,
    /// The one.
    V2,
}

/// How this host limits processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Every v1 hierarchy once and, on a hybrid host, the v2 mount beside them.
    V1 {
        hierarchies: Vec<(PathBuf, Vec<String>)>,
        unified: Option<PathBuf>,
    },
    /// The v2 hierarchy.
    V2 { root: PathBuf },
}

impl Layout {
    /// Every mount point; the last one of a hybrid host is v2's.
    pub(super) fn roots(&self) -> Vec<&PathBuf> {
        match self {
            Layout::V1 {
                hierarchies,
                unified,
            } => {
                let points = hierarchies.iter().map(|(point, _)| point);
                points.chain(unified).collect()
            }
            Layout::V2 { root } => vec![root],
        }
    }
}

/// All cgroup mounts in the text, in its order. Lines that are no mountinfo lines are passed over.
pub(crate) fn parse(mountinfo: &[u8]) -> Vec<Mount> {
    mountinfo
        .split(|byte| *byte == b'\n')
        .filter_map(line)
        .collect()
}

/// Decides between v1 and v2. A hybrid host counts as v1; its v2 mount serves only for controllers that no v1
/// hierarchy has, such as hugetlb. None: nothing is mounted that can limit. `is_visible` is asked of as few as needed:
/// each hierarchy is taken where it is seen first.
pub(super) fn layout(mounts: Vec<Mount>, is_visible: impl Fn(&Mount) -> bool) -> Option<Layout> {
    let mut v1: Vec<((u32, u32), PathBuf, Vec<String>)> = Vec::new();
    let mut v2 = None;
    for mount in mounts {
        match mount.kind {
            Kind::V1(_) if v1.iter().any(|(device, ..)| *device == mount.device) => {}
            Kind::V2 if v2.is_some() => {}
            _ if !is_visible(&mount) => {}
            Kind::V1(controllers) => v1.push((mount.device, mount.point, controllers)),
            Kind::V2 => v2 = Some(mount.point),
        }
    }
    if v1.iter().any(|(_, _, controllers)| limits(controllers)) {
        let hierarchies = v1.into_iter().map(|(_, point, names)| (point, names));
        return Some(Layout::V1 {
            hierarchies: hierarchies.collect(),
            unified: v2,
        });
    }
    v2.map(|root| Layout::V2 { root })
}

fn limits(controllers: &[String]) -> bool {
    let limiting = |name: &String| LIMITING.contains(&name.as_str());
    controllers.iter().any(limiting)
}

/// The layout of a host whose hierarchies are where distributions mount them: v2 at /sys/fs/cgroup, or there a directory for
/// each v1 hierarchy that is called like its controllers, and `unified`. `own` is a text of /proc/self/cgroup; `version` tells
/// whose root is at a path. None: one of these is elsewhere. Beside v1 hierarchies v2 is looked for at `unified` alone: one that
/// somebody mounted elsewhere is for their own ends.
pub(super) fn standard(own: &[u8], version: impl Fn(&Path) -> Option<Version>) -> Option<Layout> {
    let place = Path::new("/sys/fs/cgroup");
    let mut v1 = Vec::new();
    for line in std::str::from_utf8(own).ok()?.lines() {
        let names = line.split(':').nth(1)?;
        // v2's line has none.
        if !names.is_empty() {
            let controllers: Vec<String> = names.split(',').map(str::to_owned).collect();
            v1.push((place.join(names.trim_start_matches("name=")), controllers));
        }
    }
    if !v1.iter().any(|(_, controllers)| limits(controllers)) {
        return (version(place)? == Version::V2).then(|| Layout::V2 { root: place.into() });
    }
    if !v1
        .iter()
        .all(|(point, _)| version(point) == Some(Version::V1))
    {
        return None;
    }
    let unified = place.join("unified");
    Some(Layout::V1 {
        hierarchies: v1,
        unified: (version(&unified) == Some(Version::V2)).then_some(unified),
    })
}

/// `36 35 98:0 /root /point rw,noatime master:1 - type source options`
fn line(text: &[u8]) -> Option<Mount> {
    let separator = text.windows(3).position(|bytes| bytes == b" - ")?;
    let mut source = text[separator + 3..].split(|byte| *byte == b' ');
    // First of all: most mounts are of another kind.
    let kind = kind(source.next()?, source.nth(1)?)?;
    let mut fields = text[..separator].split(|byte| *byte == b' ');
    Some(Mount {
        device: device(fields.nth(2)?)?,
        root: unescape(fields.next()?),
        point: unescape(fields.next()?),
        kind,
    })
}

fn device(text: &[u8]) -> Option<(u32, u32)> {
    let (major, minor) = std::str::from_utf8(text).ok()?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn kind(filesystem: &[u8], options: &[u8]) -> Option<Kind> {
    match filesystem {
        b"cgroup2" => Some(Kind::V2),
        b"cgroup" => Some(Kind::V1(
            std::str::from_utf8(options)
                .ok()?
                .split(',')
                .filter(|option| CONTROLLERS.contains(option) || option.starts_with("name="))
                .map(str::to_owned)
                .collect(),
        )),
        _ => None,
    }
}

/// Space, tab, newline and backslash stand as `\ooo` in mountinfo.
pub(crate) fn unescape(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        match octal(rest) {
            Some(value) => {
                bytes.push(value);
                rest = &rest[4..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsStr::from_bytes(&bytes))
}

fn octal(text: &[u8]) -> Option<u8> {
    let digits = text.strip_prefix(b"\\")?.get(..3)?;
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HYBRID: &str = "\
23 1 8:1 / / rw - ext4 /dev/root rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    fn v1(entries: &[(&str, &[&str])], unified: Option<&str>) -> Option<Layout> {
        let hierarchy = |(point, names): &(&str, &[&str])| {
            let names = names.iter().map(|name| name.to_string()).collect();
            (PathBuf::from(point), names)
        };
        Some(Layout::V1 {
            hierarchies: entries.iter().map(hierarchy).collect(),
            unified: unified.map(PathBuf::from),
        })
    }

    #[test]
    fn a_hybrid_host_counts_as_v1_with_the_joined_controllers_once() {
        assert_eq!(
            layout(parse(HYBRID.as_bytes()), |_| true),
            v1(
                &[
                    ("/sys/fs/cgroup/cpu,cpuacct", &["cpu", "cpuacct"]),
                    ("/sys/fs/cgroup/memory", &["memory"]),
                    ("/sys/fs/cgroup/systemd", &["name=systemd"]),
                ],
                Some("/sys/fs/cgroup/unified")
            )
        );
    }

    #[test]
    fn a_hierarchy_that_is_mounted_twice_counts_once() {
        let text = "\
32 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
99 31 0:29 /docker/x /elsewhere rw - cgroup cgroup rw,memory
";
        assert_eq!(
            layout(parse(text.as_bytes()), |_| true),
            v1(&[("/sys/fs/cgroup/memory", &["memory"])], None)
        );
    }

    #[test]
    fn a_pure_v2_host_is_v2() {
        let text = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 \
                    rw,nsdelegate,memory_recursiveprot\n";
        let root = PathBuf::from("/sys/fs/cgroup");
        assert_eq!(
            layout(parse(text.as_bytes()), |_| true),
            Some(Layout::V2 { root })
        );
    }

    #[test]
    fn a_v1_mount_that_limits_nothing_does_not_make_a_host_v1() {
        let text = "\
30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate
31 23 0:27 / /run/net_cls rw - cgroup net_cls rw,net_cls
32 23 0:28 / /run/elogind rw - cgroup none rw,name=elogind
";
        let root = PathBuf::from("/sys/fs/cgroup");
        assert_eq!(
            layout(parse(text.as_bytes()), |_| true),
            Some(Layout::V2 { root })
        );
    }

    #[test]
    fn a_host_without_cgroups_has_no_layout() {
        assert_eq!(
            layout(parse(b"23 1 8:1 / / rw - ext4 /dev/root rw\n"), |_| true),
            None
        );
    }

    #[test]
    fn escaped_mount_points_are_read() {
        let text = b"30 23 0:26 / /a\\040b\\134c rw - cgroup2 none rw\n";
        assert_eq!(parse(text)[0].point, PathBuf::from("/a b\\c"));
    }

    #[test]
    fn hierarchies_at_their_standard_places_are_found_by_the_names_of_their_controllers() {
        let own = b"9:name=systemd:/x\n4:memory:/\n1:cpu,cpuacct:/a:b\n0::/\n";
        let at = |path: &Path| match path.strip_prefix("/sys/fs/cgroup").ok()?.to_str()? {
            "systemd" | "memory" | "cpu,cpuacct" => Some(Version::V1),
            "unified" => Some(Version::V2),
            _ => None,
        };
        let all: [(&str, &[&str]); 3] = [
            ("/sys/fs/cgroup/systemd", &["name=systemd"]),
            ("/sys/fs/cgroup/memory", &["memory"]),
            ("/sys/fs/cgroup/cpu,cpuacct", &["cpu", "cpuacct"]),
        ];
        assert_eq!(standard(own, at), v1(&all, Some("/sys/fs/cgroup/unified")));
        let no_v2 = |path: &Path| at(path).filter(|version| *version == Version::V1);
        assert_eq!(standard(own, no_v2), v1(&all, None));
        let one_elsewhere = |path: &Path| at(path).filter(|_| !path.ends_with("memory"));
        assert_eq!(standard(own, one_elsewhere), None);
    }

    #[test]
    fn v2_is_at_its_standard_place_also_beside_a_v1_hierarchy_that_limits_nothing() {
        let root = PathBuf::from("/sys/fs/cgroup");
        let at = |path: &Path| (path == root).then_some(Version::V2);
        let v2 = Some(Layout::V2 { root: root.clone() });
        assert_eq!(standard(b"0::/init.scope\n", at), v2);
        assert_eq!(standard(b"5:net_cls:/\n1:name=elogind:/\n0::/\n", at), v2);
        assert_eq!(standard(b"0::/\n", |_| None), None);
        assert_eq!(standard(b"0::/\n", |_| Some(Version::V1)), None);
        assert_eq!(standard(b"4:memory:/\n0::/\n", at), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(layout(parse(&text), |_| true));
            drop(standard(&text, |_| Some(Version::V1)));
        }

        #[test]
        fn damaged_lines_do_not_make_the_parser_panic(cut in 0usize..600, byte: u8) {
            let mut text = HYBRID.as_bytes().to_vec();
            let at = cut % text.len();
            text[at] = byte;
            drop(layout(parse(&text), |_| true));
        }
    }
}
