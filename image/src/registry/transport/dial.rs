//! Connections: TLS with the right authorities and the right certificate of our own, straight or through a proxy.
//!
//! Each registry that has authorities or a client certificate of its own has an HTTP client of its own: connections
//! made with one registry's certificate serve no other host, not even one that the registry redirects to.
//!
//! Absent on purpose: HTTP/2 (one stream per layer is as fast over HTTP/1.1), SOCKS proxies (refused by name),
//! certificate checks that can be switched off.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderValue;
use http::uri::{Scheme, Uri};
use http_body_util::Full;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tower::Service;

use super::super::address::is_loopback;
use super::super::fault::chain;
use super::super::settings::{ClientCertificate, Proxies};
use crate::error::{ImageError, printable};

const CONNECT: Duration = Duration::from_secs(15);
const IDLE: Duration = Duration::from_secs(30);
/// Bytes that one connection reads ahead, and the largest piece of a layer that comes from it.
const BUFFER: usize = 256 * 1024;

/// An HTTP client whose connections are ours.
pub(super) type HttpClient = Client<HttpsConnector<Dial>, Full<Bytes>>;

/// The authorities that this host trusts; read once, however many clients there are.
pub(super) fn system_authorities() -> rustls::RootCertStore {
    let mut roots = rustls::RootCertStore::empty();
    // A host without certificates still has loopback registries; HTTPS then fails by name, with its remedy.
    let native = rustls_native_certs::load_native_certs();
    for error in native.errors {
        tracing::warn!(%error, "authorities of this host that cannot be read are not trusted");
    }
    roots.add_parsable_certificates(native.certs);
    roots
}

/// A client that trusts the system's authorities and those of `ca_files`.
pub(super) fn http_client(
    system: &rustls::RootCertStore,
    ca_files: &[PathBuf],
    certificate: Option<&ClientCertificate>,
    routes: &Arc<Routes>,
) -> Result<HttpClient, ImageError> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT));
    let mut roots = system.clone();
    for file in ca_files {
        for certificate in certificates(file)? {
            roots.add(certificate).map_err(|e| bad_pem(file, &e))?;
        }
    }
    let roots = Arc::new(roots);
    let tls = tls_config(&roots, certificate)?;
    // What is shown to a registry is no proxy's business.
    let to_proxy = HttpsConnectorBuilder::new()
        .with_tls_config(tls_config(&roots, None)?)
        .https_or_http()
        .enable_http1()
        .wrap_connector(http.clone());
    let dial = Dial {
        direct: http,
        to_proxy,
        routes: Arc::clone(routes),
    };
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(dial);
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .http1_max_buf_size(BUFFER)
        .build(https))
}

fn tls_config(
    roots: &Arc<rustls::RootCertStore>,
    certificate: Option<&ClientCertificate>,
) -> Result<rustls::ClientConfig, ImageError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| ImageError::new("prepare", "TLS", e))?
        .with_root_certificates(Arc::clone(roots));
    let Some(own) = certificate else {
        return Ok(builder.with_no_client_auth());
    };
    let key = PrivateKeyDer::from_pem_file(&own.key).map_err(|e| bad_pem(&own.key, &e))?;
    builder
        .with_client_auth_cert(certificates(&own.certificate)?, key)
        .map_err(|e| bad_pem(&own.certificate, &e))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, ImageError> {
    let found = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| bad_pem(file, &e))?;
    match found.is_empty() {
        true => Err(bad_pem(file, &"it holds no certificate")),
        false => Ok(found),
    }
}

fn bad_pem(file: &Path, e: &dyn std::fmt::Display) -> ImageError {
    let cause = format!("{e}; name a readable PEM file");
    ImageError::new("read certificates", file.display(), cause)
}

/// Which way leads to a host: straight, or through a proxy.
#[derive(Debug)]
pub(super) struct Routes(Matcher);

impl Routes {
    pub(super) fn new(proxies: &Proxies) -> Result<Routes, ImageError> {
        let matcher = |http: &str, https: &str| {
            let builder = Matcher::builder().http(http.to_owned());
            builder.https(https.to_owned()).no(proxies.no_proxy.clone())
        };
        for (name, value, scheme) in [
            ("HTTP_PROXY", &proxies.http_proxy, "http"),
            ("HTTPS_PROXY", &proxies.https_proxy, "https"),
        ] {
            // The value may hold a password: never repeat it.
            let bad = |cause: &str| Err(ImageError::new("read proxy", name, cause));
            if value.is_empty() {
                continue;
            }
            let all = matcher(value, value).no("").build();
            let any = format!("{scheme}://any.invalid/")
                .parse()
                .unwrap_or_default();
            match all.intercept(&any) {
                None => return bad("it is no proxy's address; write http://host:port"),
                Some(via)
                    if via
                        .uri()
                        .scheme_str()
                        .is_some_and(|s| s.starts_with("socks")) =>
                {
                    return bad("SOCKS proxies are not supported; name an HTTP proxy");
                }
                Some(via) if !has_usable_port(via.uri()) => {
                    return bad("its port is no number below 65536; write http://host:port");
                }
                Some(_) => {}
            }
        }
        let matcher = matcher(&proxies.http_proxy, &proxies.https_proxy);
        Ok(Routes(matcher.build()))
    }

    /// The proxy on the way to `to`. Loopback addresses never have one.
    fn proxy(&self, to: &Uri) -> Option<Intercept> {
        let loopback = to.authority().is_some_and(|a| is_loopback(a.as_str()));
        self.0.intercept(to).filter(|_| !loopback)
    }

    /// What a proxy must be told with each request that it forwards (plain HTTP only; a tunnel is told once).
    pub(super) fn proxy_authorization(&self, to: &Uri) -> Option<HeaderValue> {
        let forwarded = to.scheme() == Some(&Scheme::HTTP);
        let proxy = self.proxy(to).filter(|_| forwarded)?;
        proxy.basic_auth().cloned()
    }
}

/// Without a port there is the scheme's. One that is too large counts as none with `http`, and a proxy that was never
/// named would be asked.
fn has_usable_port(proxy: &Uri) -> bool {
    let Some(authority) = proxy.authority() else {
        return false;
    };
    let after_user = authority.as_str().rsplit('@').next().unwrap_or_default();
    after_user == authority.host() || authority.port_u16().is_some()
}

/// The connector below TLS.
#[derive(Clone, Debug)]
pub(super) struct Dial {
    direct: HttpConnector,
    to_proxy: HttpsConnector<HttpConnector>,
    routes: Arc<Routes>,
}

type BoxError = Box<dyn Error + Send + Sync>;

impl Service<Uri> for Dial {
    type Response = Line;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Line, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.direct.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let Some(proxy) = self.routes.proxy(&to) else {
            let direct = self.direct.call(to);
            return Box::pin(async move { Ok(Line::new(MaybeHttpsStream::Http(direct.await?))) });
        };
        let via = proxy.uri().clone();
        if to.scheme() == Some(&Scheme::HTTPS) {
            let mut tunnel = Tunnel::new(via.clone(), self.to_proxy.clone());
            if let Some(authorization) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(authorization.clone());
            }
            let tunnel = tunnel.call(to);
            return Box::pin(async move {
                let stream = tunnel.await.map_err(|e| through(&via, &e))?;
                Ok(Line::new(stream))
            });
        }
        let forwarding = self.to_proxy.call(via.clone());
        Box::pin(async move {
            let stream = forwarding.await.map_err(|e| through(&via, e.as_ref()))?;
            let forwarded = true;
            Ok(Line { stream, forwarded })
        })
    }
}

/// In words, so that a proxy's TLS is not taken for the registry's.
fn through(via: &Uri, error: &(dyn Error + 'static)) -> BoxError {
    let host = printable(via.authority().map_or("", |a| a.as_str()), 100);
    format!("proxy {host}: {}", chain(error)).into()
}

/// A connection, and whether what is at its end is a proxy that wants whole URLs.
#[derive(Debug)]
pub(super) struct Line {
    stream: MaybeHttpsStream<TokioIo<TcpStream>>,
    forwarded: bool,
}

impl Line {
    fn new(stream: MaybeHttpsStream<TokioIo<TcpStream>>) -> Line {
        Line {
            stream,
            forwarded: false,
        }
    }
}

impl Connection for Line {
    fn connected(&self) -> Connected {
        self.stream.connected().proxy(self.forwarded)
    }
}

impl Read for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl Write for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(http: &str, https: &str, no: &str) -> Result<Routes, ImageError> {
        Routes::new(&Proxies {
            http_proxy: http.into(),
            https_proxy: https.into(),
            no_proxy: no.into(),
        })
    }

    fn way(routes: &Routes, to: &str) -> Option<String> {
        let proxy = routes.proxy(&to.parse().unwrap());
        proxy.map(|p| p.uri().to_string())
    }

    #[test]
    fn a_proxy_stands_before_all_but_loopback_and_the_exceptions() {
        let r = routes(
            "http://u:p%40ss@proxy:3128",
            "tls-proxy:3129",
            "lan, .example.org,10.0.0.0/8",
        )
        .unwrap();
        assert_eq!(way(&r, "http://a.io/").unwrap(), "http://proxy:3128/");
        assert_eq!(way(&r, "https://a.io/").unwrap(), "http://tls-proxy:3129/");
        for direct in [
            "http://127.0.0.1:5000/",
            "http://localhost/",
            "http://[::1]:1/",
            "https://lan:5000/",
            "https://r.lan/",
            "https://r.example.org/",
            "http://10.1.2.3/",
        ] {
            assert_eq!(way(&r, direct), None, "{direct}");
        }
        let told = |to: &str| r.proxy_authorization(&to.parse().unwrap());
        assert_eq!(told("http://a.io/").unwrap(), "Basic dTpwQHNz");
        assert_eq!(told("https://a.io/"), None);
        assert_eq!(told("http://localhost/"), None);
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_its_password() {
        for (bad, said) in [
            ("socks5://u:s3cr3t@p:1", "SOCKS"),
            ("ftp://u:s3cr3t@p", "no proxy's address"),
            ("http://u:s3cr3t@p:99999999", "no number below 65536"),
        ] {
            for error in [routes(bad, "", ""), routes("", bad, "")] {
                let error = error.unwrap_err().to_string();
                assert!(error.contains(said) && !error.contains("s3cr3t"), "{error}");
            }
        }
        assert_eq!(way(&routes("", "", "").unwrap(), "http://a.io/"), None);
    }

    #[test]
    fn files_that_are_none_are_named() {
        let routes = Arc::new(routes("", "", "").unwrap());
        let system = rustls::RootCertStore::empty();
        let missing = [PathBuf::from("/nonexistent/ca.pem")];
        let error = http_client(&system, &missing, None, &routes).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/ca.pem"), "{error}");
        let empty = tempfile::NamedTempFile::new().unwrap();
        let error = http_client(&system, &[empty.path().to_owned()], None, &routes).unwrap_err();
        assert!(
            error.to_string().contains("holds no certificate"),
            "{error}"
        );
        let own = ClientCertificate {
            certificate: empty.path().to_owned(),
            key: "/nonexistent/key.pem".into(),
        };
        let error = http_client(&system, &[], Some(&own), &routes).unwrap_err();
        assert!(
            error.to_string().contains("/nonexistent/key.pem"),
            "{error}"
        );
    }
}
