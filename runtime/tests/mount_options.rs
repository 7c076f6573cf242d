//! Every option of the runtime-spec's table "Linux mount options": it is accepted, and in force where that can be seen.
//!
//! The tables here are the spec's names, not the runtime's. What is absent: whether a kernel heeds a flag that it shows.

mod support;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use libc::{
    MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY,
};
use longshore_sys::{MountAttributes, mount_setattr};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use serde_json::{Value, json};
use support::{Host, Root};

/// Name; what the mount has then, and what it has not. The first part is of mounts that have none of these attributes,
/// the second of mounts that have all.
const SETTING: [(&str, &str, &str); 8] = [
    ("ro", "ro", "rw"),
    ("nosuid", "nosuid", ""),
    ("nodev", "nodev", ""),
    ("noexec", "noexec", ""),
    ("nodiratime", "nodiratime", ""),
    ("noatime", "noatime", "relatime"),
    ("strictatime", "", "relatime"),
    ("nosymfollow", "nosymfollow", ""),
];
const CLEARING: [(&str, &str, &str); 10] = [
    ("rw", "rw", "ro"),
    ("suid", "", "nosuid"),
    ("dev", "", "nodev"),
    ("exec", "", "noexec"),
    ("diratime", "", "nodiratime"),
    ("atime", "relatime", "noatime"),
    ("relatime", "relatime", "noatime"),
    ("norelatime", "relatime", "noatime"),
    ("nostrictatime", "relatime", "noatime"),
    ("symfollow", "", "nosymfollow"),
];
/// The options of a new tmpfs, what its superblock shows then, and what not.
const SUPERBLOCK: [(&[&str], &str, &str); 12] = [
    (&["async"], "", "sync"),
    (&["sync", "async"], "", "sync"),
    (&["sync"], "sync", ""),
    (&["dirsync"], "dirsync", ""),
    (&["lazytime"], "lazytime", ""),
    (&["lazytime", "nolazytime"], "", "lazytime"),
    (&["mand", "nomand"], "", "mand"),
    (&["mand"], "mand", ""),
    // No kernel shows it.
    (&["iversion"], "", ""),
    (&["noiversion"], "", ""),
    (&["defaults"], "rw", ""),
    (&["loud", "silent"], "rw", ""),
];
/// Name, and what mountinfo shows of a bind of a shared mount.
const PROPAGATION: [(&str, &str); 4] = [
    ("private", ""),
    ("slave", "master"),
    ("shared", "shared"),
    ("unbindable", "unbindable"),
];
/// Tests of their own below.
const OTHERS: [&str; 6] = ["bind", "rbind", "remount", "tmpcopyup", "idmap", "ridmap"];

/// The first column of the table, version 1.3.
const OF_THE_SPEC: &str = "async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev \
    nodiratime noexec noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime rbind rdev \
    rdiratime relatime remount rexec rnoatime rnodiratime rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow ro \
    rprivate rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow runbindable rw shared silent slave \
    strictatime suid symfollow sync tmpcopyup unbindable idmap ridmap";

#[test]
fn each_name_of_the_table_is_tried_and_told() {
    let attributes = SETTING.iter().chain(&CLEARING).map(|(name, ..)| *name);
    let mut tried: BTreeSet<String> = attributes
        .chain(PROPAGATION.iter().map(|(name, _)| *name))
        .flat_map(|name| [name.to_owned(), format!("r{name}")])
        .collect();
    let of_superblock = SUPERBLOCK.iter().flat_map(|(names, ..)| *names);
    tried.extend(of_superblock.chain(&OTHERS).map(|name| (*name).to_owned()));
    // The one that the spec has forgotten.
    assert!(tried.remove("rnodev"));
    let spec: BTreeSet<String> = OF_THE_SPEC.split_whitespace().map(str::to_owned).collect();
    assert_eq!(tried, spec);
    let features = std::process::Command::new(env!("CARGO_BIN_EXE_longshore-runtime"))
        .arg("features")
        .output()
        .unwrap();
    let features: Value = serde_json::from_slice(&features.stdout).unwrap();
    let told: BTreeSet<String> = serde_json::from_value(features["mountOptions"].clone()).unwrap();
    let untold: Vec<_> = spec.difference(&told).collect();
    assert!(untold.is_empty(), "{untold:?}");
}

fn set(place: &Path, attributes: MountAttributes) {
    let opened: OwnedFd = rustix::fs::openat(CWD, place, OFlags::PATH, Mode::empty()).unwrap();
    mount_setattr(opened.as_fd(), attributes, true).unwrap();
}

/// A tmpfs with another one at `below`, for as long as the test lasts.
struct Tree<'a>(&'a Path);

impl Tree<'_> {
    fn new(place: &Path, attributes: MountAttributes) -> Tree<'_> {
        for place in [place, &place.join("below")] {
            std::fs::create_dir_all(place).unwrap();
            mount("tmpfs", place, "tmpfs", MountFlags::empty(), c"").unwrap();
        }
        set(place, attributes);
        Tree(place)
    }

    fn bind(&self, at: &str, options: &[&str]) -> Value {
        json!({"destination": at, "source": self.0, "options": options})
    }
}

impl Drop for Tree<'_> {
    fn drop(&mut self) {
        for place in [&self.0.join("below"), self.0] {
            unmount(place, UnmountFlags::DETACH).unwrap();
        }
    }
}

/// What a container with these mounts finds in its mountinfo.
fn table(host: &Host, mounts: Vec<Value>) -> Vec<Mounted> {
    let spec = host.spec(&["/bin/cat", "/proc/self/mountinfo"], |spec| {
        spec["mounts"].as_array_mut().unwrap().extend(mounts);
    });
    let (exit, table) = host.run(&spec, Root::busybox());
    assert_eq!(exit.code, 0, "{table}");
    let line = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        let end = fields.iter().position(|field| *field == "-").unwrap();
        let words = |text: &str| text.split(',').map(str::to_owned).collect();
        let peers = fields[6..end]
            .iter()
            .map(|peer| peer.split(':').next().unwrap().to_owned());
        Mounted {
            at: fields[4].to_owned(),
            attributes: words(fields[5]),
            peers: peers.collect(),
            superblock: words(fields[end + 3]),
        }
    };
    table.lines().map(line).collect()
}

struct Mounted {
    at: String,
    attributes: Vec<String>,
    peers: Vec<String>,
    superblock: Vec<String>,
}

#[track_caller]
fn at<'a>(table: &'a [Mounted], at: &str) -> &'a Mounted {
    let found = table.iter().rev().find(|mounted| mounted.at == at);
    found.unwrap_or_else(|| panic!("nothing is mounted at {at}"))
}

#[track_caller]
fn check(what: &str, words: &[String], has: &str, lacks: &str) {
    let holds = |word: &str| words.iter().any(|one| one == word);
    assert!(
        has.is_empty() || holds(has),
        "{what}: no {has} in {words:?}"
    );
    assert!(!holds(lacks), "{what}: {lacks} in {words:?}");
}

#[test]
#[ignore = "needs root"]
fn attributes_of_one_mount_and_of_all_below_it() {
    let host = Host::new();
    let paths = ["lax", "strict"].map(|name| host.directory.path().join(name));
    let all = MOUNT_ATTR_RDONLY
        | MOUNT_ATTR_NOSUID
        | MOUNT_ATTR_NODEV
        | MOUNT_ATTR_NOEXEC
        | MOUNT_ATTR_NODIRATIME
        | MOUNT_ATTR_NOATIME
        | MOUNT_ATTR_NOSYMFOLLOW;
    let strict = MountAttributes {
        set: all,
        clear: libc::MOUNT_ATTR__ATIME,
        ..Default::default()
    };
    let trees = [
        Tree::new(&paths[0], MountAttributes::default()),
        Tree::new(&paths[1], strict),
    ];
    let tried = [&SETTING[..], &CLEARING];
    let mut mounts = Vec::new();
    for (tree, tried) in trees.iter().zip(tried) {
        mounts.push(tree.bind(&format!("/as-it-is/{}", mounts.len()), &["rbind"]));
        for (name, ..) in tried {
            let recursive = format!("r{name}");
            mounts.push(tree.bind(&format!("/{name}"), &["rbind", name]));
            mounts.push(tree.bind(&format!("/{recursive}"), &["rbind", &recursive]));
        }
    }
    let first = |kind: usize| {
        format!(
            "/as-it-is/{}",
            if kind == 0 { 0 } else { 1 + 2 * SETTING.len() }
        )
    };
    let table = table(&host, mounts);
    for (kind, tried) in tried.iter().enumerate() {
        let unchanged = &at(&table, &format!("{}/below", first(kind))).attributes;
        for (name, has, lacks) in *tried {
            check(
                name,
                &at(&table, &format!("/{name}")).attributes,
                has,
                lacks,
            );
            let below = &at(&table, &format!("/{name}/below")).attributes;
            assert_eq!(below, unchanged, "{name}");
            for place in [format!("/r{name}"), format!("/r{name}/below")] {
                check(&place, &at(&table, &place).attributes, has, lacks);
            }
        }
    }
    drop(trees);
}

#[test]
#[ignore = "needs root"]
fn flags_of_a_file_system() {
    let host = Host::new();
    let place = |index: usize| format!("/new/{index}");
    let mounts = SUPERBLOCK.iter().enumerate().map(|(index, (options, ..))| {
        json!({"destination": place(index), "type": "tmpfs", "source": "tmpfs", "options": options})
    });
    let table = table(&host, mounts.collect());
    for (index, (options, has, lacks)) in SUPERBLOCK.iter().enumerate() {
        let what = options.join(",");
        check(&what, &at(&table, &place(index)).superblock, has, lacks);
        // They are no attributes of the mount.
        assert_eq!(
            at(&table, &place(index)).attributes,
            ["rw", "relatime"],
            "{what}"
        );
    }
}

#[test]
#[ignore = "needs root"]
fn binds_and_how_they_propagate() {
    let host = Host::new();
    let path = host.directory.path().join("shared");
    let shared = MountAttributes {
        propagation: libc::MS_SHARED,
        ..Default::default()
    };
    let tree = Tree::new(&path, shared);
    let mut mounts = vec![
        tree.bind("/bind", &["bind"]),
        tree.bind("/rbind", &["rbind"]),
    ];
    for (name, peers) in PROPAGATION {
        // The last one counts, and a bind is private by itself.
        let other = if peers.is_empty() {
            "rshared"
        } else {
            "rprivate"
        };
        let recursive = format!("r{name}");
        mounts.push(tree.bind(&format!("/{name}"), &["rbind", other, name]));
        mounts.push(tree.bind(&format!("/{recursive}"), &["rbind", other, &recursive]));
    }
    let table = table(&host, mounts);
    let below: Vec<&str> = table
        .iter()
        .map(|mounted| mounted.at.as_str())
        .filter(|at| at.ends_with("bind/below"))
        .collect();
    assert_eq!(below, ["/rbind/below"]);
    for (name, peers) in PROPAGATION {
        let expected: Vec<&str> = peers.split_whitespace().collect();
        for place in [
            format!("/{name}"),
            format!("/r{name}"),
            format!("/r{name}/below"),
        ] {
            assert_eq!(at(&table, &place).peers, expected, "{place}");
        }
    }
    drop(tree);
}

#[test]
#[ignore = "needs root"]
fn a_remount_and_a_copy() {
    let host = Host::new();
    let root = Root::busybox();
    std::fs::write(root.path("etc/file"), "text\n").unwrap();
    let script = "cat /etc/file; touch /etc/new && echo new; touch /again/new || echo sealed";
    let spec = host.spec(&["/bin/sh", "-c", script], |spec| {
        spec["mounts"].as_array_mut().unwrap().extend([
            json!({"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}),
            json!({"destination": "/again", "type": "tmpfs", "source": "tmpfs"}),
            json!({"destination": "/again", "options": ["remount", "ro"]}),
        ]);
    });
    let outside = rustix::io::fcntl_dupfd_cloexec(&root.mount, 3).unwrap();
    let (_, output) = host.run(&spec, root);
    let said: Vec<&str> = output
        .lines()
        .filter(|line| !line.starts_with("touch"))
        .collect();
    assert_eq!(said, ["text", "new", "sealed"], "{output}");
    let new = rustix::fs::statat(&outside, "etc/new", rustix::fs::AtFlags::empty());
    assert!(new.is_err(), "the image has it");
}

/// A bind of a directory on which another directory is mounted: the map is of the one, or of both.
#[test]
#[ignore = "needs root"]
fn maps_of_one_mount_and_of_all_below_it() {
    let host = Host::new();
    let paths = ["data", "other", "data/below"].map(|name| host.directory.path().join(name));
    for path in &paths {
        std::fs::create_dir(path).unwrap();
        std::fs::write(path.join("file"), "").unwrap();
        std::os::unix::fs::chown(path.join("file"), Some(5), Some(6)).unwrap();
    }
    mount_bind(&paths[1], &paths[2]).unwrap();
    let script = "stat -c %u:%g /one/file /one/below/file /all/file /all/below/file";
    let spec = host.spec(&["/bin/sh", "-c", script], |spec| {
        let map = |first: u32| json!([{"containerID": 0, "hostID": first, "size": 100}]);
        for (at, option) in [("/one", "idmap"), ("/all", "ridmap")] {
            spec["mounts"].as_array_mut().unwrap().push(json!({
                "destination": at, "source": paths[0], "options": ["rbind", option],
                "uidMappings": map(1000), "gidMappings": map(2000),
            }));
        }
    });
    let (_, output) = host.run(&spec, Root::busybox());
    unmount(&paths[2], UnmountFlags::DETACH).unwrap();
    assert_eq!(output, "1005:2006\n5:6\n1005:2006\n1005:2006\n");
    // Without a map of its own or of a user namespace there is none: an error, as the table says.
    for option in ["idmap", "ridmap"] {
        let spec = host.spec(&["/bin/true"], |spec| {
            let bind =
                json!({"destination": "/one", "source": paths[0], "options": ["rbind", option]});
            spec["mounts"].as_array_mut().unwrap().push(bind);
        });
        let refused = host.create(&spec, Root::busybox()).err().unwrap();
        assert!(refused.cause.contains("needs uidMappings"), "{refused}");
    }
}
