//! The mount options of the OCI text, once, as data; what is not in the table belongs to the file system.
//!
//! Source: runtime-spec config.md "Linux mount options", mount(8), mount_setattr(2). `copy-symlink`, `src-nofollow`
//! and `dest-nofollow`, and a map within `idmap=` are crun's, which podman uses.

use libc::{
    MOUNT_ATTR__ATIME as ATIME, MOUNT_ATTR_NOATIME as NOATIME, MOUNT_ATTR_NODEV as NODEV,
    MOUNT_ATTR_NODIRATIME as NODIRATIME, MOUNT_ATTR_NOEXEC as NOEXEC, MOUNT_ATTR_NOSUID as NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW as NOSYMFOLLOW, MOUNT_ATTR_RDONLY as RDONLY,
    MOUNT_ATTR_STRICTATIME as STRICTATIME,
};

use super::flags::{MountFlags, Spread};

/// What an option does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// Attributes of the mount: (set, clear).
    Flags(u64, u64),
    /// Attributes of the mount and of those below it: (set, clear).
    Tree(u64, u64),
    /// A flag of the superblock, which fsconfig(2) takes by name.
    Superblock,
    Bind(Recursion),
    Propagation,
    Remount,
    CopyUp,
    Map(Recursion),
    CopySymlink,
    NoFollowSource,
    NoFollowDestination,
    /// It asks for what is so anyway, or for less talk of the kernel.
    Nothing,
}

/// Whether the mounts below a directory are meant too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Recursion {
    One,
    Tree,
}

/// Any atime mode clears the whole atime field: the kernel refuses half of it. Without a mode the kernel's is
/// relatime, so that is what each `no` leads to.
const TABLE: [(&str, Effect); 65] = [
    ("async", Effect::Superblock),
    ("atime", Effect::Flags(0, ATIME)),
    ("bind", Effect::Bind(Recursion::One)),
    ("copy-symlink", Effect::CopySymlink),
    ("defaults", Effect::Nothing),
    ("dest-nofollow", Effect::NoFollowDestination),
    ("dev", Effect::Flags(0, NODEV)),
    ("diratime", Effect::Flags(0, NODIRATIME)),
    ("dirsync", Effect::Superblock),
    ("exec", Effect::Flags(0, NOEXEC)),
    ("idmap", Effect::Map(Recursion::One)),
    ("iversion", Effect::Superblock),
    ("lazytime", Effect::Superblock),
    ("loud", Effect::Nothing),
    ("mand", Effect::Superblock),
    ("noatime", Effect::Flags(NOATIME, ATIME)),
    ("nodev", Effect::Flags(NODEV, 0)),
    ("nodiratime", Effect::Flags(NODIRATIME, 0)),
    ("noexec", Effect::Flags(NOEXEC, 0)),
    ("noiversion", Effect::Nothing),
    ("nolazytime", Effect::Superblock),
    ("nomand", Effect::Superblock),
    ("norelatime", Effect::Flags(0, ATIME)),
    ("nostrictatime", Effect::Flags(0, ATIME)),
    ("nosuid", Effect::Flags(NOSUID, 0)),
    ("nosymfollow", Effect::Flags(NOSYMFOLLOW, 0)),
    ("private", Effect::Propagation),
    ("ratime", Effect::Tree(0, ATIME)),
    ("rbind", Effect::Bind(Recursion::Tree)),
    ("rdev", Effect::Tree(0, NODEV)),
    ("rdiratime", Effect::Tree(0, NODIRATIME)),
    ("relatime", Effect::Flags(0, ATIME)),
    ("remount", Effect::Remount),
    ("rexec", Effect::Tree(0, NOEXEC)),
    ("ridmap", Effect::Map(Recursion::Tree)),
    ("rnoatime", Effect::Tree(NOATIME, ATIME)),
    ("rnodev", Effect::Tree(NODEV, 0)),
    ("rnodiratime", Effect::Tree(NODIRATIME, 0)),
    ("rnoexec", Effect::Tree(NOEXEC, 0)),
    ("rnorelatime", Effect::Tree(0, ATIME)),
    ("rnostrictatime", Effect::Tree(0, ATIME)),
    ("rnosuid", Effect::Tree(NOSUID, 0)),
    ("rnosymfollow", Effect::Tree(NOSYMFOLLOW, 0)),
    ("ro", Effect::Flags(RDONLY, 0)),
    ("rprivate", Effect::Propagation),
    ("rrelatime", Effect::Tree(0, ATIME)),
    ("rro", Effect::Tree(RDONLY, 0)),
    ("rrw", Effect::Tree(0, RDONLY)),
    ("rshared", Effect::Propagation),
    ("rslave", Effect::Propagation),
    ("rstrictatime", Effect::Tree(STRICTATIME, ATIME)),
    ("rsuid", Effect::Tree(0, NOSUID)),
    ("rsymfollow", Effect::Tree(0, NOSYMFOLLOW)),
    ("runbindable", Effect::Propagation),
    ("rw", Effect::Flags(0, RDONLY)),
    ("shared", Effect::Propagation),
    ("silent", Effect::Nothing),
    ("slave", Effect::Propagation),
    ("src-nofollow", Effect::NoFollowSource),
    ("strictatime", Effect::Flags(STRICTATIME, ATIME)),
    ("suid", Effect::Flags(0, NOSUID)),
    ("symfollow", Effect::Flags(0, NOSYMFOLLOW)),
    ("sync", Effect::Superblock),
    ("tmpcopyup", Effect::CopyUp),
    ("unbindable", Effect::Propagation),
];

/// The names of all options that mean something to the runtime itself, for `features`.
pub fn mount_options() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(name, _)| *name)
}

/// What a list of options means.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// Of the mount itself.
    pub(super) flags: MountFlags,
    /// Of the mount and of those below it, before `flags`.
    pub(super) tree: MountFlags,
    pub(super) propagation: Option<Spread>,
    pub(super) bind: Option<Recursion>,
    pub(super) map: Option<Map>,
    pub(super) remount: bool,
    pub(super) copy_up: bool,
    pub(super) copy_symlink: bool,
    pub(super) no_follow_source: bool,
    pub(super) no_follow_destination: bool,
    /// Parameters of the superblock.
    pub(super) data: Vec<(String, Option<String>)>,
}

/// `idmap`, `ridmap`, and the map where one is written behind it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Map {
    pub(super) recursion: Recursion,
    pub(super) written: Option<String>,
}

impl Options {
    /// Later options win over earlier ones, as in mount(8).
    pub(super) fn parse(options: &[String]) -> Options {
        let mut parsed = Options::default();
        for option in options {
            parsed.add(option);
        }
        parsed
    }

    fn add(&mut self, option: &str) {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        let effect = TABLE
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, effect)| *effect)
            .filter(|effect| value.is_none() || matches!(effect, Effect::Map(_)));
        match effect {
            Some(Effect::Flags(set, clear)) => self.flags.change(set, clear),
            Some(Effect::Tree(set, clear)) => {
                self.tree.change(set, clear);
                self.flags.change(set, clear);
            }
            Some(Effect::Bind(recursion)) => self.bind = self.bind.max(Some(recursion)),
            Some(Effect::Propagation) => self.propagation = Spread::named(name),
            Some(Effect::Map(recursion)) => {
                let written = value.map(str::to_owned);
                self.map = Some(Map { recursion, written });
            }
            Some(Effect::Remount) => self.remount = true,
            Some(Effect::CopyUp) => self.copy_up = true,
            Some(Effect::CopySymlink) => self.copy_symlink = true,
            Some(Effect::NoFollowSource) => self.no_follow_source = true,
            Some(Effect::NoFollowDestination) => self.no_follow_destination = true,
            Some(Effect::Nothing) => {}
            Some(Effect::Superblock) | None => {
                self.data.push((name.to_owned(), value.map(str::to_owned)));
            }
        }
    }

    /// The parameters that are no flag of every superblock: they mean nothing without a file system of one's own.
    pub(super) fn foreign(&self) -> impl Iterator<Item = &str> {
        let known = |name: &str| TABLE.iter().any(|(known, _)| *known == name);
        let names = self.data.iter().map(|(name, _)| name.as_str());
        names.filter(move |name| !known(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Options {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        Options::parse(&options)
    }

    #[test]
    fn later_options_win_and_atime_is_cleared_as_a_whole() {
        let flags = |options: &[&str]| parse(options).flags;
        assert_eq!(flags(&["ro", "rw"]).to_string(), "rw");
        assert_eq!(flags(&["rw", "ro", "nosuid"]).to_string(), "ro,nosuid");
        let atime = flags(&["noatime", "strictatime"]);
        assert_eq!(atime.to_string(), "rw,strictatime");
        assert_eq!(atime.clear, ATIME);
        for option in ["relatime", "norelatime", "nostrictatime", "atime"] {
            let flags = flags(&["strictatime", option]);
            assert_eq!((flags.set, flags.clear), (0, ATIME), "{option}");
        }
    }

    /// Each recursive attribute is its plain one, for the tree and for the mount itself.
    #[test]
    fn recursive_attributes_are_the_plain_ones_for_a_tree() {
        let mut seen = 0;
        for (name, effect) in TABLE {
            let Effect::Tree(set, clear) = effect else {
                continue;
            };
            let plain = &name[1..];
            assert_eq!(parse(&[plain]).flags, parse(&[name]).flags, "{name}");
            assert_eq!(parse(&[plain]).tree, MountFlags::default(), "{name}");
            assert_eq!(parse(&[name]).tree, MountFlags { set, clear }, "{name}");
            seen += 1;
        }
        assert_eq!(seen, 18);
        let mixed = parse(&["rro", "rw"]);
        assert!(mixed.tree.read_only() && !mixed.flags.read_only());
    }

    #[test]
    fn what_is_unknown_belongs_to_the_file_system() {
        let parsed = parse(&["size=64k", "sync", "huge", "ro=1", "upperdir=/a=b"]);
        let pair = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
        let expected = [
            pair("size", Some("64k")),
            pair("sync", None),
            pair("huge", None),
            pair("ro", Some("1")),
            pair("upperdir", Some("/a=b")),
        ];
        assert_eq!(parsed.data, expected);
        assert_eq!(parsed.flags, MountFlags::default());
        let bound = parse(&["bind", "sync", "z"]);
        assert_eq!(bound.foreign().collect::<Vec<_>>(), ["z"]);
    }

    #[test]
    fn eight_spellings_of_propagation_and_one_tree_of_two_binds() {
        for name in [
            "private",
            "rprivate",
            "slave",
            "rslave",
            "shared",
            "rshared",
            "unbindable",
            "runbindable",
        ] {
            assert_eq!(parse(&[name]).propagation.unwrap().to_string(), name);
        }
        assert_eq!(parse(&["rbind", "bind"]).bind, Some(Recursion::Tree));
        let map = parse(&["bind", "idmap=uids=0-1-10;gids=0-1-10"])
            .map
            .unwrap();
        assert_eq!(map.written.as_deref(), Some("uids=0-1-10;gids=0-1-10"));
    }

    /// The OCI text's table, whose MUST and SHOULD are all there, each once.
    #[test]
    fn the_table_holds_the_oci_text_s_options() {
        let text = "async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev \
            nodiratime noexec noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime \
            rbind rdev rdiratime relatime remount rexec rnoatime rnodiratime rnoexec rnorelatime rnostrictatime \
            rnosuid rnosymfollow ro rprivate rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow \
            runbindable rw shared silent slave strictatime suid symfollow sync tmpcopyup unbindable idmap ridmap";
        let names: Vec<&str> = mount_options().collect();
        for option in text.split_whitespace() {
            assert!(names.contains(&option), "{option}");
        }
        assert!(names.is_sorted(), "and each stands there once");
        assert_eq!(
            names.len(),
            names
                .iter()
                .collect::<std::collections::BTreeSet<_>>()
                .len()
        );
    }
}
