//! A layer's inventory: one sum over all that its tree holds, to tell later whether it still holds it.
//!
//! For each name below the layer: its path, type and mode, owner, time, number of links, device, link target, the
//! extended attributes that we set, size and sha256 of the content. The sum does not depend on the order in which the
//! file system lists names. Decision 0018 says what an inventory proves.
//!
//! Left out: what a host changes by itself (access times, inode numbers, `security.selinux` and other labels).

use std::ffi::CStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::layout::Layout;
use crate::error::{ImageError, printable_bytes};

const VERSION: u32 = 1;
const RECORD_MAX: u64 = 4096;
/// Each level holds a descriptor open. Deeper layers than any we met, by a hundred levels, are not inventoried.
const DEPTH_MAX: usize = 300;
const READ_AT_ONCE: usize = 256 * 1024;

/// What a layer's tree is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Inventory {
    version: u32,
    /// Names in it, the root included.
    pub(crate) names: u64,
    /// Bytes of its files; one with many names counts once for each.
    pub(crate) bytes: u64,
    /// Bytes that it takes on disk (`st_blocks`).
    pub(crate) on_disk: u64,
    /// The sum, in hexadecimal.
    sum: String,
}

/// Why there is no inventory.
#[derive(Debug)]
pub(crate) enum NoInventory {
    /// Who asked for it wants it no more.
    Stopped,
    /// The tree cannot be read whole.
    Failed(String),
}

impl Inventory {
    /// What is different from `then`; None if nothing is.
    pub(crate) fn differs_from(&self, then: &Inventory) -> Option<String> {
        if self.names != then.names {
            return Some(format!("{} names, {} expected", self.names, then.names));
        }
        if self.bytes != then.bytes {
            return Some(format!("{} bytes, {} expected", self.bytes, then.bytes));
        }
        (self.sum != then.sum)
            .then(|| "a content, mode, owner, time or attribute has changed".to_owned())
    }
}

/// Looks at the whole tree of the layer or seam at `path`. Asks `pace` before each name and with each piece of content
/// (with how many bytes were read); an error of it stops the work. Blocking, and long.
pub(crate) fn take(
    layout: &Layout,
    path: &str,
    pace: &mut dyn FnMut(u64) -> Result<(), Errno>,
) -> Result<Inventory, NoInventory> {
    let root = layout.directory(&format!("{path}/fs"));
    let root = root.map_err(|e| NoInventory::Failed(e.to_string()))?;
    let mut walk = Walk {
        pace,
        found: Inventory {
            version: VERSION,
            ..Inventory::default()
        },
        sum: Sum::default(),
        path: Vec::new(),
        buffer: vec![0; READ_AT_ONCE],
    };
    let stat = rustix::fs::fstat(&root);
    let stat = stat.map_err(|e| walk.failed("stat", e))?;
    let metadata = walk.metadata(&stat, Some(root.as_fd()))?;
    walk.add(&stat, &metadata);
    walk.directory(&root, 0)?;
    walk.found.sum = hex::encode(walk.sum.0);
    Ok(walk.found)
}

/// The inventory that was taken of the layer or seam at `path`; None if none was, or none that can be read.
pub(crate) fn of(layout: &Layout, path: &str) -> Option<Inventory> {
    let bytes = layout.read(&format!("{path}/inventory.json"), RECORD_MAX);
    let record: Inventory = serde_json::from_slice(&bytes.ok().flatten()?).ok()?;
    (record.version == VERSION).then_some(record)
}

/// Records an inventory.
pub(crate) fn record(layout: &Layout, path: &str, found: &Inventory) -> Result<(), ImageError> {
    let bytes = serde_json::to_vec(found).map_err(|e| layout.error("write", path, e))?;
    layout.write_beside(path, "inventory.json", &bytes)
}

/// Hashes of entries, added modulo 2^256.
#[derive(Default)]
struct Sum([u8; 32]);

impl Sum {
    fn add(&mut self, hash: &[u8]) {
        let mut carry = 0;
        for (own, other) in self.0.iter_mut().zip(hash) {
            let sum = u16::from(*own) + u16::from(*other) + carry;
            *own = (sum & 0xff) as u8;
            carry = sum >> 8;
        }
    }
}

struct Walk<'a> {
    pace: &'a mut dyn FnMut(u64) -> Result<(), Errno>,
    found: Inventory,
    sum: Sum,
    /// Of the entry that is looked at, below the layer's root.
    path: Vec<u8>,
    buffer: Vec<u8>,
}

/// Name and value.
type Attribute = (Vec<u8>, Vec<u8>);

const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

impl Walk<'_> {
    fn directory(&mut self, dir: &OwnedFd, depth: usize) -> Result<(), NoInventory> {
        if depth == DEPTH_MAX {
            let cause = format!("deeper than {DEPTH_MAX} directories");
            return Err(NoInventory::Failed(cause));
        }
        let entries = Dir::read_from(dir).map_err(|e| self.failed("read", e))?;
        for entry in entries {
            let entry = entry.map_err(|e| self.failed("read", e))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let len = self.path.len();
            self.path.push(b'/');
            self.path.extend_from_slice(name.to_bytes());
            self.entry(dir.as_fd(), name, depth)?;
            self.path.truncate(len);
        }
        Ok(())
    }

    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<(), NoInventory> {
        self.pace(0)?;
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.map_err(|e| self.failed("stat", e))?;
        let open = || rustix::fs::openat(dir, name, OPEN, Mode::empty());
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let inner = open().map_err(|e| self.failed("open", e))?;
                let metadata = self.metadata(&stat, Some(inner.as_fd()))?;
                self.add(&stat, &metadata);
                self.directory(&inner, depth + 1)
            }
            FileType::RegularFile => {
                let file = open().map_err(|e| self.failed("open", e))?;
                let mut metadata = self.metadata(&stat, Some(file.as_fd()))?;
                metadata.extend(self.content(file)?);
                self.add(&stat, &metadata);
                Ok(())
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(dir, name, Vec::new());
                let target = target.map_err(|e| self.failed("readlink", e))?;
                let mut metadata = self.metadata(&stat, None)?;
                metadata.extend(target.to_bytes());
                self.add(&stat, &metadata);
                Ok(())
            }
            // Never opened: a device may do anything then.
            _ => {
                let metadata = self.metadata(&stat, None)?;
                self.add(&stat, &metadata);
                Ok(())
            }
        }
    }

    fn add(&mut self, stat: &Stat, metadata: &[u8]) {
        let mut hasher = sha2::Sha256::new();
        hasher.update((self.path.len() as u64).to_le_bytes());
        hasher.update(&self.path);
        hasher.update(metadata);
        self.sum.add(&hasher.finalize());
        self.found.names += 1;
        self.found.on_disk += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            self.found.bytes += u64::try_from(stat.st_size).unwrap_or(0);
        }
    }

    /// What `stat` and the attributes say, as bytes; what is of no fixed length has its length before it.
    fn metadata(&self, stat: &Stat, fd: Option<BorrowedFd<'_>>) -> Result<Vec<u8>, NoInventory> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        // A directory's size and links are the file system's own business.
        let (size, links) = match kind {
            FileType::Directory => (0, 0),
            // As wide as on every architecture.
            _ => (stat.st_size, u128::from(stat.st_nlink)),
        };
        let device = match kind {
            FileType::CharacterDevice | FileType::BlockDevice => stat.st_rdev,
            _ => 0,
        };
        let mut out = Vec::with_capacity(128);
        out.extend(stat.st_mode.to_le_bytes());
        out.extend(stat.st_uid.to_le_bytes());
        out.extend(stat.st_gid.to_le_bytes());
        out.extend(size.to_le_bytes());
        out.extend(links.to_le_bytes());
        out.extend(device.to_le_bytes());
        out.extend(stat.st_mtime.to_le_bytes());
        out.extend(i128::from(stat.st_mtime_nsec).to_le_bytes());
        let attributes = match fd {
            Some(fd) => self.attributes(fd)?,
            None => Vec::new(),
        };
        out.extend((attributes.len() as u64).to_le_bytes());
        for (name, value) in attributes {
            for part in [name, value] {
                out.extend((part.len() as u64).to_le_bytes());
                out.extend(part);
            }
        }
        Ok(out)
    }

    /// The attributes that an unpacker sets, in order of their names.
    fn attributes(&self, fd: BorrowedFd<'_>) -> Result<Vec<Attribute>, NoInventory> {
        // First into the stack: hardly any file has attributes.
        let mut few = [0; 256];
        let list = match rustix::fs::flistxattr(fd, &mut few) {
            Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Ok(len) => few[..len].to_vec(),
            Err(Errno::RANGE) => {
                let mut many = vec![0; 64 * 1024];
                let len = rustix::fs::flistxattr(fd, &mut many);
                let len = len.map_err(|e| self.failed("listxattr", e))?;
                many[..len].to_vec()
            }
            Err(e) => return Err(self.failed("listxattr", e)),
        };
        let ours = |name: &&[u8]| {
            name.starts_with(b"user.")
                || name.starts_with(b"trusted.overlay.")
                || *name == b"security.capability"
        };
        let mut found = Vec::new();
        for name in list.split(|b| *b == 0).filter(ours) {
            let mut value = vec![0; 64 * 1024];
            let len = rustix::fs::fgetxattr(fd, name, &mut value);
            value.truncate(len.map_err(|e| self.failed("getxattr", e))?);
            found.push((name.to_vec(), value));
        }
        found.sort_unstable();
        Ok(found)
    }

    fn content(&mut self, file: OwnedFd) -> Result<[u8; 32], NoInventory> {
        let mut file = File::from(file);
        let mut hasher = sha2::Sha256::new();
        loop {
            let len = match file.read(&mut self.buffer) {
                Ok(0) => return Ok(hasher.finalize().into()),
                Ok(len) => len,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    let path = printable_bytes(&self.path);
                    return Err(NoInventory::Failed(format!("read `{path}`: {e}")));
                }
            };
            hasher.update(&self.buffer[..len]);
            self.pace(len as u64)?;
        }
    }

    fn pace(&mut self, bytes: u64) -> Result<(), NoInventory> {
        (self.pace)(bytes).map_err(|_| NoInventory::Stopped)
    }

    fn failed(&self, call: &str, errno: Errno) -> NoInventory {
        let path = printable_bytes(&self.path);
        NoInventory::Failed(format!("{call} `{path}`: {errno}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    fn taken(layout: &Layout) -> Inventory {
        take(layout, "layers/chain/x", &mut |_| Ok(())).unwrap()
    }

    fn fill(fs: &Path) {
        std::fs::create_dir_all(fs.join("d/e")).unwrap();
        std::fs::write(fs.join("d/file"), "content").unwrap();
        std::fs::write(fs.join("d/e/other"), "x").unwrap();
        symlink("target", fs.join("link")).unwrap();
        std::fs::hard_link(fs.join("d/file"), fs.join("hard")).unwrap();
    }

    #[test]
    fn whatever_changes_in_a_tree_changes_its_inventory() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        let fs = dir.path().join("layers/chain/x/fs");
        fill(&fs);
        let first = taken(&layout);
        assert_eq!(taken(&layout), first, "looking changes nothing");
        assert_eq!((first.names, first.bytes), (7, 15));
        let time = std::fs::metadata(fs.join("d/file")).unwrap().modified();
        let time = time.unwrap();
        let same_time = |name: &str| {
            let file = File::options().write(true).open(fs.join(name)).unwrap();
            file.set_modified(time).unwrap();
        };
        type Change<'a> = (&'a str, Box<dyn Fn() + 'a>);
        let changes: [Change<'_>; 7] = [
            (
                "a bit of a file, at the same time and length",
                Box::new(|| {
                    std::fs::write(fs.join("d/file"), "contemt").unwrap();
                    same_time("d/file");
                }),
            ),
            (
                "a mode",
                Box::new(|| {
                    let mode = std::fs::Permissions::from_mode(0o600);
                    std::fs::set_permissions(fs.join("d/e/other"), mode).unwrap();
                }),
            ),
            (
                "a time",
                Box::new(|| {
                    let file = File::options().write(true).open(fs.join("d/e/other"));
                    file.unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
                }),
            ),
            (
                "a link's target",
                Box::new(|| {
                    std::fs::remove_file(fs.join("link")).unwrap();
                    symlink("tarGet", fs.join("link")).unwrap();
                }),
            ),
            (
                "a name",
                Box::new(|| {
                    std::fs::rename(fs.join("d/e/other"), fs.join("d/e/othes")).unwrap();
                }),
            ),
            (
                "a file that is cut",
                Box::new(|| {
                    std::fs::write(fs.join("d/file"), "").unwrap();
                    same_time("d/file");
                }),
            ),
            (
                "a file more",
                Box::new(|| std::fs::write(fs.join("more"), "").unwrap()),
            ),
        ];
        let mut before = first;
        for (what, change) in changes {
            change();
            let after = taken(&layout);
            assert!(after.differs_from(&before).is_some(), "{what}");
            before = after;
        }
    }

    #[test]
    fn an_inventory_is_recorded_and_a_bad_record_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        fill(&dir.path().join("layers/chain/x/fs"));
        assert_eq!(of(&layout, "layers/chain/x"), None);
        let found = taken(&layout);
        record(&layout, "layers/chain/x", &found).unwrap();
        assert_eq!(of(&layout, "layers/chain/x"), Some(found));
        std::fs::write(dir.path().join("layers/chain/x/inventory.json"), "{").unwrap();
        assert_eq!(of(&layout, "layers/chain/x"), None);
    }

    #[test]
    fn who_wants_no_more_is_heard_within_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        let fs = dir.path().join("layers/chain/x/fs");
        std::fs::create_dir_all(&fs).unwrap();
        std::fs::write(fs.join("big"), vec![7; READ_AT_ONCE * 8]).unwrap();
        let mut read = 0;
        let stopped = take(&layout, "layers/chain/x", &mut |bytes| {
            read += bytes;
            match bytes {
                0 => Ok(()),
                _ => Err(Errno::CANCELED),
            }
        });
        assert!(matches!(stopped, Err(NoInventory::Stopped)));
        assert!(read as usize <= READ_AT_ONCE, "{read}");
    }
}
