//! Who runs the process: the image's `user[:group]` against the image's own /etc/passwd and /etc/group.
//!
//! The files are foreign: resolved inside the root (openat2(2), RESOLVE_IN_ROOT), opened only if they are regular
//! files (opening a device can do things, opening a fifo can wait for ever), and bounded. Numbers are parsed
//! strictly: a number that is none, or too large, is an error and never 0. Absent on purpose: NSS, shadow files,
//! group passwords.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{ImageError, printable};

const FILE_MAX: u64 = 1024 * 1024;
const STEP: &str = "resolve user";

/// Who runs the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub additional_gids: Vec<u32>,
    /// From /etc/passwd of the image, `/` if absent.
    pub home: String,
}

/// Resolves `user`, `uid`, `user:group`, ... against the image's own /etc/passwd and /etc/group, resolved
/// below `root`. Empty is root. As in other engines, a text of digits is always a number; supplementary groups
/// are those that list the user's name, and none if a group is given. Blocking.
pub fn resolve_user(root: BorrowedFd<'_>, user: &str) -> Result<User, ImageError> {
    let subject = printable(user, 128);
    let error = |cause: String| ImageError::new(STEP, &subject, cause);
    let passwd = read(root, "etc/passwd").map_err(error)?;
    let group = read(root, "etc/group").map_err(error)?;
    resolve(user, &passwd, &group).map_err(error)
}

/// The decision, over the files' bytes.
fn resolve(spec: &str, passwd: &[u8], group: &[u8]) -> Result<User, String> {
    let (user, named_group) = match spec.split_once(':') {
        Some((_, "")) => {
            return Err("the group after `:` is empty; leave out the colon or name a group".into());
        }
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let wanted = number(user).map_err(|cause| format!("user `{}` {cause}", printable(user, 64)))?;
    let account = accounts(passwd).find(|account| match wanted {
        Some(uid) => account.uid == uid,
        None => account.name == user.as_bytes(),
    });
    let (uid, own_gid) = match (&account, wanted) {
        (Some(account), _) => (account.uid, account.gid),
        (None, Some(uid)) => (uid, 0),
        (None, None) => {
            return Err(format!(
                "unknown user `{}`: the image's /etc/passwd has no such line; name one it has, or a number",
                printable(user, 64)
            ));
        }
    };
    let (gid, additional_gids) = match (named_group, &account) {
        (Some(name), _) => (group_id(name, group)?, Vec::new()),
        (None, Some(account)) => (own_gid, memberships(account.name, group)),
        (None, None) => (own_gid, Vec::new()),
    };
    let home = account.map_or_else(|| "/".to_owned(), |account| account.home());
    Ok(User {
        uid,
        gid,
        additional_gids,
        home,
    })
}

fn group_id(name: &str, group: &[u8]) -> Result<u32, String> {
    let shown = printable(name, 64);
    if let Some(gid) = number(name).map_err(|cause| format!("group `{shown}` {cause}"))? {
        return Ok(gid);
    }
    let found = groups(group).find(|(known, _, _)| *known == name.as_bytes());
    found.map(|(_, gid, _)| gid).ok_or_else(|| {
        format!("unknown group `{shown}`: the image's /etc/group has no such line; name one it has, or a number")
    })
}

/// The number that a text of digits is; None if it is no text of digits; an error if no id is so large.
/// 4294967295 is (uid_t)-1, which setuid(2) takes for "no change".
fn number(text: &str) -> Result<Option<u32>, String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id != u32::MAX => Ok(Some(id)),
        _ => Err("is a number out of range; ids go from 0 to 4294967294".into()),
    }
}

struct Account<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

impl Account<'_> {
    fn home(&self) -> String {
        let text = std::str::from_utf8(self.home).unwrap_or_default();
        let usable = text.starts_with('/') && text.len() < 4096 && !text.contains(char::is_control);
        if usable {
            text.to_owned()
        } else {
            "/".to_owned()
        }
    }
}

/// The lines of passwd(5) that are whole; others are nobody's account.
fn accounts(passwd: &[u8]) -> impl Iterator<Item = Account<'_>> {
    lines(passwd).filter_map(|fields| {
        let [name, _, uid, gid, _, home, ..] = fields[..] else {
            return None;
        };
        Some(Account {
            name,
            uid: id(uid)?,
            gid: id(gid)?,
            home,
        })
    })
}

/// Name, id and members of the whole lines of group(5).
fn groups(group: &[u8]) -> impl Iterator<Item = (&[u8], u32, &[u8])> {
    lines(group).filter_map(|fields| {
        let [name, _, gid, ..] = fields[..] else {
            return None;
        };
        Some((name, id(gid)?, fields.get(3).copied().unwrap_or_default()))
    })
}

fn lines(file: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    file.split(|b| *b == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !matches!(line.first(), None | Some(b'#' | b':')))
        .map(|line| line.split(|b| *b == b':').collect())
}

fn id(field: &[u8]) -> Option<u32> {
    number(std::str::from_utf8(field).ok()?).ok()?
}

fn memberships(name: &[u8], group: &[u8]) -> Vec<u32> {
    let mut gids: Vec<u32> = groups(group)
        .filter(|(_, _, members)| members.split(|b| *b == b',').any(|member| member == name))
        .map(|(_, gid, _)| gid)
        .collect();
    gids.sort_unstable();
    gids.dedup();
    gids
}

/// A file of the image; empty if it has none.
fn read(root: BorrowedFd<'_>, name: &str) -> Result<Vec<u8>, String> {
    let failed =
        |call: &str, e: &dyn std::fmt::Display| format!("/{name} of the image: {call}: {e}");
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = match rustix::fs::openat2(root, name, flags, Mode::empty(), resolve) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
        other => other.map_err(|e| failed("open", &e))?,
    };
    let stat = rustix::fs::fstat(&found).map_err(|e| failed("stat", &e))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(format!(
            "/{name} of the image is not a regular file; it must be one"
        ));
    }
    // The very file that was looked at, whatever its name has become.
    let again = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(again, flags, Mode::empty()).map_err(|e| failed("open", &e))?;
    let mut bytes = Vec::new();
    let mut limited = File::from(file).take(FILE_MAX + 1);
    limited
        .read_to_end(&mut bytes)
        .map_err(|e| failed("read", &e))?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(format!(
            "/{name} of the image is longer than {FILE_MAX} bytes; refused"
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
