//! Real parts: Debian's docker-registry, skopeo, umoci, the kernel's overlayfs. Needs root.
//!
//! Works below the temporary directory; mounts nothing that anybody else can see.

mod docker_registry;
mod registry;
mod rich;

use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use docker_registry::{DockerRegistry, layout, run};
use longshore_image::{Registries, Store, resolve_user};
use rich::{Tar, described, rich_layers};

fn mounts() -> usize {
    std::fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .count()
}

#[test]
#[ignore = "needs root"]
fn a_root_is_what_umoci_unpacks_from_the_same_image() {
    let dir = tempfile::tempdir().unwrap();
    let before = mounts();
    let registry = DockerRegistry::start(dir.path(), "");
    let layout = layout(dir.path(), &rich_layers());
    let source = format!("oci:{}:t", layout.display());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = Store::open(&dir.path().join("store"), Registries::default()).unwrap();
    run(
        "umoci",
        Command::new("umoci")
            .args(["unpack", "--image"])
            .arg(format!("{}:t", layout.display()))
            .arg(dir.path().join("bundle")),
    );
    let wanted = described(&dir.path().join("bundle/rootfs"));
    assert!(wanted.len() > 100);

    // The same image as OCI and as Docker schema 2.
    for format in ["oci", "v2s2"] {
        let name = format!("{}/some/{format}:t", registry.authority);
        run(
            "skopeo",
            Command::new("skopeo")
                .args([
                    "copy",
                    "--insecure-policy",
                    "--dest-tls-verify=false",
                    "--format",
                    format,
                ])
                .arg(&source)
                .arg(format!("docker://{name}")),
        );
        let image = runtime.block_on(store.pull(&name, |_| {})).unwrap();
        assert_eq!(image.layers.len(), 3);
        let root = store.mount_root(format, &image).unwrap();
        let seen = described(Path::new(&format!("/proc/self/fd/{}", root.as_raw_fd())));
        for (path, line) in &wanted {
            assert_eq!(seen.get(path), Some(line), "{}", path.display());
        }
        let extra: Vec<_> = seen
            .keys()
            .filter(|path| !wanted.contains_key(*path))
            .collect();
        assert!(extra.is_empty(), "{extra:?}");

        use std::os::fd::AsFd;
        let user = image
            .config
            .config()
            .as_ref()
            .unwrap()
            .user()
            .clone()
            .unwrap();
        let user = resolve_user(root.as_fd(), &user).unwrap();
        assert_eq!(
            (user.uid, user.gid, user.home.as_str()),
            (1000, 50, "/home/app")
        );
    }
    assert_eq!(store.roots().unwrap(), ["oci", "v2s2"]);
    assert_eq!(mounts(), before);
    for id in ["oci", "v2s2", "v2s2", "never-was"] {
        store.remove_root(id).unwrap();
    }
    assert_eq!(store.roots().unwrap(), [""; 0]);
    assert_eq!(
        std::fs::read_dir(dir.path().join("store/ingest"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
#[ignore = "needs root"]
fn a_root_keeps_what_was_written_and_is_one_images() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let registry = runtime.block_on(registry::Registry::start());
    let store = Store::open(&dir.path().join("store"), Registries::default()).unwrap();
    let mut layer = Tar::new();
    layer
        .dir("./", 0o751, (7, 8))
        .dir("d", 0o755, (0, 0))
        .file("d/f", b"below");
    registry.push("a", "1", &[layer.bytes()]);
    registry.push("empty", "1", &[]);
    let pull = |name: &str| {
        runtime
            .block_on(store.pull(&registry.reference(name), |_| {}))
            .unwrap()
    };
    let image = pull("a:1");
    let write = |fd: &std::os::fd::OwnedFd, name: &str, data: &str| {
        std::fs::write(
            Path::new(&format!("/proc/self/fd/{}/{name}", fd.as_raw_fd())),
            data,
        )
        .unwrap();
    };
    let read = |fd: &std::os::fd::OwnedFd, name: &str| {
        std::fs::read_to_string(Path::new(&format!(
            "/proc/self/fd/{}/{name}",
            fd.as_raw_fd()
        )))
    };
    let root = store.mount_root("one", &image).unwrap();
    let meta = std::fs::metadata(format!("/proc/self/fd/{}", root.as_raw_fd())).unwrap();
    assert_eq!(
        (meta.mode() & 0o7777, meta.uid(), meta.gid()),
        (0o751, 7, 8)
    );
    write(&root, "d/f", "above");
    std::fs::rename(
        format!("/proc/self/fd/{}/d/f", root.as_raw_fd()),
        format!("/proc/self/fd/{}/moved", root.as_raw_fd()),
    )
    .unwrap();
    drop(root);
    let root = store.mount_root("one", &image).unwrap();
    assert_eq!(read(&root, "moved").unwrap(), "above");
    assert!(read(&root, "d/f").is_err());
    let other = store.mount_root("two", &image).unwrap();
    assert_eq!(read(&other, "d/f").unwrap(), "below");

    let empty = pull("empty:1");
    let error = store.mount_root("one", &empty).unwrap_err().to_string();
    assert!(error.contains("it is a root of image"), "{error}");
    let nothing = store.mount_root("three", &empty).unwrap();
    write(&nothing, "new", "x");
    assert_eq!(read(&nothing, "new").unwrap(), "x");
    drop((root, other, nothing));
    for id in store.roots().unwrap() {
        store.remove_root(&id).unwrap();
    }
    let mut left: Vec<_> = std::fs::read_dir(dir.path().join("store/ingest"))
        .unwrap()
        .collect();
    left.extend(std::fs::read_dir(dir.path().join("store/roots")).unwrap());
    assert_eq!(left.len(), 0);
    assert_eq!(dir.path().as_os_str().as_bytes().first(), Some(&b'/'));
}
