//! Who we are to registries and which of them we ask: logins, tokens, mirrors, proxies, certificates. No privilege
//! needed.

mod faulty;
mod registry;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use faulty::image::OneLayer;
use faulty::{Asked, Reply, Server, reply};
use longshore_image::{
    AwsKeys, ClientCertificate, Credential, Ecr, Image, Proxies, Registries, Registry as Settings,
    Store,
};
use registry::{Auth, PASSWORD, Registry, TOKEN, digest, noise, tar_of};
use serde_json::json;

/// One pull into a store of its own.
async fn pull(registries: Registries, reference: &str) -> Result<Image, String> {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), registries).map_err(|e| e.to_string())?;
    let pulled = store.pull(reference, |_| {}).await;
    pulled.map_err(|e| e.to_string())
}

async fn registry_with(auth: Auth) -> Registry {
    let registry = Registry::start().await;
    registry.push("a/b", "t", &[tar_of(&[("f", b"x")])]);
    registry.state().auth = auth;
    registry
}

fn with_file(dir: &Path, content: serde_json::Value) -> Registries {
    let file = dir.join("config.json");
    std::fs::write(&file, content.to_string()).unwrap();
    Registries {
        credential_files: vec![dir.join("missing.json"), file],
        ..Registries::default()
    }
}

fn settings(name: &str, settings: Settings) -> Registries {
    Registries {
        registries: [(name.to_owned(), settings)].into(),
        ..Registries::default()
    }
}

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
async fn logins_of_a_file_and_of_a_helper_open_a_registry() {
    let registry = registry_with(Auth::Token).await;
    let (host, reference) = (&registry.authority, registry.reference("a/b:t"));
    let dir = tempfile::tempdir().unwrap();
    let pair = STANDARD.encode(format!("user:{PASSWORD}"));
    let file = json!({"auths": {host: {"auth": pair}}});
    pull(with_file(dir.path(), file), &reference).await.unwrap();

    let helper = dir.path().join("helper");
    let answer = json!({"ServerURL": host, "Username": "user", "Secret": PASSWORD});
    std::fs::write(
        &helper,
        format!("#!/bin/sh\nread -r server\n[ \"$server\" = {host} ] && echo '{answer}'\n"),
    )
    .unwrap();
    let run = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&helper, run).unwrap();
    let file = json!({"credHelpers": {host: helper.display().to_string()}});
    pull(with_file(dir.path(), file), &reference).await.unwrap();

    // A helper that fails must not turn a pull into an anonymous one.
    let file = json!({"credHelpers": {host: "/nonexistent/helper"}});
    let error = pull(with_file(dir.path(), file), &reference).await;
    let error = error.unwrap_err();
    assert!(error.contains("/nonexistent/helper"), "{error}");
    let nobody = pull(Registries::default(), &reference).await.unwrap_err();
    assert!(nobody.contains("unauthorized"), "{nobody}");
}

/// As Amazon ECR answers a password that has ended: by 403, without a challenge.
#[tokio::test]
async fn a_login_that_is_no_longer_good_is_looked_up_anew() {
    let pair = |password: &str| STANDARD.encode(format!("user:{password}"));
    let file = |host: &str, password: &str| json!({"auths": {host: {"auth": pair(password)}}});
    let good = Arc::new(std::sync::Mutex::new(pair("old")));
    let wanted = Arc::clone(&good);
    let server = Server::start(move |asked: &Asked| match asked.header("authorization") {
        None => reply("401 Unauthorized", &[("www-authenticate", "Basic")], ""),
        Some(given) if given == format!("Basic {}", wanted.lock().unwrap()) => {
            reply("404 Not Found", &[], "")
        }
        Some(_) => reply("403 Forbidden", &[], ""),
    })
    .await;
    let (host, dir) = (&server.authority, tempfile::tempdir().unwrap());
    let registries = with_file(dir.path(), file(host, "old"));
    let store = Store::open(&dir.path().join("store"), registries).unwrap();
    let reference = format!("{host}/a:t");
    for password in ["old", "new"] {
        *good.lock().unwrap() = pair(password);
        with_file(dir.path(), file(host, password));
        let answer = store.pull(&reference, |_| {}).await.unwrap_err();
        assert!(answer.to_string().contains("unknown image"), "{answer}");
    }
}

/// The login would go in the clear to whoever listens there.
#[tokio::test]
async fn a_realm_that_says_https_is_never_asked_in_the_clear() {
    let heard = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&heard);
    let plain = Server::start(move |_: &Asked| {
        counter.fetch_add(1, Ordering::Relaxed);
        reply("200 OK", &[], "{\"token\": \"t\"}")
    })
    .await;
    let challenge = format!("Bearer realm=\"https://{}/t\"", plain.authority);
    let server = Server::start(move |_: &Asked| {
        reply("401 Unauthorized", &[("www-authenticate", &challenge)], "")
    })
    .await;
    let host = &server.authority;
    let error = pull(user(host), &format!("{host}/a:t")).await.unwrap_err();
    assert!(error.contains("does not speak TLS"), "{error}");
    assert_eq!(heard.load(Ordering::Relaxed), 0);
}

/// Stands before a registry that wants `token`: passes challenged requests by with these challenges.
async fn guarded(challenges: &'static [&'static str], good: &'static [&'static str]) -> Server {
    Server::start(move |asked: &Asked| {
        let authorization = asked.header("authorization").unwrap_or_default();
        if good.contains(&authorization) {
            return reply("404 Not Found", &[], "");
        }
        let headers: Vec<_> = challenges
            .iter()
            .map(|c| ("www-authenticate", *c))
            .collect();
        reply("401 Unauthorized", &headers, "")
    })
    .await
}

fn user(registry: &str) -> Registries {
    let credential = Credential {
        registry: registry.to_owned(),
        username: "user".into(),
        password: PASSWORD.into(),
    };
    Registries {
        credentials: vec![credential],
        ..Registries::default()
    }
}

#[tokio::test]
async fn the_challenge_that_can_be_met_is_met_wherever_it_stands() {
    const BASIC: &[&str] = &["Basic dXNlcjpwNHNzdzByZC10aGF0LW5vYm9keS1tYXktc2Vl"];
    for challenges in [
        &["Negotiate", "Basic realm=\"x\""][..],
        &["Negotiate, Digest realm=\"y\", Basic realm=\"x\""],
        // A realm that must not be followed does not keep us from what else is offered.
        &[
            "Bearer realm=\"http://192.0.2.1/token\"",
            "Basic realm=\"x\"",
        ],
    ] {
        let server = guarded(challenges, BASIC).await;
        let reference = format!("{}/a:t", server.authority);
        let error = pull(user(&server.authority), &reference).await.unwrap_err();
        assert!(error.contains("unknown image"), "{challenges:?}: {error}");
    }
    let server = guarded(&["Negotiate"], &[]).await;
    let reference = format!("{}/a:t", server.authority);
    let error = pull(user(&server.authority), &reference).await.unwrap_err();
    assert!(error.contains("unauthorized"), "{error}");
    assert!(
        server
            .asked()
            .iter()
            .all(|a| a.header("authorization").is_none())
    );
}

#[tokio::test]
async fn an_identity_token_is_exchanged_by_post_and_an_old_token_before_it_is_refused() {
    let registry = registry_with(Auth::Token).await;
    // Each token is old at once, so each request needs a new one.
    let tokens = Server::start(|_| {
        reply(
            "200 OK",
            &[],
            format!(r#"{{"access_token":"{TOKEN}","expires_in":0}}"#),
        )
    })
    .await;
    let realm = format!("http://{}/token", tokens.authority);
    registry.state().realm = Some(realm);
    let dir = tempfile::tempdir().unwrap();
    let file = json!({"auths": {&registry.authority: {"identitytoken": "r3fr3sh&"}}});
    pull(with_file(dir.path(), file), &registry.reference("a/b:t"))
        .await
        .unwrap();
    let asked = tokens.asked();
    assert_eq!(asked[0].line, "POST /token");
    assert_eq!(asked[0].header("authorization"), None);
    assert_eq!(
        asked[0].body,
        "grant_type=refresh_token&client_id=longshore&service=fake&scope=repository:a/b:pull&refresh_token=r3fr3sh%26"
    );
    // Manifest, configuration, layer; only the first of them was refused before.
    assert_eq!(asked.len(), 3);
    assert_eq!(registry.state().refused, 1);
}

#[tokio::test]
async fn a_user_of_ecr_is_fetched_with_a_signed_call_and_kept() {
    let registry = registry_with(Auth::Basic).await;
    let token = STANDARD.encode(format!("user:{PASSWORD}"));
    let ecr = Server::start(move |_| {
        let data = json!({"authorizationToken": token, "expiresAt": 4e9});
        reply(
            "200 OK",
            &[],
            json!({"authorizationData": [data]}).to_string(),
        )
    })
    .await;
    let mut registries = settings(
        &registry.authority,
        Settings {
            ecr: Some(Ecr {
                region: "eu-west-1".into(),
                endpoint: Some(format!("http://{}", ecr.authority)),
            }),
            ..Settings::default()
        },
    );
    let reference = registry.reference("a/b:t");
    let error = pull(registries.clone(), &reference).await.unwrap_err();
    assert!(error.contains("give it credentials"), "{error}");
    registries.aws_keys = Some(AwsKeys {
        access_key_id: "AKID".into(),
        secret_access_key: "s3cr3t".into(),
        session_token: Some("s3ssion".into()),
    });
    pull(registries, &reference).await.unwrap();
    let asked = ecr.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        (asked[0].line.as_str(), asked[0].body.as_str()),
        ("POST /", "{}")
    );
    let target = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken";
    assert_eq!(asked[0].header("x-amz-target"), Some(target));
    assert_eq!(asked[0].header("x-amz-security-token"), Some("s3ssion"));
    let signed = asked[0].header("authorization").unwrap();
    assert!(signed.contains("Credential=AKID/") && signed.contains("/eu-west-1/ecr/"));
    assert!(!asked[0].headers.contains("s3cr3t"));
}

#[tokio::test]
async fn ecrs_refusal_is_told_in_its_words() {
    let registry = registry_with(Auth::Basic).await;
    let ecr = Server::start(|_| {
        let said = json!({"__type": "a#AccessDeniedException", "Message": "no right"});
        reply("400 Bad Request", &[], said.to_string())
    })
    .await;
    let mut registries = settings(
        &registry.authority,
        Settings {
            ecr: Some(Ecr {
                region: "x".into(),
                endpoint: Some(format!("http://{}", ecr.authority)),
            }),
            ..Settings::default()
        },
    );
    registries.aws_keys = Some(AwsKeys {
        access_key_id: "AKID".into(),
        secret_access_key: "s3cr3t".into(),
        session_token: None,
    });
    let error = pull(registries, &registry.reference("a/b:t")).await;
    let error = error.unwrap_err();
    assert!(
        error.contains("(AccessDeniedException: no right)"),
        "{error}"
    );
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
    assert!(empty.count("/blobs/") > 0, "each part is asked for");

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

fn proxied(proxy: &Server, userinfo: &str) -> Registries {
    let address = format!("http://{userinfo}{}", proxy.authority);
    Registries {
        insecure: vec!["registry.test:5000".into()],
        proxies: Proxies {
            http_proxy: address.clone(),
            https_proxy: address,
            no_proxy: String::new(),
        },
        ..Registries::default()
    }
}

#[tokio::test]
async fn a_proxy_is_told_who_asks_and_refusals_name_it() {
    let proxy = Server::start(|_| reply("407 Proxy Authentication Required", &[], "")).await;
    let mut registries = proxied(&proxy, "u:p%40@");
    let error = pull(registries.clone(), "registry.test/a:t").await;
    let error = error.unwrap_err();
    let named = format!("proxy {}", proxy.authority);
    assert!(
        error.contains(&named) && error.contains("proxy authorization required"),
        "{error}"
    );
    let asked = proxy.asked();
    assert_eq!(asked[0].line, "CONNECT registry.test:443");
    assert_eq!(
        asked[0].header("proxy-authorization"),
        Some("Basic dTpwQA==")
    );
    assert!(
        !error.contains("p@") && !error.contains("dTpwQA"),
        "{error}"
    );

    // Loopback needs no proxy, and exceptions are obeyed.
    let registry = registry_with(Auth::None).await;
    let before = proxy.asked().len();
    pull(registries.clone(), &registry.reference("a/b:t"))
        .await
        .unwrap();
    registries.proxies.no_proxy = "registry.test".into();
    pull(registries, "registry.test/a:t").await.unwrap_err();
    assert_eq!(proxy.asked().len(), before);
}

/// A certificate authority, a server's certificate and a client's.
struct Authority {
    dir: tempfile::TempDir,
    server: tokio_rustls::TlsAcceptor,
}

impl Authority {
    fn new(names: &[&str]) -> Authority {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_cert = ca.self_signed(&ca_key).unwrap();
        let issuer = Issuer::new(ca, ca_key);
        let leaf = |names: &[&str]| {
            let key = KeyPair::generate().unwrap();
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            let params = CertificateParams::new(names).unwrap();
            (params.signed_by(&key, &issuer).unwrap(), key)
        };
        let dir = tempfile::tempdir().unwrap();
        let (client, client_key) = leaf(&["client"]);
        let write = |name: &str, pem: String| std::fs::write(dir.path().join(name), pem).unwrap();
        write("ca.pem", ca_cert.pem());
        write("client.pem", client.pem());
        write("client.key", client_key.serialize_pem());

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca_cert.der().clone()).unwrap();
        let roots = Arc::new(roots);
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            roots,
            Arc::clone(&provider),
        );
        let (server, server_key) = leaf(names);
        let key = rustls::pki_types::PrivateKeyDer::try_from(server_key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(vec![server.der().clone()], key)
            .unwrap();
        let server = Arc::new(config).into();
        Authority { dir, server }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn settings(&self, certificate: bool) -> Settings {
        Settings {
            ca_files: vec![self.file("ca.pem")],
            client_certificate: certificate.then(|| ClientCertificate {
                certificate: self.file("client.pem"),
                key: self.file("client.key"),
            }),
            ..Settings::default()
        }
    }
}

#[tokio::test]
async fn a_registrys_own_authority_and_our_certificate_count_for_it_alone() {
    let authority = Authority::new(&["127.0.0.1"]);
    let registry = Registry::with_tls(Some(authority.server.clone())).await;
    registry.push("a", "t", &[tar_of(&[("f", b"x")])]);
    let reference = registry.reference("a:t");
    pull(
        settings(&registry.authority, authority.settings(true)),
        &reference,
    )
    .await
    .unwrap();
    for refused in [
        settings(&registry.authority, authority.settings(false)),
        settings("another.example", authority.settings(true)),
    ] {
        let error = pull(refused, &reference).await.unwrap_err();
        assert!(error.contains(&registry.authority), "{error}");
    }
}

#[tokio::test]
async fn https_goes_through_a_proxys_tunnel() {
    let authority = Authority::new(&["registry.test"]);
    let registry = Registry::with_tls(Some(authority.server.clone())).await;
    registry.push("a", "t", &[tar_of(&[("f", b"x")])]);
    let to = registry.authority.clone();
    let proxy = Server::start(move |_| Reply::Tunnel(to.clone())).await;
    let mut registries = proxied(&proxy, "");
    registries.registries = [("registry.test".to_owned(), authority.settings(true))].into();
    pull(registries, "registry.test/a:t").await.unwrap();
    assert!(proxy.count("CONNECT registry.test:443") > 0);
    assert_eq!(proxy.count("GET"), 0);
}

#[tokio::test]
async fn plain_http_goes_to_a_proxy_as_whole_urls() {
    // TLS is tried first: the tunnel's far end does not speak it.
    let dumb = Server::start(|_| reply("400 Bad Request", &[], "")).await;
    let asks = Arc::new(AtomicU32::new(0));
    let (to, count) = (dumb.authority.clone(), Arc::clone(&asks));
    let proxy = Server::start(move |asked: &Asked| {
        if asked.line.starts_with("CONNECT") {
            return Reply::Tunnel(to.clone());
        }
        count.fetch_add(1, Ordering::Relaxed);
        reply("404 Not Found", &[], "")
    })
    .await;
    let error = pull(proxied(&proxy, "u:p@"), "registry.test:5000/a:t").await;
    let error = error.unwrap_err();
    assert!(error.contains("unknown image"), "{error}");
    assert_eq!(asks.load(Ordering::Relaxed), 1);
    let asked = proxy.asked();
    let forwarded = asked.last().unwrap();
    assert_eq!(
        forwarded.line,
        "GET http://registry.test:5000/v2/a/manifests/t"
    );
    assert_eq!(forwarded.header("proxy-authorization"), Some("Basic dTpw"));
}
