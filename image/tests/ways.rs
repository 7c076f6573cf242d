//! Ways to a registry: proxies and tunnels, authorities and certificates. No privilege needed.

mod faulty;
mod registry;
mod visit;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use faulty::{Asked, Reply, Server, reply};
use longshore_image::{ClientCertificate, Proxies, Registries, Registry as Settings};
use registry::{Auth, Registry, tar_of};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use visit::{pull, registry_with, settings};

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

/// A TLS port that hung up for a moment answers plain HTTP with 400: that must not be remembered as what it speaks.
#[tokio::test]
async fn a_moments_silence_of_tls_is_not_taken_for_plain_http_for_ever() {
    let authority = Authority::new(&["127.0.0.1"]);
    let registry = Registry::with_tls(Some(authority.server.clone())).await;
    registry.push("a", "t", &[tar_of(&[("f", b"x")])]);
    let (to, connections) = (registry.authority.clone(), AtomicU32::new(0));
    // The first connection ends at once, the second is spoken to plainly and refused as TLS servers do.
    let door = Door::start(move || match connections.fetch_add(1, Ordering::Relaxed) {
        0 => Opened::Shut,
        1 => Opened::PlainRefused,
        _ => Opened::To(to.clone()),
    })
    .await;
    let registries = settings(&door.authority, authority.settings(true));
    let dir = tempfile::tempdir().unwrap();
    let store = longshore_image::Store::open(&dir.path().join("store"), registries).unwrap();
    let reference = format!("{}/a:t", door.authority);
    let first = store.pull(&reference, |_| {}).await.unwrap_err();
    assert!(first.to_string().contains("400 Bad Request"), "{first}");
    store.pull(&reference, |_| {}).await.unwrap();
}

/// Its operator gave it a certificate.
#[tokio::test]
async fn a_registry_that_speaks_tls_now_needs_no_restart_of_ours() {
    let authority = Authority::new(&["127.0.0.1"]);
    let (plain, tls) = (
        Registry::start().await,
        Registry::with_tls(Some(authority.server.clone())).await,
    );
    for registry in [&plain, &tls] {
        registry.push("a", "t", &[tar_of(&[("f", b"x")])]);
    }
    let now = Arc::new(std::sync::Mutex::new(plain.authority.clone()));
    let to = Arc::clone(&now);
    let is_tls = tls.authority.clone();
    let door = Door::start(move || Opened::First(to.lock().unwrap().clone(), is_tls.clone())).await;
    let registries = settings(&door.authority, authority.settings(true));
    let dir = tempfile::tempdir().unwrap();
    let store = longshore_image::Store::open(&dir.path().join("store"), registries).unwrap();
    let reference = format!("{}/a:t", door.authority);
    store.pull(&reference, |_| {}).await.unwrap();
    // Its connections end with it.
    drop(plain);
    now.lock().unwrap().clone_from(&tls.authority);
    let before = tls.count("");
    store.pull(&reference, |_| {}).await.unwrap();
    assert!(tls.count("") > before);
}

/// A port that leads each connection elsewhere.
struct Door {
    authority: String,
    serving: tokio::task::JoinHandle<()>,
}

enum Opened {
    Shut,
    /// Read until it is clear that it is no TLS, and answered as TLS servers do.
    PlainRefused,
    To(String),
    /// To the first; but if that is the second, plain requests are refused.
    First(String, String),
}

impl Drop for Door {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Door {
    async fn start(open: impl Fn() -> Opened + Send + 'static) -> Door {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let opened = open();
                connections.spawn(async move { lead(socket, opened).await.ok() });
            }
        });
        Door { authority, serving }
    }
}

async fn lead(mut socket: TcpStream, opened: Opened) -> std::io::Result<()> {
    let to = match opened {
        Opened::Shut => return hang_up(socket).await,
        Opened::PlainRefused => return refuse_plain(socket).await,
        Opened::To(to) => to,
        Opened::First(to, tls) => {
            let mut first = [0];
            socket.peek(&mut first).await?;
            // A plain registry would wait for the rest of what is no request.
            match (to == tls, first[0] == 0x16) {
                (true, false) => return refuse_plain(socket).await,
                (false, true) => return hang_up(socket).await,
                _ => to,
            }
        }
    };
    let mut far = TcpStream::connect(to).await?;
    tokio::io::copy_bidirectional(&mut socket, &mut far).await?;
    Ok(())
}

async fn refuse_plain(mut socket: TcpStream) -> std::io::Result<()> {
    if socket.read(&mut [0; 4096]).await? == 0 {
        return Ok(());
    }
    socket
        .write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        .await?;
    socket.shutdown().await
}

/// Having read what was said, or the peer would see a reset in place of an end.
async fn hang_up(mut socket: TcpStream) -> std::io::Result<()> {
    if socket.read(&mut [0; 4096]).await? == 0 {
        return Ok(());
    }
    socket.shutdown().await
}
