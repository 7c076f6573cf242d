//! Leases: what an instance has promised to which container, one JSON file each.
//!
//! A lease is written (temporary file, fsync, rename, fsync of the directory) before anything is done
//! to the host, and removed after everything is undone: whatever a crash leaves behind is named by a
//! lease. A file that cannot be understood is renamed aside with a warning; it never keeps an agent
//! from starting. There is no lock against a second process: an instance has one agent.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{NetworkError, PortBinding, address, veth};

const VERSION: u32 = 1;
/// A lease of [`MAX_PORTS`](crate::MAX_PORTS) bindings is far below this.
const MAX_BYTES: u64 = 256 * 1024;
const SUFFIX: &str = ".json";
const ASIDE: &str = ".unreadable";
const UNFINISHED: &str = ".tmp";

/// What one container holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) id: String,
    pub(crate) mode: Mode,
}

/// The network mode, and what is valid in that mode only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// Loopback only.
    None,
    /// A port of the bridge.
    Bridge(Seat),
}

/// A container's place on the bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Seat {
    pub(crate) address: Ipv4Addr,
    /// Of the bridge's network when the address was given: the gateway follows from both.
    pub(crate) prefix_len: u8,
    pub(crate) veth: String,
    pub(crate) bindings: Vec<PortBinding>,
}

impl Seat {
    /// The bridge's own address in this seat's network.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        address::gateway_of(self.address, self.prefix_len)
    }
}

impl Lease {
    pub(crate) fn seat(&self) -> Option<&Seat> {
        match &self.mode {
            Mode::None => None,
            Mode::Bridge(seat) => Some(seat),
        }
    }
}

/// The file's shape; the lease itself carries no version.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File1 {
    version: u32,
    id: String,
    mode: Mode,
}

/// True for a name that may become a file name: `[a-f0-9-]{1,64}`.
pub(crate) fn is_id(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-'))
}

/// Reads a lease; `prefix` is the instance's interface prefix, which its veth must carry: a file that
/// names another interface must not make `release` delete it.
pub(crate) fn parse(text: &[u8], prefix: &str) -> Result<Lease, String> {
    let file: File1 = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    if file.version != VERSION {
        return Err(format!("version {} is not {VERSION}", file.version));
    }
    if !is_id(&file.id) {
        return Err("the id has other characters than a-f, 0-9 and -".into());
    }
    if let Mode::Bridge(seat) = &file.mode {
        check_seat(seat, prefix)?;
    }
    Ok(Lease {
        id: file.id,
        mode: file.mode,
    })
}

fn check_seat(seat: &Seat, prefix: &str) -> Result<(), String> {
    if !(1..=30).contains(&seat.prefix_len) {
        return Err(format!("prefix length {} has no room", seat.prefix_len));
    }
    if !veth::is_name(&seat.veth, prefix) {
        return Err(format!("{:?} is not a veth of this instance", seat.veth));
    }
    if seat.bindings.len() > crate::MAX_PORTS {
        return Err("too many bindings".into());
    }
    let zero = |b: &PortBinding| b.host_port == 0 || b.container_port == 0;
    if seat.bindings.iter().any(zero) {
        return Err("port 0 is bound".into());
    }
    Ok(())
}

pub(crate) fn render(lease: &Lease) -> Vec<u8> {
    let file = File1 {
        version: VERSION,
        id: lease.id.clone(),
        mode: lease.mode.clone(),
    };
    let mut text = serde_json::to_vec_pretty(&file).expect("plain data always serializes");
    text.push(b'\n');
    text
}

/// Makes `dir` (and its parents) for root only; fine if it is there.
pub(crate) fn make_private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
}

/// The directory of the leases. Every call blocks on the disk.
#[derive(Clone, Debug)]
pub(crate) struct LeaseDir {
    dir: PathBuf,
    prefix: String,
}

impl LeaseDir {
    pub(crate) fn new(run_root: &Path, prefix: &str) -> LeaseDir {
        LeaseDir {
            dir: run_root.join("network"),
            prefix: prefix.to_owned(),
        }
    }

    /// Writes the lease so that it survives a power cut; replaces an older one of the same id.
    pub(crate) fn write(&self, lease: &Lease) -> Result<(), NetworkError> {
        self.try_write(lease).map_err(|e| NetworkError {
            step: "record lease",
            subject: lease.id.clone(),
            cause: format!("{}: {e}", self.dir.display()),
        })
    }

    fn try_write(&self, lease: &Lease) -> io::Result<()> {
        make_private_dir(&self.dir)?;
        let unfinished = self.dir.join(format!("{}{UNFINISHED}", lease.id));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.write_all(&render(lease))?;
        file.sync_all()?;
        fs::rename(&unfinished, self.path(&lease.id))?;
        File::open(&self.dir)?.sync_all()
    }

    /// Removes the lease; fine if it is gone.
    pub(crate) fn remove(&self, id: &str) -> Result<(), NetworkError> {
        let gone = fs::remove_file(self.path(id))
            .and_then(|()| File::open(&self.dir)?.sync_all())
            .or_else(fine_if_absent);
        gone.map_err(|e| NetworkError {
            step: "remove lease",
            subject: id.to_owned(),
            cause: format!("{}: {e}", self.dir.display()),
        })
    }

    /// All leases that can be understood; the others are renamed aside with a warning.
    pub(crate) fn read_all(&self) -> Result<Vec<Lease>, NetworkError> {
        let names = self.names().map_err(|e| NetworkError {
            step: "read leases",
            subject: self.dir.display().to_string(),
            cause: e.to_string(),
        })?;
        let mut leases = Vec::new();
        for name in names {
            match name.strip_suffix(SUFFIX) {
                Some(id) => leases.extend(self.read_or_set_aside(id)),
                // A crash during a write: the lease it was to replace, if any, still stands.
                None if name.ends_with(UNFINISHED) => self.drop_file(&name),
                None => {}
            }
        }
        leases.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(leases)
    }

    /// Renames a lease aside with a warning.
    pub(crate) fn set_aside(&self, id: &str, why: &str) {
        let from = self.path(id);
        let aside = self.dir.join(format!("{id}{ASIDE}"));
        let renamed = fs::rename(&from, &aside);
        tracing::warn!(lease = %from.display(), why, moved = ?renamed, "lease set aside");
    }

    /// Removes what was set aside, and the directory if nothing is left in it.
    pub(crate) fn clear(&self) {
        for name in self.names().unwrap_or_default() {
            if name.ends_with(ASIDE) || name.ends_with(UNFINISHED) {
                self.drop_file(&name);
            }
        }
        // ENOTEMPTY: somebody else's file; it is not ours to remove.
        fs::remove_dir(&self.dir).ok();
    }

    fn read_or_set_aside(&self, id: &str) -> Option<Lease> {
        let read = read_bounded(&self.path(id))
            .map_err(|e| e.to_string())
            .and_then(|text| parse(&text, &self.prefix))
            .and_then(|lease| match lease.id == id {
                true => Ok(lease),
                false => Err(format!("it says that its id is {}", lease.id)),
            });
        read.map_err(|why| self.set_aside(id, &why)).ok()
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn drop_file(&self, name: &str) {
        if let Err(e) = fs::remove_file(self.dir.join(name)) {
            tracing::warn!(name, error = %e, "could not remove a leftover beside the leases");
        }
    }

    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}{SUFFIX}"))
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?
        .take(MAX_BYTES + 1)
        .read_to_end(&mut text)?;
    match text.len() as u64 <= MAX_BYTES {
        true => Ok(text),
        false => Err(io::Error::other(format!("longer than {MAX_BYTES} bytes"))),
    }
}

/// `ENOENT` is success when the goal is absence.
pub(crate) fn fine_if_absent(e: io::Error) -> io::Result<()> {
    match e.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Protocol;
    use proptest::prelude::*;

    fn sample() -> Lease {
        Lease {
            id: "0af3-1".into(),
            mode: Mode::Bridge(Seat {
                address: Ipv4Addr::new(10, 88, 0, 2),
                prefix_len: 24,
                veth: "ls00c0ffee".into(),
                bindings: vec![PortBinding {
                    container_port: 80,
                    host_port: 8080,
                    protocol: Protocol::Tcp,
                }],
            }),
        }
    }

    #[test]
    fn a_lease_is_this_text() {
        expect_test::expect![[r#"
            {
              "version": 1,
              "id": "0af3-1",
              "mode": {
                "bridge": {
                  "address": "10.88.0.2",
                  "prefix_len": 24,
                  "veth": "ls00c0ffee",
                  "bindings": [
                    {
                      "container_port": 80,
                      "host_port": 8080,
                      "protocol": "tcp"
                    }
                  ]
                }
              }
            }
        "#]]
        .assert_eq(std::str::from_utf8(&render(&sample())).unwrap());
    }

    #[test]
    fn refuses_what_would_harm_others() {
        let with = |edit: fn(&mut Seat)| {
            let mut lease = sample();
            if let Mode::Bridge(seat) = &mut lease.mode {
                edit(seat);
            }
            parse(&render(&lease), "ls")
        };
        assert!(with(|_| ()).is_ok());
        assert!(with(|s| s.veth = "eth0".into()).is_err());
        assert!(with(|s| s.veth = "ls".into()).is_err());
        assert!(with(|s| s.prefix_len = 32).is_err());
        assert!(with(|s| s.bindings[0].host_port = 0).is_err());
        let newer = String::from_utf8(render(&sample()))
            .unwrap()
            .replace("\"version\": 1", "\"version\": 2");
        assert!(parse(newer.as_bytes(), "ls").is_err());
    }

    #[test]
    fn ids_are_harmless_file_names() {
        assert!(is_id("0123456789abcdef-"));
        for bad in ["", ".", "..", "a/b", "A", "g", "a b", &"a".repeat(65)] {
            assert!(!is_id(bad), "{bad:?}");
        }
    }

    #[test]
    fn an_unreadable_lease_is_set_aside_and_the_rest_is_read() {
        let root = tempfile::tempdir().unwrap();
        let dir = LeaseDir::new(root.path(), "ls");
        assert_eq!(dir.read_all().unwrap(), []);
        dir.write(&sample()).unwrap();
        let at = |name: &str| root.path().join("network").join(name);
        fs::write(at("dead.json"), b"{").unwrap();
        fs::write(at("beef.json"), render(&sample())).unwrap();
        fs::write(at("f00d.tmp"), b"").unwrap();
        assert_eq!(dir.read_all().unwrap(), [sample()]);
        assert!(at("dead.unreadable").exists() && at("beef.unreadable").exists());
        assert!(!at("f00d.tmp").exists());
        dir.remove("0af3-1").unwrap();
        dir.remove("0af3-1").unwrap();
        dir.clear();
        assert!(!root.path().join("network").exists());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _refused_or_not = parse(&bytes, "ls").is_ok();
        }

        #[test]
        fn what_is_written_is_what_is_read(
            host in 2u8..255, prefix_len in 8u8..=24,
            ports in proptest::collection::vec((1u16.., 1u16.., any::<bool>()), 0..20),
        ) {
            let mut lease = sample();
            let bindings = ports.into_iter().map(|(container_port, host_port, udp)| PortBinding {
                container_port, host_port,
                protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
            }).collect();
            lease.mode = Mode::Bridge(Seat {
                address: Ipv4Addr::new(10, 1, 2, host), prefix_len, veth: "ls01234567".into(), bindings,
            });
            prop_assert_eq!(parse(&render(&lease), "ls"), Ok(lease));
        }

        #[test]
        fn a_cut_lease_is_refused(cut in 0usize..100) {
            let text = render(&sample());
            prop_assert!(parse(&text[..cut.min(text.len() - 2)], "ls").is_err());
        }
    }
}
