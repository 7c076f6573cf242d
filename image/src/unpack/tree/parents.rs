//! The directory an entry goes into: found beneath the root, or made where the archive left it out.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, Stat};
use rustix::io::Errno;

use super::Tree;
use crate::unpack::Fail;
use crate::unpack::at::{At, Dir, is_whiteout, make_opaque, open_beneath, unresolvable};
use crate::unpack::entry::Name;

/// Directories that are kept open: an archive comes back to those above.
const KEPT: usize = 8;

/// As many links one after the other as the kernel follows.
const LINKS_MAX: u32 = 40;

impl Tree {
    pub(super) fn parent(&mut self, name: &Name, path: &[u8]) -> Result<Arc<Dir>, Fail> {
        let wanted = name.split().0;
        if let Some(at) = self.parents.iter().position(|(known, _)| known == wanted) {
            self.parents[..=at].rotate_right(1);
            return Ok(Arc::clone(&self.parents[0].1));
        }
        let dir = match open_beneath(&self.root, wanted) {
            Err(Errno::NOENT | Errno::NOTDIR) => self.make_parents(wanted, path, 0)?,
            other => other.map_err(|e| unresolvable(path, wanted, e))?,
        };
        let dir = Arc::new(Dir::new(dir).map_err(|e| Fail::host(path, "fstat", e))?);
        self.parents.truncate(KEPT - 1);
        self.parents.insert(0, (wanted.to_vec(), Arc::clone(&dir)));
        Ok(dir)
    }

    /// Makes what is missing of `wanted`, from the top down.
    fn make_parents(&mut self, wanted: &[u8], path: &[u8], links: u32) -> Result<OwnedFd, Fail> {
        // One of them may be a file that is still to be written.
        self.writers.settle()?;
        let mut above = open_beneath(&self.root, b"").map_err(|e| unresolvable(path, wanted, e))?;
        let ends = wanted
            .iter()
            .enumerate()
            .filter(|(_, b)| **b == b'/')
            .map(|(i, _)| i);
        for end in ends.chain([wanted.len()]) {
            let so_far = &wanted[..end];
            above = match open_beneath(&self.root, so_far) {
                Ok(dir) => dir,
                Err(e @ (Errno::NOENT | Errno::NOTDIR)) => {
                    self.make_parent(&above, so_far, path, e, links)?;
                    open_beneath(&self.root, so_far).map_err(|e| unresolvable(path, so_far, e))?
                }
                Err(e) => return Err(unresolvable(path, so_far, e)),
            };
        }
        Ok(above)
    }

    fn make_parent(
        &mut self,
        above: &OwnedFd,
        so_far: &[u8],
        path: &[u8],
        why: Errno,
        links: u32,
    ) -> Result<(), Fail> {
        let last = so_far.rsplit(|b| *b == b'/').next().unwrap_or(so_far);
        let at = At {
            dir: above.as_fd(),
            inode: 0,
            path,
            last,
        };
        let removed = match at.stat()? {
            Some(stat) if is_whiteout(&stat) => {
                at.unlink()?;
                true
            }
            Some(stat) if is_link(&stat) && why == Errno::NOENT && links < LINKS_MAX => {
                let to = at.link_target()?;
                let to = link_leads(so_far, &to)
                    .ok_or_else(|| unresolvable(path, so_far, Errno::XDEV))?;
                return self.make_parents(&to, path, links + 1).map(drop);
            }
            // A link in a circle, or a file where a directory is needed.
            Some(_) => return Err(unresolvable(path, so_far, why)),
            None => false,
        };
        if self.links_below.contains_key(so_far) {
            return Err(unresolvable(path, so_far, Errno::NOTDIR));
        }
        at.mkdir(0o755)?;
        let dir = at.open_dir()?;
        rustix::fs::fchmod(&dir, Mode::from_bits_truncate(0o755)).map_err(at.host("fchmod"))?;
        if removed {
            return make_opaque(&at, dir.as_fd());
        }
        self.keep_name(so_far.len())?;
        self.implied.insert(so_far.to_vec());
        Ok(())
    }
}

fn is_link(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
}

/// Where the link `name` leads; None if that is outside the layer. The target may be in a layer below: what is missing of
/// it here is then only implied.
fn link_leads(name: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    if target.first() == Some(&b'/') {
        return None;
    }
    let mut parts: Vec<&[u8]> = name.split(|b| *b == b'/').collect();
    parts.pop();
    for part in target.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::link_leads;

    #[test]
    fn a_link_leads_to_a_place_in_the_layer_or_nowhere() {
        let leads = |name: &str, target: &str| {
            let to = link_leads(name.as_bytes(), target.as_bytes());
            to.map(|to| String::from_utf8(to).unwrap())
        };
        assert_eq!(leads("lib", "usr/lib").unwrap(), "usr/lib");
        assert_eq!(leads("a/b", "../c/./d").unwrap(), "c/d");
        assert_eq!(leads("a", ".").unwrap(), "");
        for out in ["/usr/lib", "../x", "b/../../x"] {
            assert_eq!(leads("a", out), None, "{out}");
        }
    }
}
