//! Layers with about all that a layer can hold, and what of a tree a container can see.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::Digest as _;

use crate::registry::noise;

pub(crate) struct Tar(pub(crate) tar::Builder<Vec<u8>>);

impl Tar {
    pub(crate) fn new() -> Tar {
        let mut builder = tar::Builder::new(Vec::new());
        builder.follow_symlinks(false);
        Tar(builder)
    }

    pub(crate) fn add(
        &mut self,
        kind: tar::EntryType,
        name: &str,
        link: &str,
        data: &[u8],
        mode: u32,
        owner: (u64, u64),
    ) -> &mut Tar {
        let mut h = tar::Header::new_gnu();
        h.set_entry_type(kind);
        h.set_size(data.len() as u64);
        h.set_mode(mode);
        h.set_uid(owner.0);
        h.set_gid(owner.1);
        h.set_mtime(1_234_567_890);
        if kind.is_character_special() || kind.is_block_special() {
            h.set_device_major(1).unwrap();
            h.set_device_minor(7).unwrap();
        }
        match kind {
            tar::EntryType::Link | tar::EntryType::Symlink => {
                self.0.append_link(&mut h, name, link).unwrap()
            }
            _ => self.0.append_data(&mut h, name, data).unwrap(),
        }
        self
    }

    pub(crate) fn dir(&mut self, name: &str, mode: u32, owner: (u64, u64)) -> &mut Tar {
        self.add(tar::EntryType::Directory, name, "", b"", mode, owner)
    }

    pub(crate) fn file(&mut self, name: &str, data: &[u8]) -> &mut Tar {
        self.add(tar::EntryType::Regular, name, "", data, 0o644, (0, 0))
    }

    /// A file of whoever runs the test.
    pub(crate) fn own(&mut self, name: &str, data: &[u8]) -> &mut Tar {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let owner = (uid.as_raw().into(), gid.as_raw().into());
        self.add(tar::EntryType::Regular, name, "", data, 0o644, owner)
    }

    pub(crate) fn pax(&mut self, records: &[(&str, &[u8])]) -> &mut Tar {
        self.0
            .append_pax_extensions(records.iter().copied())
            .unwrap();
        self
    }

    pub(crate) fn bytes(&mut self) -> Vec<u8> {
        std::mem::replace(self, Tar::new()).0.into_inner().unwrap()
    }
}

/// CAP_NET_BIND_SERVICE, permitted and effective (capabilities(7), version 2).
const FILE_CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Three layers with about all that a layer can hold, on top of this machine's own /etc.
pub(crate) fn rich_layers() -> Vec<Vec<u8>> {
    use tar::EntryType as T;
    let passwd = b"root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n";
    let mut base = Tar::new();
    base.dir("./", 0o755, (0, 0));
    base.0.append_dir_all("etc-of-this-host", "/etc").unwrap();
    base.dir("etc", 0o755, (0, 0))
        .file("etc/passwd", passwd)
        .file("etc/group", b"root:x:0:\nstaff:x:50:app\n")
        .dir("tmp", 0o1777, (0, 0))
        .dir("home", 0o755, (0, 0))
        .dir("home/app", 0o2750, (1000, 1000))
        .file("home/app/removed", b"1")
        .dir("home/app/opaque", 0o700, (1000, 50))
        .file("home/app/opaque/hidden", b"2")
        .dir("home/app/whole", 0o755, (0, 0))
        .file("home/app/whole/inner", b"3")
        .add(T::Regular, "su", "", &noise(300_000), 0o6755, (0, 50))
        .add(T::Link, "su-hard", "su", b"", 0o6755, (0, 50))
        .add(T::Symlink, "abs", "/etc/passwd", b"", 0o777, (1000, 50))
        .add(T::Symlink, "up", "../../..", b"", 0o777, (0, 0))
        .add(T::Fifo, "fifo", "", b"", 0o642, (1, 2))
        .add(T::Char, "char", "", b"", 0o666, (0, 0))
        .add(T::Block, "block", "", b"", 0o660, (0, 6))
        .file("größe", "unicode".as_bytes())
        .file(&format!("{}/{}", "d".repeat(120), "n".repeat(200)), b"long")
        .pax(&[
            ("SCHILY.xattr.security.capability", FILE_CAPABILITY),
            ("mtime", b"1234567890.125"),
        ])
        .add(T::Regular, "bind", "", b"cap", 0o755, (0, 0))
        .pax(&[
            ("SCHILY.xattr.user.note", b"kept"),
            ("uid", b"3000000"),
            ("gid", b"3000001"),
        ])
        .file("noted", b"x");
    let mut upper = Tar::new();
    upper
        .dir("home/app", 0o2755, (1000, 1000))
        .file("home/app/.wh.removed", b"")
        .dir("home/app/opaque", 0o750, (1000, 50))
        .file("home/app/opaque/.wh..wh..opq", b"")
        .file("home/app/opaque/seen", b"new")
        .file("home/app/.wh.whole", b"")
        .file("tmp-file", b"first");
    let mut top = Tar::new();
    top.dir("home/app/whole", 0o711, (1000, 1000))
        .file("home/app/whole/other", b"4")
        .file("tmp-file", b"second");
    vec![base.bytes(), upper.bytes(), top.bytes()]
}

/// Every path below `root` with what a container can see of it.
pub(crate) fn described(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    describe(root, Path::new(""), &mut found);
    found
}

fn describe(root: &Path, at: &Path, found: &mut BTreeMap<PathBuf, String>) {
    let path = root.join(at);
    let meta = match at.as_os_str().is_empty() {
        true => std::fs::metadata(&path).unwrap(),
        false => std::fs::symlink_metadata(&path).unwrap(),
    };
    let kind = meta.file_type();
    let content = if kind.is_file() {
        format!(
            "{} {}",
            meta.len(),
            hex::encode(sha2::Sha256::digest(std::fs::read(&path).unwrap()))
        )
    } else if kind.is_symlink() {
        format!("-> {}", std::fs::read_link(&path).unwrap().display())
    } else {
        String::new()
    };
    let links = if kind.is_dir() { 0 } else { meta.nlink() };
    let device = if kind.is_char_device() || kind.is_block_device() {
        meta.rdev()
    } else {
        0
    };
    let attributes = attributes(&path, kind.is_file() || kind.is_dir());
    let (mode, owner) = (meta.mode(), (meta.uid(), meta.gid()));
    // umoci leaves the time of devices and fifos, and of directories it touched later, as they happened to be.
    let time = if kind.is_file() {
        (meta.mtime(), meta.mtime_nsec())
    } else {
        (0, 0)
    };
    let line = format!(
        "{mode:o} {owner:?} links {links} dev {device} time {time:?} {attributes} {content}"
    );
    found.insert(at.to_owned(), line);
    if kind.is_dir() {
        for entry in std::fs::read_dir(&path).unwrap() {
            describe(root, &at.join(entry.unwrap().file_name()), found);
        }
    }
}

fn attributes(path: &Path, can_have: bool) -> String {
    let mut all = Vec::new();
    let mut list = vec![0; 4096];
    if can_have {
        let len = rustix::fs::listxattr(path, &mut list).unwrap();
        for name in list[..len].split(|b| *b == 0).filter(|n| !n.is_empty()) {
            let mut value = vec![0; 256];
            let len = rustix::fs::getxattr(path, name, &mut value).unwrap();
            all.push(format!(
                "{}={}",
                String::from_utf8_lossy(name),
                hex::encode(&value[..len])
            ));
        }
    }
    all.sort();
    // umoci's own mark; overlayfs hides its marks itself.
    all.retain(|a| !a.starts_with("user.rootlesscontainers") && !a.starts_with("trusted.overlay"));
    all.join(",")
}
