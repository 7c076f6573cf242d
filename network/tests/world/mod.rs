//! A host of one's own for each test: a thread with a fresh network and mount namespace, so that nothing
//! outside is touched and nothing survives the thread, however the test ends.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::fs::File;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// What must arrive has this long; nothing is measured.
const LONG: Duration = Duration::from_secs(10);
/// What must not arrive has this long to arrive after all.
const SHORT: Duration = Duration::from_millis(400);

/// Runs `test` on a host of its own, in `run_root`.
pub fn host<F: Future<Output = ()>>(test: impl FnOnce(PathBuf) -> F + Send + 'static) {
    blocking_host(move |root| runtime().block_on(test(root)));
}

/// Like [`host`] for a test that brings its runtimes itself.
pub fn blocking_host(test: impl FnOnce(PathBuf) + Send + 'static) {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().to_owned();
    let body = move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        // Files and pins end with the mount namespace, that is with this thread.
        let tmpfs = Some("tmpfs");
        mount(tmpfs, &path, tmpfs, MsFlags::empty(), None::<&str>).unwrap();
        sh("ip link set lo up");
        test(path);
    };
    if let Err(panic) = std::thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Runs a shell line in the calling thread's namespaces and gives its output.
pub fn sh(line: &str) -> String {
    let out = Command::new("sh").args(["-ec", line]).output().unwrap();
    let complaint = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{line}: {complaint}");
    String::from_utf8(out.stdout).unwrap()
}

/// Runs `act` in the network namespace that is pinned at `pin`.
pub fn at<T: Send + 'static>(pin: &Path, act: impl FnOnce() -> T + Send + 'static) -> T {
    let ns = File::open(pin).unwrap();
    let enter = move || {
        setns(ns, CloneFlags::CLONE_NEWNET).unwrap();
        act()
    };
    std::thread::spawn(enter).join().unwrap()
}

/// A server thread that ends when this is dropped.
pub struct Server {
    stop: Arc<AtomicBool>,
    wake: Box<dyn Fn() + Send>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        (self.wake)();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Answers every connection with `name` and the address that it sees, in the calling thread's namespace.
pub fn serve_tcp(name: &str, address: impl Into<String>) -> Server {
    let listener = TcpListener::bind(address.into()).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, name, own) = (stop.clone(), name.to_owned(), listener.try_clone().unwrap());
    let thread = std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            if stopped.load(Ordering::SeqCst) {
                return;
            }
            write!(stream, "{name} sees {}", peer.ip()).ok();
        }
    });
    let wake = move || {
        // shutdown(2) of a listening socket wakes accept(2) on Linux.
        rustix::net::shutdown(&own, rustix::net::Shutdown::Both).ok();
    };
    Server {
        stop,
        wake: Box::new(wake),
        thread: Some(thread),
    }
}

/// Answers every datagram like [`serve_tcp`].
pub fn serve_udp(name: &str, address: impl Into<String>) -> Server {
    let socket = UdpSocket::bind(address.into()).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, name) = (stop.clone(), name.to_owned());
    let thread = std::thread::spawn(move || {
        while !stopped.load(Ordering::SeqCst) {
            if let Ok((_, peer)) = socket.recv_from(&mut [0; 64]) {
                socket
                    .send_to(format!("{name} sees {}", peer.ip()).as_bytes(), peer)
                    .ok();
            }
        }
    });
    Server {
        stop,
        wake: Box::new(|| ()),
        thread: Some(thread),
    }
}

fn target(ip: Ipv4Addr, port: u16) -> SocketAddr {
    (ip, port).into()
}

/// What the server says; panics if it cannot be reached.
pub fn ask_tcp(ip: Ipv4Addr, port: u16) -> String {
    let mut stream = TcpStream::connect_timeout(&target(ip, port), LONG)
        .unwrap_or_else(|e| panic!("{ip}:{port}: {e}"));
    stream.set_read_timeout(Some(LONG)).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

pub fn ask_udp(ip: Ipv4Addr, port: u16) -> String {
    try_udp(ip, port, LONG).unwrap_or_else(|| panic!("{ip}:{port}/udp does not answer"))
}

pub fn try_udp(ip: Ipv4Addr, port: u16, patience: Duration) -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    socket.send_to(b"?", target(ip, port)).ok()?;
    let mut answer = [0; 128];
    let (len, _) = socket.recv_from(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..len]).into_owned())
}

/// Tries again until it succeeds: a socket that this process closed may be open for another moment in a
/// child that is between fork(2) and execve(2).
pub fn eventually<T, E: std::fmt::Debug>(mut attempt: impl FnMut() -> Result<T, E>) -> T {
    let end = std::time::Instant::now() + LONG;
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(e) if std::time::Instant::now() > end => panic!("{e:?}"),
            Err(_) => std::thread::yield_now(),
        }
    }
}

/// True if nobody answers there, be it by refusal or silence.
pub fn unreachable_tcp(ip: Ipv4Addr, port: u16) -> bool {
    TcpStream::connect_timeout(&target(ip, port), SHORT).is_err()
}

pub fn unreachable_udp(ip: Ipv4Addr, port: u16) -> bool {
    try_udp(ip, port, SHORT).is_none()
}

/// Everything that an instance could leave on a host: links, packet rules, mounts, files.
pub fn traces(run_root: &Path) -> Vec<String> {
    let links = sh("ip -o link | cut -d: -f2 | cut -d@ -f1");
    let mut links: Vec<&str> = links.lines().collect();
    links.sort_unstable();
    let mut found: Vec<String> = links
        .into_iter()
        .map(str::trim)
        .filter(|l| *l != "lo")
        .map(|l| format!("link {l}"))
        .collect();
    let rules = sh("nft list ruleset | grep -E '[0-9]+ : [0-9.]+ [.] [0-9]+' || true");
    found.extend(rules.lines().map(|l| format!("rule {}", l.trim())));
    let root = run_root.display();
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    // Without the identity of the namespace: field 5 is the mount point, proc(5).
    let points = mounts.lines().filter_map(|l| l.split(' ').nth(4));
    let ours = points.filter_map(|p| p.strip_prefix(&format!("{root}/")));
    found.extend(ours.map(|p| format!("mount {p}")));
    let files = sh(&format!("find {root} -type f -printf '%P\\n' | sort"));
    found.extend(files.lines().map(|l| format!("file {l}")));
    found
}
