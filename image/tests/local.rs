//! Archives of real parts: skopeo and umoci make what is loaded, and skopeo, umoci and podman read what was saved. Needs
//! root.
//!
//! Works below the temporary directory. podman mounts there, in the mount namespace that the test is started in.

mod docker_registry;
mod registry;
mod rich;

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use docker_registry::{layout, run};
use longshore_image::{Format, Image, Load, Origin, Registries, Store};
use rich::{described, rich_layers};

type Seen = BTreeMap<PathBuf, String>;

struct House {
    store: Store,
    mounted: u32,
}

impl House {
    fn new(dir: &Path) -> House {
        let store = Store::open(&dir.join("store"), Registries::default()).unwrap();
        House { store, mounted: 0 }
    }

    fn load(&self, source: PathBuf, wanted: &Load) -> Image {
        let loaded = self.store.load(Origin::Path(source), wanted, |_| ());
        loaded.unwrap().remove(0)
    }

    fn seen(&mut self, image: &Image) -> Seen {
        self.mounted += 1;
        let id = format!("root-{}", self.mounted);
        let root = self.store.mount_root(&id, image).unwrap();
        let seen = described(Path::new(&format!("/proc/self/fd/{}", root.as_raw_fd())));
        drop(root);
        self.store.remove_root(&id).unwrap();
        seen
    }

    fn save(&self, name: &str, format: Format, to: &Path) {
        let saving = self.store.save(&[name.to_owned()], format).unwrap();
        saving.write(std::fs::File::create(to).unwrap()).unwrap();
        assert_eq!(std::fs::metadata(to).unwrap().len(), saving.size());
    }
}

fn skopeo(words: &[&str]) {
    run("skopeo", Command::new("skopeo").args(words));
}

fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {words}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn same(seen: &Seen, wanted: &Seen, who: &str) {
    for (path, line) in wanted {
        assert_eq!(seen.get(path), Some(line), "{who}: {}", path.display());
    }
    let extra: Vec<_> = seen
        .keys()
        .filter(|path| !wanted.contains_key(*path))
        .collect();
    assert!(extra.is_empty(), "{who}: {extra:?}");
}

fn umoci(layout: &Path, tag: &str, bundle: &Path) -> Seen {
    run(
        "umoci",
        Command::new("umoci")
            .args(["unpack", "--image"])
            .arg(format!("{}:{tag}", layout.display()))
            .arg(bundle),
    );
    described(&bundle.join("rootfs"))
}

#[test]
#[ignore = "needs root"]
fn what_skopeo_copies_anywhere_is_loaded_as_umoci_unpacks_it() {
    let dir = tempfile::tempdir().unwrap();
    let layout = layout(dir.path(), &rich_layers());
    let wanted = umoci(&layout, "t", &dir.path().join("bundle"));
    assert!(wanted.len() > 100);
    let mut house = House::new(dir.path());
    let source = format!("oci:{}:t", layout.display());
    let at = |name: &str| dir.path().join(name);
    let copy = |to: String| skopeo(&["copy", "--insecure-policy", &source, &to]);
    copy(format!("oci:{}:registry.example/a:1", at("copy").display()));
    copy(format!(
        "oci-archive:{}:registry.example/a:2",
        at("a.tar").display()
    ));
    copy(format!(
        "docker-archive:{}:registry.example/a:3",
        at("d.tar").display()
    ));
    let zstd = "--dest-compress-format=zstd";
    let to = format!("oci:{}:registry.example/a:4", at("zstd").display());
    skopeo(&[
        "copy",
        "--insecure-policy",
        "--dest-compress",
        zstd,
        &source,
        &to,
    ]);
    for (name, reference) in [
        ("copy", "registry.example/a:1"),
        ("a.tar", "registry.example/a:2"),
        ("d.tar", "registry.example/a:3"),
        ("zstd", "registry.example/a:4"),
    ] {
        let image = house.load(at(name), &Load::default());
        assert_eq!(image.reference, reference);
        same(&house.seen(&image), &wanted, name);
    }
    // umoci's own layout has only a tag.
    let tagged = Load {
        tag: Some("a:5".to_owned()),
        ..Load::default()
    };
    let image = house.load(layout, &tagged);
    same(&house.seen(&image), &wanted, "umoci");
}

#[test]
#[ignore = "needs root"]
fn what_was_saved_is_the_same_tree_to_umoci_podman_and_ourselves() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut house = House::new(dir.path());
    let name = "registry.example/team/a:1";
    let tagged = Load {
        tag: Some(name.to_owned()),
        ..Load::default()
    };
    let layout = layout(dir.path(), &rich_layers());
    let original = format!("docker-archive:{}:{name}", at("original.tar").display());
    skopeo(&[
        "copy",
        "--insecure-policy",
        &format!("oci:{}:t", layout.display()),
        &original,
    ]);
    let image = house.load(layout, &tagged);
    let wanted = house.seen(&image);
    assert!(wanted.len() > 100);
    // podman takes directories that a layer does not describe from nowhere, and gives each root a mode of its own: what it
    // makes of the archive is compared with what it makes of the original.
    let to_podman = by_podman(&at("original.tar"), &at("podman"), name);
    assert_eq!(to_podman.len(), wanted.len());
    house.save(name, Format::Oci, &at("saved.tar"));
    house.save(name, Format::Docker, &at("docker.tar"));

    for (transport, file) in [
        ("oci-archive", "saved.tar"),
        ("docker-archive", "docker.tar"),
    ] {
        let archive = format!("{transport}:{}", at(file).display());
        let seen = said(Command::new("skopeo").args(["inspect", &archive]));
        let seen: serde_json::Value = serde_json::from_str(&seen).unwrap();
        assert_eq!(seen["Layers"].as_array().unwrap().len(), 3, "{seen}");
        let config = said(Command::new("skopeo").args(["inspect", "--config", &archive]));
        assert!(config.contains("app:staff"), "{config}");

        let again = at(&format!("again-{file}"));
        let mut other = House::new(&again);
        let image = other.load(at(file), &Load::default());
        assert_eq!(image.reference, name);
        same(&other.seen(&image), &wanted, file);
        let seen = by_podman(&at(file), &at(&format!("podman-{file}")), name);
        same(&seen, &to_podman, "podman");
    }

    let unpacked = at("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    run(
        "tar",
        Command::new("tar")
            .arg("-C")
            .arg(&unpacked)
            .arg("-xf")
            .arg(at("saved.tar")),
    );
    same(&umoci(&unpacked, "1", &at("bundle")), &wanted, "umoci");
}

/// The tree that podman makes of an archive.
fn by_podman(archive: &Path, storage: &Path, name: &str) -> Seen {
    // podman refuses a path of more than 50 characters here.
    let run_root = tempfile::tempdir_in("/run").unwrap();
    let podman = || {
        let mut podman = Command::new("podman");
        podman
            .arg("--root")
            .arg(storage.join("root"))
            .arg("--runroot")
            .arg(run_root.path());
        podman.args(["--storage-driver", "overlay"]);
        podman
    };
    run(
        "podman",
        podman().args(["load", "--quiet", "--input"]).arg(archive),
    );
    let mounted = said(podman().args(["image", "mount", name]));
    let seen = described(Path::new(mounted.trim()));
    run("podman", podman().args(["image", "unmount", name]));
    run("podman", podman().args(["image", "rm", name]));
    // podman keeps its storage's own directory mounted.
    let overlay = storage.join("root/overlay");
    rustix::mount::unmount(&overlay, rustix::mount::UnmountFlags::DETACH).ok();
    seen
}

#[test]
#[ignore = "needs root"]
fn a_root_file_system_that_tar_packed_is_the_same_tree() {
    let dir = tempfile::tempdir().unwrap();
    let mut house = House::new(dir.path());
    let layout = layout(dir.path(), &rich_layers());
    let rootfs = dir.path().join("bundle/rootfs");
    let wanted = umoci(&layout, "t", &dir.path().join("bundle"));
    let archive = dir.path().join("rootfs.tar");
    let mut tar = Command::new("tar");
    tar.args([
        "--format=pax",
        "--xattrs",
        "--xattrs-include=user.*",
        "--xattrs-include=security.capability",
    ]);
    run(
        "tar",
        tar.arg("-C").arg(&rootfs).arg("-cf").arg(&archive).arg("."),
    );
    let wanted_name = Load {
        rootfs: true,
        tag: Some("base:1".to_owned()),
        only: None,
    };
    let image = house.load(archive, &wanted_name);
    let seen = house.seen(&image);
    // umoci marks its own root; tar kept that.
    same(&seen, &wanted, "rootfs");
}
