//! Where a path leads in the layers below, as a container would see it: an absolute link begins at the image's root, and
//! nothing climbs above that. Walked by hand, because what is wanted is the path, and the kernel gives a descriptor.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{join, prefixes, split};
use crate::error::printable_bytes;

/// As many as the kernel follows (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// A directory below `root` by a path without symbolic links; the empty path is the root.
pub(super) fn open(root: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let name = if name.is_empty() { b"." } else { name };
    // Without O_NOFOLLOW, which would call a link at the end "not a directory" instead of a link.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(root, name, flags, Mode::empty(), resolve)
}

/// What `name` is, the last component not followed; None if it is not there.
pub(super) fn kind_of(root: BorrowedFd<'_>, name: &[u8]) -> Option<FileType> {
    let (above, last) = split(name);
    let above = open(root, above).ok()?;
    let last = if last.is_empty() { b"." } else { last };
    let stat = rustix::fs::statat(&above, last, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(FileType::from_raw_mode(stat.st_mode))
}

pub(super) fn exists(root: BorrowedFd<'_>, name: &[u8]) -> bool {
    kind_of(root, name).is_some()
}

/// The shortest prefix of `name` (or all of it) that is a symbolic link.
pub(super) fn first_link(root: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Vec<u8>>, String> {
    match open(root, name) {
        Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(Errno::LOOP) => {
            let mut all = prefixes(name);
            let link = all.find(|prefix| kind_of(root, prefix) == Some(FileType::Symlink));
            Ok(link.map(<[u8]>::to_vec))
        }
        Err(e) => Err(format!("open `{}`: {e}", printable_bytes(name))),
    }
}

/// The path that `name` stands for, links resolved. What is not there is taken for a plain name.
pub(super) fn resolve(root: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>, String> {
    let mut real: Vec<Vec<u8>> = Vec::new();
    let mut rest: Vec<Vec<u8>> = components(name);
    let mut links = 0;
    while let Some(part) = rest.pop() {
        if part == b".." {
            real.pop();
            continue;
        }
        let so_far = real.join(&b'/');
        let Some(target) = link_at(root, &so_far, &part) else {
            real.push(part);
            continue;
        };
        links += 1;
        if links > LINKS_MAX {
            let shown = printable_bytes(name);
            return Err(format!(
                "`{shown}` leads through more than {LINKS_MAX} symbolic links in the layers below"
            ));
        }
        if target.first() == Some(&b'/') {
            real.clear();
        }
        rest.extend(components(&target));
    }
    Ok(real.join(&b'/'))
}

/// The last one first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let all = path.rsplit(|b| *b == b'/');
    all.filter(|part| !matches!(*part, b"" | b"."))
        .map(<[u8]>::to_vec)
        .collect()
}

fn link_at(root: BorrowedFd<'_>, above: &[u8], last: &[u8]) -> Option<Vec<u8>> {
    if kind_of(root, &join(above, last)) != Some(FileType::Symlink) {
        return None;
    }
    let above = open(root, above).ok()?;
    let target = rustix::fs::readlinkat(&above, last, Vec::new()).ok()?;
    Some(target.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_resolved_as_a_container_sees_them() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("usr/lib")).unwrap();
        for (target, name) in [
            ("usr/lib", "lib"),
            ("/usr/lib/../lib", "absolute"),
            ("../../../../usr", "up"),
            ("loop", "loop"),
            ("lib", "twice"),
            ("missing/x", "dangling"),
        ] {
            symlink(target, root.join(name)).unwrap();
        }
        let fd = rustix::fs::open(root, OFlags::RDONLY, Mode::empty()).unwrap();
        let to = |name: &str| {
            let real = resolve(fd.as_fd(), name.as_bytes());
            real.map(|real| String::from_utf8(real).unwrap())
        };
        for (name, real) in [
            ("lib/a/b", "usr/lib/a/b"),
            ("absolute", "usr/lib"),
            ("up/lib", "usr/lib"),
            ("twice", "usr/lib"),
            ("dangling/y", "missing/x/y"),
            ("", ""),
            ("no/such", "no/such"),
        ] {
            assert_eq!(to(name).unwrap(), real, "{name}");
        }
        assert!(to("loop").unwrap_err().contains("more than 40"));
        let link = first_link(fd.as_fd(), b"lib/a").unwrap();
        assert_eq!(link.as_deref(), Some(&b"lib"[..]));
        assert_eq!(first_link(fd.as_fd(), b"usr/lib").unwrap(), None);
    }
}
