//! Removing a tree that hostile hands made: bounded in file descriptors, stack and memory, whatever its shape.
//!
//! A container can nest directories without end; a recursive removal would run out of descriptors or stack. Here
//! a directory that lies too deep is moved up beside the tree and removed as a tree of its own. It can also fill
//! one directory with millions of names, so a directory is emptied some names at a time. Never follows a link,
//! never leaves the file system below the given directory descriptor.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, RenameFlags};
use rustix::io::{Errno, Result};

const DEPTH_MAX: usize = 64;
/// How many names of one directory are in memory at once.
const NAMES_AT_ONCE: usize = 1024;

/// Removes `name` below `parent`, whatever it is; fine if it is gone. `parent` must be ours alone: entries named
/// `.deep-N` appear in it for a while.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    remove_tree_slowly(parent, name, &mut || Ok(()))
}

/// [`remove_tree`] that asks `pace` before each name; its error ends the removal. Names that were moved up may be
/// left then, in `parent`.
pub(crate) fn remove_tree_slowly(
    parent: BorrowedFd<'_>,
    name: &CStr,
    pace: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    let mut deep = Deep {
        pace,
        parent,
        next: 0,
        moved: Vec::new(),
    };
    deep.remove(parent, name, 0)?;
    while let Some(number) = deep.moved.pop() {
        deep.remove(parent, &deep_name(number), 0)?;
    }
    Ok(())
}

fn deep_name(number: u64) -> CString {
    CString::new(format!(".deep-{number}")).unwrap_or_default()
}

struct Deep<'a> {
    pace: &'a mut dyn FnMut() -> Result<()>,
    parent: BorrowedFd<'a>,
    next: u64,
    /// Numbers of the names that were moved up: a container may have made very many.
    moved: Vec<u64>,
}

impl Deep<'_> {
    fn remove(&mut self, dir: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<()> {
        (self.pace)()?;
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            // POSIX lets unlink of a directory say either.
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(other) => return Err(other),
        }
        if depth == DEPTH_MAX {
            return self.move_up(dir, name);
        }
        let below = open_dir(dir, name)?;
        loop {
            let some = first_names(below.as_fd(), NAMES_AT_ONCE)?;
            for entry in &some {
                self.remove(below.as_fd(), entry, depth + 1)?;
            }
            if some.len() < NAMES_AT_ONCE {
                break;
            }
        }
        match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    fn move_up(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        loop {
            let number = self.next;
            self.next += 1;
            let to = deep_name(number);
            match rustix::fs::renameat_with(dir, name, self.parent, &to, RenameFlags::NOREPLACE) {
                // Somebody else's name, which is none of ours to remove.
                Err(Errno::EXIST) => {}
                Ok(()) => {
                    self.moved.push(number);
                    return Ok(());
                }
                Err(other) => return Err(other),
            }
        }
    }
}

/// Opens a directory to empty it. Without CAP_DAC_OVERRIDE its mode may forbid that to its own owner.
fn open_dir(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(dir, name, Mode::RWXU, AtFlags::empty())?;
            rustix::fs::openat(dir, name, flags, Mode::empty())
        }
        Ok(fd) if rustix::fs::fstat(&fd)?.st_mode & 0o300 != 0o300 => {
            rustix::fs::fchmod(&fd, Mode::RWXU)?;
            Ok(fd)
        }
        other => other,
    }
}

/// The names in a directory, without `.` and `..`.
pub(crate) fn names(dir: BorrowedFd<'_>) -> Result<Vec<CString>> {
    first_names(dir, usize::MAX)
}

fn first_names(dir: BorrowedFd<'_>, most: usize) -> Result<Vec<CString>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(dir)? {
        if found.len() == most {
            break;
        }
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            found.push(entry.file_name().to_owned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn open(path: &std::path::Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn a_tree_deeper_than_any_path_goes_and_what_it_links_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("kept");
        std::fs::create_dir(&kept).unwrap();
        std::fs::write(kept.join("file"), "x").unwrap();
        std::fs::create_dir(dir.path().join("tree")).unwrap();
        symlink(&kept, dir.path().join("tree/link")).unwrap();
        let mut at = open(&dir.path().join("tree"));
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "ddd", Mode::RWXU).unwrap();
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            at = rustix::fs::openat(&at, "ddd", flags, Mode::empty()).unwrap();
        }
        let parent = open(dir.path());
        let parent = rustix::fs::openat(&parent, ".", OFlags::RDONLY, Mode::empty()).unwrap();
        remove_tree(parent.as_fd(), c"tree").unwrap();
        assert_eq!(names(parent.as_fd()).unwrap(), [c"kept".to_owned()]);
        assert_eq!(std::fs::read(kept.join("file")).unwrap(), b"x");
        remove_tree(parent.as_fd(), c"tree").unwrap();
    }

    #[test]
    fn a_directory_of_many_names_is_emptied_some_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("tree")).unwrap();
        for number in 0..NAMES_AT_ONCE * 2 + 1 {
            std::fs::write(dir.path().join(format!("tree/{number}")), "").unwrap();
        }
        let parent = rustix::fs::open(dir.path(), OFlags::RDONLY, Mode::empty()).unwrap();
        let tree =
            rustix::fs::open(dir.path().join("tree"), OFlags::RDONLY, Mode::empty()).unwrap();
        assert_eq!(first_names(tree.as_fd(), 10).unwrap().len(), 10);
        remove_tree(parent.as_fd(), c"tree").unwrap();
        assert!(!dir.path().join("tree").exists());
    }

    #[test]
    fn modes_that_forbid_entry_do_not_keep_a_tree() {
        let dir = tempfile::tempdir().unwrap();
        let closed = dir.path().join("tree/closed");
        std::fs::create_dir_all(closed.join("inner")).unwrap();
        for mode in [0o000, 0o500] {
            std::fs::create_dir_all(closed.join("inner")).unwrap();
            std::fs::set_permissions(&closed, PermissionsExt::from_mode(mode)).unwrap();
            let parent = rustix::fs::open(dir.path(), OFlags::RDONLY, Mode::empty()).unwrap();
            remove_tree(parent.as_fd(), c"tree").unwrap();
            assert!(!dir.path().join("tree").exists());
        }
    }
}
