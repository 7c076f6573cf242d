//! Mirrors: which are asked, what is believed of them, and what happens when they are sick. No privilege needed.

mod faulty;
mod registry;
mod visit;

use std::sync::Arc;

use faulty::image::OneLayer;
use faulty::{Reply, Server, reply};
use longshore_image::{Registries, Registry as Settings};
use registry::{Auth, Registry, digest, noise, tar_of};
use visit::{pull, registry_with, settings};

fn mirrors(name: &str, mirrors: &[&str]) -> Registries {
    let mirrors = mirrors.iter().map(|m| (*m).to_owned()).collect();
    settings(
        name,
        Settings {
            mirrors,
            ..Settings::default()
        },
    )
}

#[tokio::test]
async fn a_mirror_serves_instead_of_its_registry_and_under_its_prefix() {
    let mirror = Registry::start().await;
    mirror.push("hub/library/app", "t", &[tar_of(&[("f", b"x")])]);
    let at = format!("{}/hub", mirror.authority);
    pull(mirrors("docker.io", &[&at]), "app:t").await.unwrap();
    assert_eq!(mirror.count("/v2/hub/library/app/blobs/"), 2);
}

#[tokio::test]
async fn a_mirror_that_has_nothing_good_is_passed_over() {
    let registry = registry_with(Auth::None).await;
    let reference = registry.reference("a/b:t");
    let empty = Registry::start().await;
    pull(
        mirrors(&registry.authority, &[&empty.authority]),
        &reference,
    )
    .await
    .unwrap();
    // For what the name stands for, and for nothing below.
    assert_eq!((empty.count("/manifests/"), empty.count("/blobs/")), (1, 0));

    let damaged = registry_with(Auth::None).await;
    damaged.state().damage = Some(0);
    damaged.state().tag_digest = Some(registry::digest(b"other"));
    pull(
        mirrors(&registry.authority, &[&damaged.authority]),
        &reference,
    )
    .await
    .unwrap();

    // One that is down is asked once and then left out.
    let down = Server::start(|_| Reply::Reset).await;
    pull(mirrors(&registry.authority, &[&down.authority]), &reference)
        .await
        .unwrap();
    let connections = down.asked().len();
    assert!(connections <= 3, "{connections}");

    // If the registry fails too, its fault is the one told.
    registry.state().status = Some(http::StatusCode::FORBIDDEN);
    let error = pull(
        mirrors(&registry.authority, &[&empty.authority]),
        &reference,
    )
    .await;
    let error = error.unwrap_err();
    let named = format!("registry {} answered 403", registry.authority);
    assert!(error.contains(&named), "{error}");
}

#[tokio::test]
async fn a_mirrors_layer_that_is_too_long_is_fetched_from_the_registry() {
    let image = Arc::new(OneLayer::plain(tar_of(&[("f", &noise(50_000))])));
    let (served, lied) = (Arc::clone(&image), Arc::clone(&image));
    let layer = digest(&image.layer);
    let registry =
        Server::start(move |asked| served.answer(asked, |_| reply("200 OK", &[], &served.layer)))
            .await;
    let mirror = Server::start(move |asked| {
        lied.answer(asked, |_| {
            let head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
            Reply::Bytes([&head[..], &lied.layer, b"and more"].concat())
        })
    })
    .await;
    pull(
        mirrors(&registry.authority, &[&mirror.authority]),
        &format!("{}/a:t", registry.authority),
    )
    .await
    .unwrap();
    assert_eq!((mirror.count(&layer), registry.count(&layer)), (1, 1));
}

#[tokio::test]
async fn a_layer_that_a_mirror_breaks_off_is_taken_up_at_the_registry() {
    let tar = tar_of(&[("f", &noise(400_000))]);
    let (registry, mirror) = (Registry::start().await, Registry::start().await);
    for one in [&registry, &mirror] {
        one.push("a/b", "t", std::slice::from_ref(&tar));
    }
    mirror.state().cut = (100, 50_000);
    pull(
        mirrors(&registry.authority, &[&mirror.authority]),
        &registry.reference("a/b:t"),
    )
    .await
    .unwrap();
    assert_eq!(registry.count("/blobs/"), 1);
}

/// A pull-through cache that is told to wait, for instance; the registry is free.
#[tokio::test]
async fn a_mirror_that_is_busy_is_not_waited_for() {
    let registry = registry_with(Auth::None).await;
    let busy = Server::start(|_| {
        let later = [("retry-after", "20")];
        reply("429 Too Many Requests", &later, "")
    })
    .await;
    let reference = registry.reference("a/b:t");
    let registries = mirrors(&registry.authority, &[&busy.authority]);
    let asked = pull(registries, &reference);
    let patience = std::time::Duration::from_secs(15);
    tokio::time::timeout(patience, asked)
        .await
        .expect("the registry is free")
        .unwrap();
    assert_eq!(busy.asked().len(), 1);
}

/// Bytes come, so it is not dead, and never enough of them.
#[tokio::test]
async fn a_mirror_that_trickles_is_passed_over() {
    let image = Arc::new(OneLayer::plain(tar_of(&[("f", &noise(50_000))])));
    let (served, slow) = (Arc::clone(&image), Arc::clone(&image));
    let registry =
        Server::start(move |asked| served.answer(asked, |_| reply("200 OK", &[], &served.layer)))
            .await;
    let mirror = Server::start(move |asked| {
        slow.answer(asked, |_| Reply::Trickle(slow.announced(slow.layer.len())))
    })
    .await;
    let mut registries = mirrors(&registry.authority, &[&mirror.authority]);
    registries.limits.inactivity_seconds = 1;
    pull(registries, &format!("{}/a:t", registry.authority))
        .await
        .unwrap();
    let layer = digest(&image.layer);
    assert_eq!((mirror.count(&layer), registry.count(&layer)), (1, 1));
}
