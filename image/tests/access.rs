//! Who may pull: passwords, tokens, redirects, TLS. No privilege needed.

mod house;
mod registry;
mod visit;

use std::sync::Arc;

use house::house;
use longshore_image::Registries;
use registry::{Auth, PASSWORD, Registry, TOKEN, tar_of};
use visit::Login;

fn user(registry: &Registry, password: &str) -> Login {
    Login::new(&registry.authority, "user", password)
}

#[tokio::test]
async fn private_registries_are_opened_by_token_and_by_password_and_tell_neither() {
    let registry = Registry::start().await;
    registry.push("a/b", "t", &[tar_of(&[("f", b"x")])]);
    let reference = registry.reference("a/b:t");
    let (good, bad) = (user(&registry, PASSWORD), user(&registry, "wr0ng"));
    for auth in [Auth::Token, Auth::Basic] {
        registry.state().auth = auth;
        let house = house(good.registries());
        house.pull(&reference).await.unwrap();
        let debug = format!("{:?}", house.store);
        assert!(
            !debug.contains(PASSWORD) && !debug.contains(TOKEN),
            "{debug}"
        );
        for bad in [Registries::default(), bad.registries()] {
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
    house(good.registries()).pull(&reference).await.unwrap();
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
    let login = user(&registry, PASSWORD);
    let house = house(login.registries());
    house.pull(&registry.reference("a/b:t")).await.unwrap();
    assert_eq!(storage.count("GET /cdn/a/b/blobs/"), 2);
    assert!(registry.state().blob_saw_authorization && !storage.state().blob_saw_authorization);

    // A challenge of the storage must not be answered with the registry's secrets.
    storage.state().auth = Auth::Basic;
    let house = self::house(login.registries());
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

/// Not even to the registry itself: its storage would choose what is asked of it in our name.
#[tokio::test]
async fn behind_a_redirect_elsewhere_the_token_never_comes_back() {
    let registry = Registry::start().await;
    registry.push("a/b", "t", &[tar_of(&[("f", b"x")])]);
    registry.state().auth = Auth::Token;
    let storage = Registry::start().await;
    let back = format!("http://{}/x", registry.authority);
    storage.state().redirect = Some(back);
    registry.state().redirect = Some(format!("http://{}", storage.authority));
    let login = user(&registry, PASSWORD);
    let house = house(login.registries());
    let error = house.pull(&registry.reference("a/b:t")).await.unwrap_err();
    // With the token it would be 404: there is no such path.
    assert!(registry.count("/x/cdn/") > 0, "{error}");
    assert!(error.contains("401 Unauthorized"), "{error}");
    assert!(!error.contains("s3cr3t"), "{error}");
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
