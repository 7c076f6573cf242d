//! The same tree as umoci and containerd make of an image: hand-made layers with every edge case, and real files of
//! Debian packages. Needs root, and Debian's umoci, containerd, docker-registry and skopeo.
//!
//! Works below the temporary directory, in a mount namespace of the test's own.

mod docker_registry;
mod registry;
mod rich;

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use docker_registry::{DockerRegistry, layout, run};
use longshore_image::{Registries, Store};
use registry::noise;
use rich::{Tar, described};
use tar::EntryType as T;

type Tree = BTreeMap<PathBuf, String>;

/// Two trees are one, name by name.
#[track_caller]
fn same(seen: &Tree, wanted: &Tree, who: &str) {
    for (path, line) in wanted {
        assert_eq!(seen.get(path), Some(line), "{who}: {}", path.display());
    }
    let extra: Vec<_> = seen
        .keys()
        .filter(|path| !wanted.contains_key(*path))
        .collect();
    assert!(extra.is_empty(), "{who}: {extra:?}");
}

/// Debian's containerd with a root and a socket of its own; gone when dropped.
struct Containerd {
    child: Child,
    dir: PathBuf,
}

impl Containerd {
    fn start(dir: &Path) -> Containerd {
        let dir = dir.join("containerd");
        std::fs::create_dir(&dir).unwrap();
        let config = "disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n";
        std::fs::write(dir.join("config.toml"), config).unwrap();
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let child = Command::new("containerd")
            .arg("--config")
            .arg(dir.join("config.toml"))
            .arg("--root")
            .arg(dir.join("root"))
            .arg("--state")
            .arg(dir.join("state"))
            .arg("--address")
            .arg(dir.join("socket"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("containerd is missing: install the package containerd");
        let started = Containerd { child, dir };
        let patience = Instant::now() + Duration::from_secs(60);
        while !started.ctr(&["version"]).output().unwrap().status.success() {
            assert!(Instant::now() < patience, "containerd did not answer");
            std::thread::yield_now();
        }
        started
    }

    fn ctr(&self, words: &[&str]) -> Command {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address")
            .arg(self.dir.join("socket"))
            .args(words);
        ctr
    }

    fn tree(&self, reference: &str) -> Tree {
        let pull = [
            "images",
            "pull",
            "--plain-http",
            "--snapshotter",
            "overlayfs",
            reference,
        ];
        run("containerd", &mut self.ctr(&pull));
        let target = self.dir.join("mounted");
        std::fs::create_dir_all(&target).unwrap();
        let mount = ["images", "mount", "--snapshotter", "overlayfs", reference];
        run("containerd", self.ctr(&mount).arg(&target));
        let seen = described(&target);
        run("mount", Command::new("umount").arg(&target));
        let unmount = ["snapshots", "--snapshotter", "overlayfs", "rm"];
        run("containerd", self.ctr(&unmount).arg(&target));
        seen
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        Command::new("umount")
            .arg(self.dir.join("mounted"))
            .output()
            .ok();
    }
}

/// A registry, and our store.
struct Place {
    dir: tempfile::TempDir,
    registry: DockerRegistry,
    runtime: tokio::runtime::Runtime,
    store: Store,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        Place {
            registry: DockerRegistry::start(dir.path(), ""),
            runtime: tokio::runtime::Runtime::new().unwrap(),
            store: Store::open(&dir.path().join("store"), Registries::default()).unwrap(),
            dir,
        }
    }

    /// Pushes an image of these layers; its reference, and its layout.
    fn push(&self, name: &str, layers: &[Vec<u8>]) -> (String, PathBuf) {
        let dir = self.dir.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        let layout = layout(&dir, layers);
        let reference = format!("{}/{name}:t", self.registry.authority);
        run(
            "skopeo",
            Command::new("skopeo")
                .args(["copy", "--insecure-policy", "--dest-tls-verify=false"])
                .arg(format!("oci:{}:t", layout.display()))
                .arg(format!("docker://{reference}")),
        );
        (reference, layout)
    }

    fn ours(&self, id: &str, reference: &str) -> Tree {
        let pulled = self.runtime.block_on(self.store.pull(reference, |_| {}));
        let root = self.store.mount_root(id, &pulled.unwrap()).unwrap();
        let seen = described(Path::new(&format!("/proc/self/fd/{}", root.as_raw_fd())));
        drop(root);
        self.store.remove_root(id).unwrap();
        seen
    }

    fn umocis(&self, layout: &Path) -> Tree {
        let rootfs = layout.with_file_name("rootfs");
        let image = format!("{}:t", layout.display());
        run(
            "umoci",
            Command::new("umoci")
                .args(["raw", "unpack", "--image", &image])
                .arg(&rootfs),
        );
        described(&rootfs)
    }
}

/// What GNU tar makes of a file with holes.
fn sparse(dir: &Path, form: &[&str]) -> Vec<u8> {
    let file = std::fs::File::create(dir.join("sparse")).unwrap();
    for (at, byte) in [
        (0u64, 1u8),
        (1 << 20, 2),
        (5 << 20, 3),
        ((5 << 20) + 8192, 4),
    ] {
        std::os::unix::fs::FileExt::write_all_at(&file, &[byte; 4096], at).unwrap();
    }
    // More pieces than a header of GNU's own holds.
    for piece in 0..60u64 {
        let at = (8 << 20) + piece * 65536;
        std::os::unix::fs::FileExt::write_all_at(&file, &[5; 4096], at).unwrap();
    }
    file.set_len(30 << 20).unwrap();
    let tar = Command::new("tar")
        .args(["--sparse", "--mtime=@1234567890", "--owner=7", "--group=8"])
        .args(form)
        .args(["-cf", "-", "sparse"])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(tar.status.success() && tar.stdout.len() < 1 << 20);
    tar.stdout
}

fn base() -> Vec<u8> {
    let mut base = Tar::new();
    base.dir("./", 0o755, (0, 0))
        .dir("usr", 0o755, (0, 0))
        .dir("usr/lib", 0o751, (3, 4))
        .file("usr/lib/known", b"1")
        .add(T::Symlink, "lib", "usr/lib", b"", 0o777, (0, 0))
        .add(T::Symlink, "abs", "/usr/lib", b"", 0o777, (9, 9))
        .dir("data", 0o2750, (7, 8))
        .pax(&[("SCHILY.xattr.user.note", b"kept")])
        .add(T::Regular, "data/orig", "", &noise(10_000), 0o640, (7, 8))
        .add(T::Regular, "data/kept", "", b"kept", 0o4755, (0, 0))
        .add(T::Regular, "data/moved", "", b"moved", 0o600, (7, 7))
        .dir("opt", 0o711, (5, 6))
        .dir("opt/deep", 0o700, (5, 6))
        .dir("gone", 0o755, (0, 0))
        .file("gone/inner", b"2");
    base.bytes()
}

/// On top of [`base`], all that a layer may want of those below it, and what may happen twice.
fn edges() -> Vec<u8> {
    let mut upper = Tar::new();
    upper
        .file("lib/new", b"through a link of the layer below")
        .file("lib/sub/deeper", b"and further")
        .dir("lib/described", 0o700, (1, 2))
        .file("lib/described/file", b"3")
        .file("abs/absolute", b"through an absolute one")
        .add(T::Link, "data/link", "data/orig", b"", 0o644, (0, 0))
        .add(T::Link, "data/second", "data/link", b"", 0o644, (0, 0))
        .add(T::Link, "elsewhere", "lib/known", b"", 0o644, (0, 0))
        .file("opt/deep/x", b"its parents are below")
        .file("twice", b"first, and longer")
        .file("twice", b"second")
        .file("turn", b"a file")
        .dir("turn", 0o755, (0, 0))
        .file("turn/in", b"x")
        .file("turn", b"a file again")
        .file(".wh.gone", b"")
        .add(T::Symlink, "chain-1", "chain-2", b"", 0o777, (0, 0))
        .add(T::Symlink, "chain-2", "target", b"", 0o777, (0, 0))
        .dir("target", 0o755, (0, 0))
        .file("chain-1/through", b"two links")
        .add(T::Char, "null", "", b"", 0o666, (0, 0));
    // A PAX record has the last word on the size.
    upper.pax(&[("size", b"5")]);
    let mut h = tar::Header::new_gnu();
    h.set_entry_type(T::Regular);
    h.set_path("pax-size").unwrap();
    h.set_size(0);
    h.set_mode(0o644);
    h.set_mtime(7);
    h.set_uid(0);
    h.set_gid(0);
    h.set_cksum();
    upper.0.append(&h, &b"12345"[..]).unwrap();
    let name = std::ffi::OsStr::from_bytes(b"not-utf8-\xff\xfe");
    h.set_size(3);
    upper.0.append_data(&mut h, name, &b"raw"[..]).unwrap();
    upper.bytes()
}

#[test]
#[ignore = "needs root"]
fn every_edge_case_comes_out_as_from_umoci() {
    // Not as from containerd: its overlayfs unpacks each layer apart, too, and refuses what it cannot find in it.
    let place = Place::new();
    let (reference, layout) = place.push("edges", &[base(), edges()]);
    let ours = place.ours("edges", &reference);
    same(&ours, &place.umocis(&layout), "umoci, edges");
}

#[test]
#[ignore = "needs root"]
fn sparse_files_come_out_as_from_gnu_tar() {
    // umoci and containerd refuse the first form.
    let place = Place::new();
    let forms: [&[&str]; 4] = [
        &["--format=gnu"],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ];
    for (number, form) in forms.iter().enumerate() {
        let name = format!("sparse-{number}");
        let layer = sparse(place.dir.path(), form);
        let (reference, _) = place.push(&name, std::slice::from_ref(&layer));
        let extracted = place.dir.path().join(&name).join("extracted");
        std::fs::create_dir(&extracted).unwrap();
        let archive = extracted.with_extension("tar");
        std::fs::write(&archive, layer).unwrap();
        run(
            "tar",
            Command::new("tar")
                .args(["--numeric-owner", "-xpf"])
                .arg(&archive)
                .arg("-C")
                .arg(&extracted),
        );
        let (mut ours, mut wanted) = (place.ours(&name, &reference), described(&extracted));
        // The root itself is in no archive.
        ours.remove(Path::new(""));
        wanted.remove(Path::new(""));
        assert_eq!(wanted.len(), 1);
        same(&ours, &wanted, &format!("tar, {name}"));
    }
}

/// The files of installed packages, as one layer.
fn packages(names: &[&str]) -> Vec<u8> {
    let list = Command::new("dpkg-query")
        .arg("-L")
        .args(names)
        .output()
        .unwrap();
    assert!(list.status.success(), "dpkg-query: {names:?}");
    let mut paths: Vec<&str> = std::str::from_utf8(&list.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| line.strip_prefix('/'))
        // Of this machine, and on the move.
        .filter(|name| !matches!(*name, "." | "sys" | "proc" | "dev" | "run" | "tmp"))
        .filter(|name| Path::new("/").join(name).symlink_metadata().is_ok())
        .collect();
    paths.sort_unstable();
    paths.dedup();
    let mut tar = Command::new("tar")
        .args([
            "--format=posix",
            "--xattrs",
            "--xattrs-include=*",
            "--no-recursion",
            "-C",
            "/",
            "-T",
            "-",
            "-cf",
            "-",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = tar.stdin.take().unwrap();
    let names = paths.join("\n");
    let feeder = std::thread::spawn(move || stdin.write_all(names.as_bytes()).unwrap());
    let done = tar.wait_with_output().unwrap();
    feeder.join().unwrap();
    assert!(done.status.success() && done.stdout.len() > 100_000);
    done.stdout
}

#[test]
#[ignore = "needs root"]
fn images_of_debian_packages_come_out_as_from_umoci_and_containerd() {
    let place = Place::new();
    let containerd = Containerd::start(place.dir.path());
    let shell = packages(&["base-files", "bash", "coreutils", "libc6", "libtinfo6"]);
    let mut removals = Tar::new();
    removals
        .dir("usr", 0o755, (0, 0))
        .dir("usr/share", 0o755, (0, 0))
        .dir("usr/share/doc", 0o755, (0, 0))
        .file("usr/share/doc/.wh..wh..opq", b"")
        .file("usr/share/.wh.locale", b"")
        .file("usr/bin/.wh.sha256sum", b"");
    let images = [
        ("shell", vec![shell.clone()]),
        (
            "perl",
            vec![
                shell.clone(),
                packages(&["perl-base", "util-linux", "mount", "passwd"]),
            ],
        ),
        (
            "thinner",
            vec![
                shell,
                packages(&["python3-minimal", "dpkg", "git-man"]),
                removals.bytes(),
            ],
        ),
    ];
    for (name, layers) in images {
        let (reference, layout) = place.push(name, &layers);
        let ours = place.ours(name, &reference);
        assert!(ours.len() > 300, "{}", ours.len());
        same(&ours, &place.umocis(&layout), &format!("umoci, {name}"));
        same(
            &ours,
            &containerd.tree(&reference),
            &format!("containerd, {name}"),
        );
    }
}

#[test]
#[ignore = "needs root"]
fn more_layers_than_a_mount_option_holds_lie_upon_each_other() {
    let place = Place::new();
    let layers: Vec<Vec<u8>> = (0..300)
        .map(|number| {
            let mut layer = Tar::new();
            layer.file(&format!("of-{number}"), b"x");
            layer.file("top", format!("{number}").as_bytes()).bytes()
        })
        .collect();
    let (reference, _) = place.push("many", &layers);
    let pulled = place.runtime.block_on(place.store.pull(&reference, |_| {}));
    let root = place.store.mount_root("many", &pulled.unwrap()).unwrap();
    let root_path = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
    assert_eq!(std::fs::read_dir(&root_path).unwrap().count(), 301);
    assert_eq!(std::fs::read(root_path.join("top")).unwrap(), b"299");
    drop(root);
    place.store.remove_root("many").unwrap();
}
