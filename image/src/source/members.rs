//! An archive of images as a table: which member lies where in the file.
//!
//! Headers are read once, from front to back; what lies between them is passed over and read later, where it is
//! wanted. Names are brought to one form or refused. Nothing of the archive becomes a file of this host.
//!
//! Absent on purpose: the last of several members of one name wins (tar(1)'s rule for appended archives). Who
//! verified the first and who reads the last could be two different programs, so two of a name are refused.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Seek};
use std::sync::Arc;

use super::content::Content;
use crate::error::printable_bytes;
use crate::unpack::archive::{Archive, Kind};
use crate::unpack::entry::Name;

/// Members of an archive, directories included: 500 layers of a hundred images.
const ENTRIES_MAX: u64 = 64 * 1024;
/// Bytes of all names together, which are kept.
const NAMES_MAX: usize = 32 * 1024 * 1024;

#[derive(Debug)]
enum Member {
    File {
        at: u64,
        size: u64,
    },
    /// What the link says, resolved when it is asked for.
    Symlink(Vec<u8>),
}

/// The members of one archive, which is not compressed.
#[derive(Debug)]
pub(crate) struct Members {
    file: Arc<File>,
    found: HashMap<Vec<u8>, Member>,
}

impl Members {
    /// Reads all headers of `file`. Blocking.
    pub(crate) fn read(file: File) -> Result<Members, String> {
        let len = file.metadata().map_err(|e| format!("stat: {e}"))?.len();
        let mut members = Members {
            file: Arc::new(file.try_clone().map_err(|e| format!("dup: {e}"))?),
            found: HashMap::new(),
        };
        let mut reader = BufReader::with_capacity(16 * 1024, file);
        reader.rewind().map_err(|e| format!("seek: {e}"))?;
        let mut archive = Archive::new(reader);
        let (mut entries, mut names) = (0, 0);
        while let Some(entry) = archive.next().map_err(|fail| fail.to_string())? {
            entries += 1;
            names += entry.path.len();
            if entries > ENTRIES_MAX || names > NAMES_MAX {
                return Err(format!(
                    "the archive has more than {ENTRIES_MAX} members, or their names more than {NAMES_MAX} bytes"
                ));
            }
            let at = archive.reader().stream_position();
            let at = at.map_err(|e| format!("seek: {e}"))?;
            let rest = archive.leave();
            let end = at.saturating_add(rest);
            let refuse = |cause: &str| {
                let name = printable_bytes(&entry.path);
                Err(format!("member `{name}` is refused: {cause}"))
            };
            if entry.sparse.is_some() {
                return refuse("it is a sparse file; make the archive without --sparse");
            }
            if end > len {
                return refuse("the archive ends inside it");
            }
            let name = match Name::parse(&entry.path) {
                Ok(name) => name.bytes().to_vec(),
                Err(cause) => return refuse(&cause),
            };
            let member = match entry.kind {
                Kind::File { size } => Member::File { at, size },
                Kind::Symlink(target) => Member::Symlink(target),
                Kind::Directory => {
                    continue;
                }
                Kind::Hardlink(_) => return refuse("an archive of images holds no hard links"),
                Kind::Fifo | Kind::Character { .. } | Kind::Block { .. } => {
                    return refuse("an archive of images holds no devices and no pipes");
                }
            };
            if members.found.insert(name, member).is_some() {
                return refuse("the archive holds two members of this name");
            }
            // Not beyond i64::MAX: it is no further than the file's end.
            let rest = i64::try_from(rest).map_err(|e| e.to_string())?;
            let moved = archive.reader().seek_relative(rest);
            moved.map_err(|e| format!("seek: {e}"))?;
        }
        Ok(members)
    }

    /// A member that is a file; None if there is none of that name.
    pub(crate) fn file(&self, name: &str) -> Result<Option<Content>, String> {
        match self.found.get(name.as_bytes()) {
            None => Ok(None),
            Some(Member::File { at, size }) => {
                Ok(Some(Content::part(Arc::clone(&self.file), *at, *size)))
            }
            Some(Member::Symlink(_)) => {
                Err(format!("member `{name}` is a link where a file must be"))
            }
        }
    }

    /// The same, through at most one symbolic link that stays in the archive. Docker before version 25 saves a layer
    /// that occurs twice so.
    pub(crate) fn file_or_link(&self, name: &str) -> Result<Option<Content>, String> {
        let Some(Member::Symlink(target)) = self.found.get(name.as_bytes()) else {
            return self.file(name);
        };
        let leads = |cause: &str| {
            let target = printable_bytes(target);
            format!("member `{name}` is a link to `{target}`, {cause}")
        };
        let target = beside(name, target).ok_or_else(|| leads("which leads out of the archive"))?;
        match self.file(&target) {
            Ok(Some(content)) => Ok(Some(content)),
            Ok(None) => Err(leads("which is not in the archive")),
            Err(_) => Err(leads("which is another link")),
        }
    }
}

/// What a link says that stands at `name`: by its letters alone, there is no directory to look into.
fn beside(name: &str, target: &[u8]) -> Option<String> {
    let target = std::str::from_utf8(target).ok()?;
    if target.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_followed_by_its_letters_and_never_out() {
        assert_eq!(
            beside("a/layer.tar", b"../b/layer.tar").unwrap(),
            "b/layer.tar"
        );
        assert_eq!(beside("a", b"./b").unwrap(), "b");
        for out in [&b"../../b"[..], b"/b", b"../../../etc/passwd", b"\xff"] {
            assert_eq!(beside("a/layer.tar", out), None);
        }
    }
}
