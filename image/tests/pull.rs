//! Pulls from a registry in this process: what is asked, what is fetched, what is kept. No privilege needed.

mod house;
mod registry;

use std::sync::Mutex;

use house::{house, names};
use http::StatusCode;
use longshore_image::{Progress, Registries};
use registry::{INDEX, MANIFEST, Registry, digest, gzip, noise, tar_of};
use serde_json::json;

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
