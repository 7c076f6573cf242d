//! Network namespaces that live without a process: made, pinned, entered, let go.
//!
//! A namespace is pinned by a bind mount of `/proc/thread-self/ns/net` on a file (ip-netns(8) does the
//! same): there is no pause container. A thread that entered another namespace is never given back to
//! a pool; each such step has a thread of its own that ends with it, and sockets made there stay in
//! that namespace whoever uses them later (network_namespaces(7)).
//!
//! The pins are private mounts. A copy of one that a child's mount namespace took along does not keep the
//! network alive: unlink(2) of the mount point detaches it in every other mount namespace.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::{NetworkError, lease};

/// `NSFS_MAGIC` of linux/magic.h: what statfs(2) says of a pinned namespace.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// What docker, and so ECS, sets in a container's own network: its ports and pings are nobody else's, so
/// no user in it needs a capability for port 80 or for ping(8). A definition may set them otherwise afterwards.
const OPEN_TO_USERS: [(&str, &str); 2] = [
    ("ip_unprivileged_port_start", "0"),
    ("ping_group_range", "0 2147483647"),
];

/// More mounts on one file than any sequence of crashes makes; a bound for the loop.
const MAX_STACKED: usize = 64;

/// Makes a new namespace and pins it at `pin`, unless one is pinned there.
pub(crate) async fn ensure(pin: &Path) -> Result<(), NetworkError> {
    let failed = |e: io::Error| error("pin network namespace", pin, e);
    if is_pinned(pin).map_err(failed)? {
        return Ok(());
    }
    let at = pin.to_owned();
    on_own_thread(move || make_and_pin(&at))
        .await
        .map_err(failed)
}

/// True if a namespace is pinned at `pin`.
pub(crate) fn is_pinned(pin: &Path) -> io::Result<bool> {
    match rustix::fs::statfs(pin) {
        Ok(fs) => Ok(fs.f_type == NSFS_MAGIC),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn make_and_pin(pin: &Path) -> io::Result<()> {
    lease::make_private_dir(pin.parent().unwrap_or(Path::new("/")))?;
    OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(pin)?;
    unshare(CloneFlags::CLONE_NEWNET)?;
    for (name, value) in OPEN_TO_USERS {
        std::fs::write(Path::new("/proc/sys/net/ipv4").join(name), value)?;
    }
    let own = Path::new("/proc/thread-self/ns/net");
    mount(
        Some(own),
        pin,
        None::<&Path>,
        MsFlags::MS_BIND,
        None::<&Path>,
    )?;
    Ok(())
}

/// Takes the pin away; fine if it is gone. The namespace ends with its last process.
pub(crate) fn unpin(pin: &Path) -> Result<(), NetworkError> {
    let failed = |e: io::Error| error("unpin network namespace", pin, e);
    for _ in 0..MAX_STACKED {
        match umount2(pin, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // EINVAL: not a mount point any more. ENOENT: the file is gone too.
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => break,
            Err(e) => return Err(failed(e.into())),
        }
    }
    std::fs::remove_file(pin)
        .or_else(lease::fine_if_absent)
        .map_err(failed)
}

/// The names in the directory of the pins; empty if there is none.
pub(crate) fn pinned_names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|e| e.file_name().into_string().ok())
        .collect()
}

/// Runs `act` in the namespace that is pinned at `pin`.
pub(crate) async fn inside<T: Send + 'static>(
    pin: &Path,
    act: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, NetworkError> {
    let at: PathBuf = pin.to_owned();
    let enter = move || {
        setns(File::open(&at)?, CloneFlags::CLONE_NEWNET)?;
        act()
    };
    on_own_thread(enter)
        .await
        .map_err(|e| error("enter network namespace", pin, e))
}

/// The thread of the pool only waits for the other: so a runtime that is shut down waits for both.
async fn on_own_thread<T: Send + 'static>(
    act: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let in_thread = move || {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .spawn(act)?;
        let panicked = |_| Err(io::Error::other("the thread for the namespace panicked"));
        thread.join().unwrap_or_else(panicked)
    };
    tokio::task::spawn_blocking(in_thread)
        .await
        .unwrap_or_else(|e| Err(io::Error::other(e)))
}

fn error(step: &'static str, pin: &Path, e: io::Error) -> NetworkError {
    NetworkError {
        step,
        subject: pin.display().to_string(),
        cause: match e.raw_os_error() {
            Some(nix::libc::EPERM) => format!("{e}; CAP_SYS_ADMIN is needed"),
            _ => e.to_string(),
        },
    }
}
