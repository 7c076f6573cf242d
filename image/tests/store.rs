//! What is in a store and stays there: one process's, crash after crash, and how layers lie upon each other. No privilege
//! needed.

mod house;
mod registry;

use house::{house, names};
use longshore_image::{Registries, Store};
use registry::{Registry, digest, tar_of};

#[tokio::test]
async fn a_store_is_one_processs_and_forgets_what_was_half_done() {
    let registry = Registry::start().await;
    registry.push("a", "t", &[tar_of(&[("f", b"x")])]);
    let house = house(Registries::default());
    let image = house.pull(&registry.reference("a:t")).await.unwrap();
    house.store.sync().unwrap();
    let path = house.path();
    let error = Store::open(&path, Registries::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("another process uses this store"), "{error}");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
    drop(house.store);

    let hex = image.layers[0].strip_prefix("sha256:").unwrap().to_owned();
    let layer = path.join("layers/sha256").join(&hex);
    assert!(layer.join("synced").exists());
    std::fs::create_dir_all(path.join("ingest/half/done")).unwrap();
    // As a power cut may leave it: a layer that was never synced, from an earlier boot.
    let doubtful = path.join("layers/sha256").join("0".repeat(64));
    std::fs::create_dir_all(doubtful.join("fs")).unwrap();
    std::fs::write(
        doubtful.join("layer.json"),
        r#"{"version":1,"boot":"another","outline":{"entries":0,"bytes":0,"opaque_root":false,"has_root":false,"implied":[]}}"#,
    )
    .unwrap();
    let store = Store::open(&path, Registries::default()).unwrap();
    assert_eq!(names(&path.join("ingest")), [""; 0]);
    assert_eq!(names(&path.join("layers/sha256")), [hex]);
    assert!(store.image(&image.manifest_digest).unwrap().is_some());

    // Damaged records are set aside, and the image is pulled anew.
    let record = path.join("refs").join(&names(&path.join("refs"))[0]);
    std::fs::write(&record, "{").unwrap();
    let config = path.join("configs").join(&names(&path.join("configs"))[0]);
    std::fs::write(&config, "{}").unwrap();
    assert!(store.image(&image.manifest_digest).unwrap().is_none());
    store
        .pull(&registry.reference("a:t"), |_| {})
        .await
        .unwrap();
    assert!(store.image(&image.manifest_digest).unwrap().is_some());
    assert!(record.exists() && record.with_extension("json.bad").exists());
}

#[tokio::test]
async fn a_directory_that_a_layer_does_not_describe_keeps_what_the_layer_below_says() {
    use std::os::unix::fs::PermissionsExt;
    let registry = Registry::start().await;
    let entry = |name: &str, kind: tar::EntryType, mode: u32| {
        let mut h = tar::Header::new_ustar();
        h.set_entry_type(kind);
        h.set_size(0);
        h.set_mode(mode);
        h.set_uid(rustix::process::geteuid().as_raw().into());
        h.set_gid(rustix::process::getegid().as_raw().into());
        h.set_mtime(77);
        if kind.is_symlink() {
            h.set_link_name("usr").unwrap();
        }
        h.set_path(name).unwrap();
        h.set_cksum();
        h
    };
    let layer = |headers: &[tar::Header]| {
        let mut builder = tar::Builder::new(Vec::new());
        for header in headers {
            builder.append(header, &b""[..]).unwrap();
        }
        builder.into_inner().unwrap()
    };
    let base = layer(&[
        entry("tmp", tar::EntryType::Directory, 0o1777),
        entry("tmp/in", tar::EntryType::Directory, 0o700),
        entry("lib", tar::EntryType::Symlink, 0o777),
    ]);
    let upper = layer(&[
        entry("tmp/in/new", tar::EntryType::Regular, 0o600),
        entry("fresh/x", tar::EntryType::Regular, 0o600),
    ]);
    registry.push("a", "t", &[base.clone(), upper]);
    let house = house(Registries::default());
    let image = house.pull(&registry.reference("a:t")).await.unwrap();
    let chain = digest(format!("{} {}", image.layers[0], image.layers[1]).as_bytes());
    let seam = house
        .path()
        .join("layers/chain")
        .join(chain.strip_prefix("sha256:").unwrap());
    house.store.sync().unwrap();
    assert!(seam.join("synced").exists());
    for (name, mode) in [("tmp", 0o1777), ("tmp/in", 0o700), ("fresh", 0o755)] {
        let meta = std::fs::metadata(seam.join("fs").join(name)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o7777, mode, "{name}");
    }
    let mtime =
        std::os::unix::fs::MetadataExt::mtime(&std::fs::metadata(seam.join("fs/tmp")).unwrap());
    assert_eq!(mtime, 77);
    assert!(house.store.image(&image.manifest_digest).unwrap().is_some());
    std::fs::remove_dir_all(&seam).unwrap();
    assert!(house.store.image(&image.manifest_digest).unwrap().is_none());
    house.pull(&registry.reference("a:t")).await.unwrap();
    assert!(seam.join("layer.json").exists());
}
