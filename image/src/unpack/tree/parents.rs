//! The directory an entry goes into: found beneath the root, or made where the archive left it out.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::Mode;
use rustix::io::Errno;

use super::Tree;
use crate::unpack::Fail;
use crate::unpack::at::{At, is_whiteout, make_opaque, open_beneath, unresolvable};
use crate::unpack::entry::Name;

impl Tree {
    pub(super) fn parent(&mut self, name: &Name, path: &[u8]) -> Result<Rc<OwnedFd>, Fail> {
        let wanted = name.split().0;
        if let Some((known, dir)) = &self.last_parent
            && known == wanted
        {
            return Ok(Rc::clone(dir));
        }
        let dir = match open_beneath(&self.root, wanted) {
            Err(Errno::NOENT | Errno::NOTDIR) => self.make_parents(wanted, path)?,
            other => other.map_err(|e| unresolvable(path, wanted, e))?,
        };
        let dir = Rc::new(dir);
        self.last_parent = Some((wanted.to_vec(), Rc::clone(&dir)));
        Ok(dir)
    }

    /// Makes what is missing of `wanted`, from the top down.
    fn make_parents(&mut self, wanted: &[u8], path: &[u8]) -> Result<OwnedFd, Fail> {
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
                    self.make_parent(above.as_fd(), so_far, path, e)?;
                    open_beneath(&self.root, so_far).map_err(|e| unresolvable(path, so_far, e))?
                }
                Err(e) => return Err(unresolvable(path, so_far, e)),
            };
        }
        Ok(above)
    }

    fn make_parent(
        &mut self,
        above: BorrowedFd<'_>,
        so_far: &[u8],
        path: &[u8],
        why: Errno,
    ) -> Result<(), Fail> {
        let last = so_far.rsplit(|b| *b == b'/').next().unwrap_or(so_far);
        let at = At {
            dir: above,
            path,
            last,
        };
        let removed = match at.stat()? {
            Some(stat) if is_whiteout(&stat) => {
                at.unlink()?;
                true
            }
            // A link that leads nowhere, or a file where a directory is needed.
            Some(_) => return Err(unresolvable(path, so_far, why)),
            None => false,
        };
        at.mkdir(0o755)?;
        let dir = at.open_dir()?;
        rustix::fs::fchmod(&dir, Mode::from_bits_truncate(0o755)).map_err(at.host("fchmod"))?;
        if removed {
            return make_opaque(&at, dir.as_fd());
        }
        if self.names_left < so_far.len() {
            return Err(Fail::content("the layer has too many directories"));
        }
        self.names_left -= so_far.len();
        self.implied.insert(so_far.to_vec());
        Ok(())
    }
}
