//! Pulls from a registry in this process that tells the truth, or does not. No privilege needed.

mod registry;

use std::path::Path;
use std::sync::{Arc, Mutex};

use http::StatusCode;
use longshore_image::{Credential, Image, Progress, Registries, Store};
use registry::{Auth, INDEX, MANIFEST, PASSWORD, Registry, TOKEN, digest, gzip, noise, tar_of};
use serde_json::json;

struct House {
    dir: tempfile::TempDir,
    store: Store,
}

fn house(registries: Registries) -> House {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), registries).unwrap();
    House { dir, store }
}

impl House {
    async fn pull(&self, reference: &str) -> Result<Image, String> {
        self.store
            .pull(reference, |_| {})
            .await
            .map_err(|e| e.to_string())
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("store")
    }

    fn file(&self, image: &Image, layer: usize, name: &str) -> Vec<u8> {
        let hex = image.layers[layer].strip_prefix("sha256:").unwrap();
        std::fs::read(
            self.path()
                .join("layers/sha256")
                .join(hex)
                .join("fs")
                .join(name),
        )
        .unwrap()
    }

    /// Nothing half-done, and no image.
    #[track_caller]
    fn holds_nothing(&self) {
        assert_eq!(names(&self.path().join("ingest")), [""; 0]);
        assert_eq!(names(&self.path().join("layers/sha256")), [""; 0]);
        assert_eq!(names(&self.path().join("refs")), [""; 0]);
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn credentials(registry: &Registry, password: &str) -> Registries {
    Registries {
        credentials: vec![Credential {
            registry: registry.authority.clone(),
            username: "user".into(),
            password: password.into(),
        }],
        ..Registries::default()
    }
}

#[tokio::test]
async fn an_image_is_pulled_once_and_asked_for_each_time() {
    let registry = Registry::start().await;
    let big = noise(3_000_000);
    let manifest = registry.push(
        "a/b",
        "1",
        &[tar_of(&[("f", &big)]), tar_of(&[("g", b"2")])],
    );
    let house = house(Registries::default());
    let told = Mutex::new(Vec::new());
    let tell = |progress| told.lock().unwrap().push(progress);
    let image = house
        .store
        .pull(&registry.reference("a/b:1"), tell)
        .await
        .unwrap();
    assert_eq!(image.manifest_digest, manifest);
    assert_eq!(image.reference, registry.reference("a/b:1"));
    assert_eq!(
        image
            .config
            .config()
            .as_ref()
            .unwrap()
            .cmd()
            .as_ref()
            .unwrap(),
        &["/bin/true"]
    );
    assert!(house.file(&image, 0, "f") == big);
    assert_eq!(house.file(&image, 1, "g"), b"2");
    let told = told.into_inner().unwrap();
    assert_eq!(told[0], Progress::Started);
    let last = |wanted: fn(&&Progress) -> bool| told.iter().rev().find(wanted);
    let fetched = last(|told| matches!(told, Progress::Fetched { .. }));
    assert!(
        matches!(fetched, Some(Progress::Fetched { bytes, of }) if bytes == of && *of > 3_000_000)
    );
    let layers = told.iter().filter_map(|told| match told {
        Progress::Layer(layer) => Some(layer),
        _ => None,
    });
    let waiting = layers.clone().filter(|l| l.bytes == 0 && !l.done).count();
    let done = layers.filter(|l| l.bytes == l.of && l.done).count();
    assert_eq!((waiting, done), (2, 2), "{told:?}");
    assert_eq!(names(&house.path().join("ingest")), [""; 0]);

    let blobs = registry.count("/blobs/");
    let told = Mutex::new(0);
    house
        .store
        .pull(&registry.reference("a/b:1"), |_| *told.lock().unwrap() += 1)
        .await
        .unwrap();
    assert_eq!(
        (registry.count("/blobs/"), *told.lock().unwrap()),
        (blobs, 0)
    );
    assert_eq!(registry.count("HEAD /v2/a/b/manifests/1"), 1);
    let stored = house.store.image(&manifest).unwrap().unwrap();
    assert_eq!(stored.layers, image.layers);
    assert!(house.store.image(&digest(b"other")).unwrap().is_none());
}

#[tokio::test]
async fn a_moved_tag_is_followed_and_known_layers_are_not_fetched() {
    let registry = Registry::start().await;
    let (base, one, two) = (
        tar_of(&[("base", b"0")]),
        tar_of(&[("v", b"1")]),
        tar_of(&[("v", b"2")]),
    );
    let house = house(Registries::default());
    registry.push("a", "t", &[base.clone(), one]);
    let first = house.pull(&registry.reference("a:t")).await.unwrap();
    registry.push("a", "t", &[base.clone(), two.clone()]);
    let second = house.pull(&registry.reference("a:t")).await.unwrap();
    assert_ne!(first.manifest_digest, second.manifest_digest);
    assert_eq!(house.file(&second, 1, "v"), b"2");
    let base_blob = format!("/blobs/{}", digest(&gzip(&base)));
    assert_eq!(registry.count(&base_blob), 1);
    assert!(house.store.image(&first.manifest_digest).unwrap().is_some());
}

#[tokio::test]
async fn an_index_gives_this_hosts_image_and_a_digest_needs_no_network_once_stored() {
    let registry = Registry::start().await;
    let own = registry.push("a", "own", &[tar_of(&[("f", b"x")])]);
    let size = registry.state().manifests[&format!("a/manifests/{own}")]
        .1
        .len();
    let line = |arch: &str, digest: &str, size: usize| {
        json!({"mediaType": MANIFEST, "digest": digest, "size": size,
            "platform": {"os": "linux", "architecture": arch}})
    };
    let lines = [
        line("s390x", &digest(b"no"), 2),
        line(registry::arch(), &own, size),
    ];
    let index = registry.manifest(
        "a",
        "all",
        INDEX,
        json!({"schemaVersion": 2, "manifests": lines}),
    );
    let house = house(Registries::default());
    let image = house.pull(&registry.reference("a:all")).await.unwrap();
    assert_eq!(image.manifest_digest, own);
    let by_index = registry.reference(&format!("a@{index}"));
    house.pull(&by_index).await.unwrap();
    let by_manifest = registry.reference(&format!("a@{own}"));
    drop(registry);
    for stored in [by_index, by_manifest] {
        assert_eq!(house.pull(&stored).await.unwrap().manifest_digest, own);
    }
    let gone = house
        .pull(
            &image
                .reference
                .replace(":all", "@")
                .replace("@", &format!("@{}", digest(b"x"))),
        )
        .await;
    assert!(gone.unwrap_err().contains("cannot be reached"));
}

#[tokio::test]
async fn the_stored_image_serves_only_while_the_registry_cannot_be_reached() {
    let registry = Registry::start().await;
    registry.push("a", "t", &[tar_of(&[("f", b"x")])]);
    let reference = registry.reference("a:t");
    let house = house(Registries::default());
    let image = house.pull(&reference).await.unwrap();
    for (status, said) in [
        (StatusCode::NOT_FOUND, "unknown image"),
        (StatusCode::UNAUTHORIZED, "unauthorized"),
        (StatusCode::FORBIDDEN, "unauthorized"),
    ] {
        registry.state().status = Some(status);
        let error = house.pull(&reference).await.unwrap_err();
        assert!(
            error.contains(said) && error.contains(&reference),
            "{error}"
        );
    }
    registry.state().status = None;
    registry.state().busy = 100;
    assert_eq!(
        house.pull(&reference).await.unwrap().manifest_digest,
        image.manifest_digest
    );
    drop(registry);
    assert_eq!(
        house.pull(&reference).await.unwrap().manifest_digest,
        image.manifest_digest
    );
    let other = house
        .pull(&reference.replace("a:t", "a:u"))
        .await
        .unwrap_err();
    assert!(
        other.contains("cannot be reached") && other.contains("Connection refused"),
        "{other}"
    );
}

#[tokio::test]
async fn an_unknown_image_is_named() {
    let registry = Registry::start().await;
    let house = house(Registries::default());
    let error = house
        .pull(&registry.reference("no/such:1"))
        .await
        .unwrap_err();
    assert_eq!(
        error,
        format!(
            "fetch manifest {0}/no/such:1: unknown image at registry {0} (MANIFEST_UNKNOWN: said the registry); \
             check name and tag, or push it first",
            registry.authority
        )
    );
    let digest = format!("sha256:{}", "0".repeat(64));
    let pinned = format!("{}/no/such@{digest}", registry.authority);
    let error = house.pull(&pinned).await.unwrap_err();
    let remedy =
        "; check name and digest: a digest changes with each push; or push that image again";
    assert!(
        error.starts_with(&format!(
            "fetch manifest {pinned}: no image of this digest at registry"
        )) && error.ends_with(remedy),
        "{error}"
    );
    let error = house.pull("no.such.invalid/a").await.unwrap_err();
    assert!(
        error.contains("registry no.such.invalid cannot be reached"),
        "{error}"
    );
    house.holds_nothing();
}

#[tokio::test]
async fn lies_about_content_are_named_and_leave_nothing() {
    let registry = Registry::start().await;
    let tar = tar_of(&[("f", &noise(5000))]);
    let refused = async |reference: &str, said: &str| {
        let house = house(Registries::default());
        let error = house
            .pull(&registry.reference(reference))
            .await
            .unwrap_err();
        assert!(error.contains(said), "{said}: {error}");
        house.holds_nothing();
    };
    registry.push("a", "t", std::slice::from_ref(&tar));
    registry.state().damage = Some(4000);
    refused("a:t", "wrong digest: the bytes have").await;
    registry.state().damage = Some(0);
    refused("a:t", "wrong digest: asked for").await;
    registry.state().damage = None;

    let other = digest(b"other");
    registry.push_with(
        "b",
        "t",
        std::slice::from_ref(&tar),
        std::slice::from_ref(&other),
    );
    refused(
        "b:t",
        &format!("wrong diff ID: the image's configuration says {other}"),
    )
    .await;
    registry.push_with("c", "t", &[], &[other]);
    refused("c:t", "names 1 diff IDs, the manifest 0 layers").await;

    registry.state().tag_digest = Some(digest(b"lie"));
    refused("a:t", "wrong digest: the registry says").await;
    registry.state().tag_digest = None;
    let (media_type, bytes) = registry.state().manifests["a/manifests/t"].clone();
    let asked = format!("a/manifests/{}", digest(b"asked"));
    registry
        .state()
        .manifests
        .insert(asked, (media_type, bytes));
    refused(
        &format!("a@{}", digest(b"asked")),
        "wrong digest: asked for",
    )
    .await;

    registry.push("d", "t", &[tar_of(&[("../../../escape", b"bad")])]);
    refused("d:t", "entry `../../../escape` is refused").await;
    let huge = vec![b' '; 4 * 1024 * 1024 + 1];
    registry
        .state()
        .manifests
        .insert("e/manifests/t".into(), (MANIFEST.into(), huge));
    refused("e:t", "sent more than 4194304 bytes").await;
    let v1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    registry.manifest("f", "t", v1, json!({"schemaVersion": 1}));
    refused("f:t", "schema 1").await;
}

#[tokio::test]
async fn sizes_that_are_not_as_promised_are_named() {
    let registry = Registry::start().await;
    let house = house(Registries::default());
    let tar = tar_of(&[("f", &noise(5000))]);
    let layer = registry.blob("application/vnd.oci.image.layer.v1.tar", tar.clone());
    let config = json!({"architecture": registry::arch(), "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [digest(&tar)]}});
    let config = registry.blob(
        "application/vnd.oci.image.config.v1+json",
        config.to_string().into_bytes(),
    );
    for (size, said) in [
        (tar.len() - 1, "longer than the"),
        (tar.len() + 1, "truncated:"),
    ] {
        let mut layer = layer.clone();
        layer["size"] = json!(size);
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
        registry.manifest("a", "t", MANIFEST, manifest);
        registry.state().ranges = false;
        let error = house.pull(&registry.reference("a:t")).await.unwrap_err();
        assert!(error.contains(said), "{error}");
        house.holds_nothing();
    }
}

#[tokio::test]
async fn a_broken_download_is_taken_up_where_it_broke() {
    let registry = Registry::start().await;
    let data = noise(400_000);
    registry.push("a", "t", &[tar_of(&[("f", &data)])]);
    for ranges in [true, false] {
        let house = house(Registries::default());
        registry.state().ranges = ranges;
        registry.state().cut = (2, 150_000);
        let before = registry.count("/blobs/");
        let image = house.pull(&registry.reference("a:t")).await.unwrap();
        assert!(house.file(&image, 0, "f") == data);
        // The configuration, and the layer in three goes.
        assert_eq!(registry.count("/blobs/") - before, 4, "ranges {ranges}");
    }
    let house = house(Registries::default());
    registry.state().cut = (100, 1000);
    let error = house.pull(&registry.reference("a:t")).await.unwrap_err();
    assert!(
        error.contains("broken off after") && error.contains("try again"),
        "{error}"
    );
    house.holds_nothing();
}

#[tokio::test]
async fn a_busy_registry_is_asked_again() {
    let registry = Registry::start().await;
    registry.push("a", "t", &[tar_of(&[("f", b"x")])]);
    registry.state().busy = 3;
    house(Registries::default())
        .pull(&registry.reference("a:t"))
        .await
        .unwrap();
    registry.state().busy = 100;
    let error = house(Registries::default())
        .pull(&registry.reference("a:t"))
        .await
        .unwrap_err();
    assert!(error.contains("429 Too Many Requests 4 times"), "{error}");
}

#[tokio::test]
async fn private_registries_are_opened_by_token_and_by_password_and_tell_neither() {
    let registry = Registry::start().await;
    registry.push("a/b", "t", &[tar_of(&[("f", b"x")])]);
    let reference = registry.reference("a/b:t");
    for auth in [Auth::Token, Auth::Basic] {
        registry.state().auth = auth;
        let good = credentials(&registry, PASSWORD);
        let house = house(good);
        house.pull(&reference).await.unwrap();
        let debug = format!("{:?}", house.store);
        assert!(
            !debug.contains(PASSWORD) && !debug.contains(TOKEN),
            "{debug}"
        );
        for bad in [Registries::default(), credentials(&registry, "wr0ng")] {
            let house = self::house(bad);
            let error = house.pull(&reference).await.unwrap_err();
            assert!(
                error.contains("unauthorized") && !error.contains("wr0ng"),
                "{error}"
            );
            house.holds_nothing();
        }
    }
    // One token serves a whole pull.
    registry.state().auth = Auth::Token;
    registry.state().asked.clear();
    house(credentials(&registry, PASSWORD))
        .pull(&reference)
        .await
        .unwrap();
    assert_eq!(registry.count("/token"), 1);
}

#[tokio::test]
async fn a_redirect_is_followed_without_the_token() {
    let (registry, storage) = (Registry::start().await, Registry::start().await);
    let tar = tar_of(&[("f", b"x")]);
    registry.push("a/b", "t", std::slice::from_ref(&tar));
    storage.push("a/b", "t", &[tar]);
    registry.state().auth = Auth::Token;
    registry.state().redirect = Some(format!("http://{}", storage.authority));
    let house = house(credentials(&registry, PASSWORD));
    house.pull(&registry.reference("a/b:t")).await.unwrap();
    assert_eq!(storage.count("GET /cdn/a/b/blobs/"), 2);
    assert!(registry.state().blob_saw_authorization && !storage.state().blob_saw_authorization);

    // A challenge of the storage must not be answered with the registry's secrets.
    storage.state().auth = Auth::Basic;
    let house = self::house(credentials(&registry, PASSWORD));
    let error = house.pull(&registry.reference("a/b:t")).await.unwrap_err();
    assert!(
        error.contains("unauthorized") && !error.contains("s3cr3t"),
        "{error}"
    );
    assert!(!storage.state().blob_saw_authorization);

    registry.state().redirect = Some(format!("http://{}", registry.authority));
    let error = house.pull(&registry.reference("a/b:t")).await.unwrap_err();
    assert!(
        error.contains("redirected more than 5 times") && !error.contains("s3cr3t"),
        "{error}"
    );
    registry.state().redirect = Some("http://192.0.2.1".into());
    let error = house.pull(&registry.reference("a/b:t")).await.unwrap_err();
    assert!(
        error.contains("redirect to plain http (192.0.2.1) is refused"),
        "{error}"
    );
}

#[tokio::test]
async fn tls_needs_a_known_authority_and_never_falls_back_to_plain() {
    let cert =
        rcgen::generate_simple_self_signed(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rustls::pki_types::PrivateKeyDer::try_from(cert.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.cert.der().clone()], key)
        .unwrap();
    let registry = Registry::with_tls(Some(Arc::new(config).into())).await;
    registry.push("a", "t", &[tar_of(&[("f", b"x")])]);
    let stranger = house(Registries::default());
    let error = stranger.pull(&registry.reference("a:t")).await.unwrap_err();
    assert!(
        error.contains("TLS with registry") && error.contains("UnknownIssuer"),
        "{error}"
    );
    assert_eq!(registry.count(""), 0);

    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, cert.cert.pem()).unwrap();
    let friend = house(Registries {
        ca_files: vec![ca],
        ..Registries::default()
    });
    friend.pull(&registry.reference("a:t")).await.unwrap();
}

#[tokio::test]
async fn one_download_serves_pulls_that_meet() {
    let registry = Registry::start().await;
    let tar = tar_of(&[("f", &noise(100_000))]);
    registry.push("a", "1", std::slice::from_ref(&tar));
    registry.push("b", "1", std::slice::from_ref(&tar));
    let house = house(Registries::default());
    let (one, two) = (registry.reference("a:1"), registry.reference("b:1"));
    let (one, two) = tokio::join!(house.pull(&one), house.pull(&two));
    assert_eq!(one.unwrap().layers, two.unwrap().layers);
    assert_eq!(registry.count(&digest(&gzip(&tar))), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_dropped_leaves_nothing_and_can_be_repeated() {
    let registry = Registry::start().await;
    registry.push("a", "t", &[tar_of(&[("f", &noise(100_000))])]);
    let gate = Arc::new(tokio::sync::Notify::new());
    let house = house(Registries::default());
    let reference = registry.reference("a:t");
    {
        registry.state().gate = Some(Arc::clone(&gate));
        gate.notify_one();
        let started = Arc::new(tokio::sync::Notify::new());
        let tell = Arc::clone(&started);
        let pull = house.store.pull(&reference, move |_| tell.notify_one());
        tokio::select! {
            _ = pull => panic!("the layer is held back"),
            () = started.notified() => {}
        }
    }
    registry.state().gate = None;
    gate.notify_waiters();
    let image = house.pull(&reference).await.unwrap();
    assert_eq!(house.file(&image, 0, "f").len(), 100_000);
    drop(house.store);
    let again = Store::open(&house.dir.path().join("store"), Registries::default());
    // The dropped pull's unpacker may still hold the store for a moment: then the lock says so by name.
    match again {
        Ok(_) => assert_eq!(names(&house.dir.path().join("store/ingest")), [""; 0]),
        Err(error) => assert!(
            error
                .to_string()
                .contains("another process uses this store")
        ),
    }
}

#[tokio::test]
async fn a_store_is_one_processs_and_forgets_what_was_half_done() {
    let registry = Registry::start().await;
    registry.push("a", "t", &[tar_of(&[("f", b"x")])]);
    let house = house(Registries::default());
    let image = house.pull(&registry.reference("a:t")).await.unwrap();
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

    let through = layer(&[entry("lib/x", tar::EntryType::Regular, 0o600)]);
    registry.push("b", "t", &[base, through]);
    let error = house.pull(&registry.reference("b:t")).await.unwrap_err();
    assert!(
        error.contains("entries below `lib`") && error.contains("symbolic link"),
        "{error}"
    );
    assert_eq!(names(&house.path().join("ingest")), [""; 0]);
}
