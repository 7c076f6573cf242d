//! One connection to the control plane: TCP, TLS 1.3, then gRPC over it.
//!
//! TLS is done here and not left to gRPC, so that a refusal is told in its own words and before
//! anything is sent.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use longshore_proto::SERVER_NAME;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, Error, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use super::identity::Identity;
use super::pin::{Impostor, Pin, Pinned};

/// TCP and TLS together may take this long, and so may a short call.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// Where the control plane is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// Reads `https://HOST:PORT`.
    pub(super) fn parse(endpoint: &str) -> Result<Address, String> {
        let bad = || {
            format!(
                "dial the control plane at {endpoint:?}: this is not https://HOST:PORT; correct it (--control or \
                 LONGSHORE_CONTROL), as in https://10.0.0.5:4481"
            )
        };
        let uri: http::Uri = endpoint.parse().map_err(|_| bad())?;
        let plain = uri.path().trim_matches('/').is_empty() && uri.query().is_none();
        match (uri.scheme_str(), uri.host(), uri.port_u16()) {
            (Some("https"), Some(host), Some(port)) if plain && !host.is_empty() => Ok(Address {
                host: host.trim_matches(['[', ']']).to_owned(),
                port,
            }),
            _ => Err(bad()),
        }
    }
}

/// Whom to trust and who to be.
#[derive(Debug)]
pub(super) enum Trust<'a> {
    /// Not joined yet: only the CA with this key.
    Pin(Pin),
    /// Joined: the stored CA, with this host's certificate.
    Identity(&'a Identity),
}

/// Connects. The error tells what failed and what to do, without the step and the endpoint.
pub(super) async fn dial(address: &Address, trust: &Trust<'_>) -> Result<Channel, String> {
    let config = tls(trust)?;
    match timeout(PATIENCE, shake_hands(address, config)).await {
        Ok(Ok(stream)) => speak(stream).await,
        Ok(Err(why)) => Err(why),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

fn tls(trust: &Trust<'_>) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let wrong = |e: Error| format!("set up TLS: {e}");
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(wrong)?;
    let mut config = match trust {
        Trust::Pin(pin) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned {
                pin: *pin,
                provider,
            }))
            .with_no_client_auth(),
        Trust::Identity(identity) => {
            let mut roots = RootCertStore::empty();
            roots.add(identity.ca.clone()).map_err(wrong)?;
            builder
                .with_root_certificates(roots)
                .with_client_auth_cert(vec![identity.certificate.clone()], identity.private_key())
                .map_err(wrong)?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

async fn shake_hands(
    address: &Address,
    config: ClientConfig,
) -> Result<TlsStream<TcpStream>, String> {
    let stream = TcpStream::connect((address.host.as_str(), address.port))
        .await
        .map_err(|e| format!("{e}; is the control plane running, and is the endpoint right?"))?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let name = ServerName::try_from(SERVER_NAME).map_err(|e| e.to_string())?;
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.map_err(|error| {
        let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
        inner.map_or_else(|| error.to_string(), explain)
    })
}

fn explain(error: &Error) -> String {
    let cause = match error {
        Error::InvalidCertificate(cause) => cause,
        Error::InvalidMessage(_) => {
            return "this port speaks no TLS; is it the API's? Agents dial the control plane's RPC port (`longshore \
                    control --rpc`, 4481 by default)"
                .into();
        }
        other => return format!("TLS: {other}"),
    };
    match cause {
        CertificateError::Other(other) if other.0.is::<Impostor>() => other.0.to_string(),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is not signed by the CA this host joined: another control plane or an \
             impostor. If it was set up anew, remove this host's identity directory and join again with a new token"
                .into()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is a member of the cluster but not its control plane: check the endpoint".into()
        }
        other => format!("its certificate is refused: {other}; do both clocks agree?"),
    }
}

async fn speak(stream: TlsStream<TcpStream>) -> Result<Channel, String> {
    // gRPC must not see `https`, or it would want to do TLS itself; the stream is TLS already.
    let endpoint = Endpoint::from_shared(format!("http://{SERVER_NAME}"))
        .map_err(|e| e.to_string())?
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(20))
        .keep_alive_while_idle(true);
    let once = Mutex::new(Some(TokioIo::new(stream)));
    let connector = tower::service_fn(move |_| {
        let stream = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move { stream.ok_or(std::io::Error::other("the connection is over")) }
    });
    endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|e| describe(&e))
}

/// An error and its causes, in one line.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// A refusal by the control plane, or what became of the connection.
pub(super) fn refusal(status: &tonic::Status) -> String {
    match std::error::Error::source(status) {
        Some(source) => describe(source),
        None => status.message().chars().take(2048).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_without_tls_is_told_from_a_broken_one() {
        use tokio::io::AsyncWriteExt as _;
        let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address {
            host: "127.0.0.1".into(),
            port: plain.local_addr().unwrap().port(),
        };
        let api = async {
            let (mut stream, _) = plain.accept().await.unwrap();
            let answer = b"HTTP/1.1 400 Bad Request\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            stream
        };
        let trust = Trust::Pin([0; 32]);
        let (dialled, _open) = tokio::join!(dial(&address, &trust), api);
        let why = dialled.unwrap_err();
        assert!(why.contains("speaks no TLS; is it the API's?"), "{why}");
    }

    #[test]
    fn an_endpoint_is_https_host_and_port() {
        let good = Address::parse("https://[::1]:7000").unwrap();
        assert_eq!((good.host.as_str(), good.port), ("::1", 7000));
        assert!(Address::parse("https://control:7000/").is_ok());
        for bad in [
            "http://a:1",
            "https://a",
            "a:1",
            "",
            "https://a:1/x",
            "https://:1",
            "https://a:99999",
        ] {
            assert!(
                Address::parse(bad).unwrap_err().contains("correct it"),
                "{bad}"
            );
        }
    }
}
