//! A task's disk: a file of a fixed size with an ext4 in it. The writable layers of the task's containers lie there, and
//! its size bounds them together, in bytes and in files.
//!
//! `disks/<name>/fs` appears whole, by rename. It is sparse: it takes of the store's disk what was written, and gives
//! back what was removed. It has no journal, because nobody reads it after a crash of the host: its task is over then.
//! No device serves it but while it is mounted, and none for longer than that ([`longshore_sys::configure_loop_device`]).
//! Absent on purpose: project quotas (docs/decisions/0022), and any knowledge of who has which disk.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use crate::error::{ImageError, printable};
use crate::store::layout::Layout;

/// How often another process may be quicker to take the device that was free.
const TRIES: u32 = 64;
/// The tables of a new, sparse file are zeros already.
const MKFS: [&str; 7] = [
    "-q",
    "-F",
    "-m0",
    "-O",
    "^has_journal",
    "-E",
    "lazy_itable_init=1,nodiscard,root_owner=0:0",
];
const MOUNT_OPTIONS: &std::ffi::CStr = c"noinit_itable,discard";

/// A block device that serves a disk as long as this lives, or the disk is mounted.
#[derive(Debug)]
pub(crate) struct Device {
    path: String,
    handle: OwnedFd,
}

impl Device {
    /// Mounts its file system. Several mounts of one disk at once are views of one file system.
    pub(crate) fn mount(&self, at: &str) -> rustix::io::Result<()> {
        let flags = MountFlags::NOATIME;
        rustix::mount::mount(self.path.as_str(), at, "ext4", flags, MOUNT_OPTIONS)
    }
}

/// Makes the disk `name`, unless it is there.
pub(crate) fn make(layout: &Layout, name: &str, bytes: u64) -> Result<(), ImageError> {
    let error = |cause: String| ImageError::new("make disk", name, cause);
    if let Some(known) = open(layout, name)? {
        let len = known.metadata().map_err(|e| error(e.to_string()))?.len();
        if len == bytes {
            return Ok(());
        }
        return Err(error(format!(
            "it is there with {len} bytes, not {bytes}; remove it first"
        )));
    }
    let ingest = layout.ingest()?;
    ingest.write(c"fs", &[])?;
    let dir = ingest.open()?;
    let file = rustix::fs::openat(&dir, "fs", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let file = file.map_err(|e| error(format!("open: {e}")))?;
    rustix::fs::ftruncate(&file, bytes).map_err(|e| {
        error(format!(
            "set its size to {bytes} bytes: {e}; the image store's file system must bear files of that size"
        ))
    })?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    format(&path).map_err(error)?;
    ingest.publish(&place(name))
}

fn format(path: &str) -> Result<(), String> {
    let made = Command::new("mkfs.ext4")
        .args(MKFS)
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("mkfs.ext4: {e}; install e2fsprogs"))?;
    match made.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&made.stderr);
            let (status, said) = (made.status, printable(said.trim(), 500));
            Err(format!("mkfs.ext4: {status}: {said}"))
        }
    }
}

/// A device that serves the disk: the one that does already, or another.
///
/// The caller must see to it that nobody else asks for the same disk until it is mounted: two devices for one file
/// would be two file systems that do not know of each other.
pub(crate) fn device(layout: &Layout, name: &str) -> Result<Device, ImageError> {
    let error = |cause: String| ImageError::new("mount disk", name, cause);
    let file = open(layout, name)?
        .ok_or_else(|| error("it is gone from the image store; run the task again".into()))?;
    match serving(&file).map_err(error)? {
        Some(device) => Ok(device),
        None => attach(&file).map_err(error),
    }
}

/// The device that serves a file now.
fn serving(file: &File) -> Result<Option<Device>, String> {
    let stat = rustix::fs::fstat(file).map_err(|e| format!("stat: {e}"))?;
    // Other people's devices of another size are not even opened.
    let sectors = (u64::try_from(stat.st_size).unwrap_or(0) / 512).to_string();
    let devices = std::fs::read_dir("/sys/block").map_err(|e| format!("read /sys/block: {e}"))?;
    for device in devices.flatten() {
        let name = device.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with("loop")) else {
            continue;
        };
        let read = |attribute: &str| {
            std::fs::read_to_string(device.path().join(attribute)).unwrap_or_default()
        };
        if read("size").trim_end() != sectors || read("loop/autoclear").trim_end() != "1" {
            continue;
        }
        // The last one to use it may be gone by now.
        let Ok(opened) = open_device(name) else {
            continue;
        };
        let serves = longshore_sys::loop_device_serves(opened.handle.as_fd());
        if serves == Ok(Some((stat.st_dev, stat.st_ino))) {
            return Ok(Some(opened));
        }
    }
    Ok(None)
}

fn attach(file: &File) -> Result<Device, String> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let control = rustix::fs::open("/dev/loop-control", flags, Mode::empty()).map_err(|e| {
        format!("open /dev/loop-control: {e}; a task's disk needs the kernel's module `loop`")
    })?;
    for _ in 0..TRIES {
        let number = longshore_sys::free_loop_device(control.as_fd())
            .map_err(|e| format!("find a free loop device: {e}; the agent needs CAP_SYS_ADMIN"))?;
        let name = format!("loop{number}");
        let device = open_device(&name).map_err(|e| format!("open /dev/{name}: {e}"))?;
        match longshore_sys::configure_loop_device(device.handle.as_fd(), file.as_fd()) {
            Ok(()) => return Ok(device),
            Err(Errno::BUSY) => {}
            Err(e) => return Err(format!("configure /dev/{name}: {e}; it needs Linux 5.8")),
        }
    }
    Err(format!(
        "{TRIES} free loop devices were taken by others meanwhile; try again"
    ))
}

fn open_device(name: &str) -> rustix::io::Result<Device> {
    let path = format!("/dev/{name}");
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let handle = rustix::fs::open(&path, flags, Mode::empty())?;
    Ok(Device { path, handle })
}

/// Takes the disk away. Whoever has it mounted keeps it until then. Fine if it is gone.
pub(crate) fn remove(layout: &Layout, name: &str) -> Result<(), ImageError> {
    layout.discard(&place(name))
}

fn place(name: &str) -> String {
    format!("disks/{name}")
}

fn open(layout: &Layout, name: &str) -> Result<Option<File>, ImageError> {
    let path = format!("{}/fs", place(name));
    layout.open_file(&path)
}
