//! A client without manners: what a broken or hostile agent could do on the agents' port.

use std::path::Path;
use std::sync::{Arc, Mutex};

use hyper_util::rt::TokioIo;
use longshore_proto::SERVER_NAME;
use longshore_proto::v1::from_agent::Message;
use longshore_proto::v1::session_client::SessionClient;
use longshore_proto::v1::{FromAgent, ToAgent};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

pub(crate) fn file(identity: &Path, name: &str) -> Vec<u8> {
    std::fs::read(identity.join(name)).unwrap()
}

/// TLS with the certificate of `identity`, trusting the CA of `trusted`.
pub(crate) async fn tls(
    address: std::net::SocketAddr,
    identity: &Path,
    trusted: &Path,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from(file(trusted, "ca.der")))
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from(file(identity, "certificate.der"))],
            PrivatePkcs8KeyDer::from(file(identity, "key.der")).into(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

pub(crate) async fn channel(address: std::net::SocketAddr, identity: &Path) -> Channel {
    let stream = tls(address, identity, identity).await.unwrap();
    let once = Mutex::new(Some(TokioIo::new(stream)));
    Endpoint::from_static("http://raw")
        .connect_with_connector(tower::service_fn(move |_| {
            let stream = once.lock().unwrap().take();
            async move { stream.ok_or(std::io::Error::other("over")) }
        }))
        .await
        .unwrap()
}

/// A session that says only what it is told to.
pub(crate) struct Raw {
    pub(crate) out: mpsc::Sender<FromAgent>,
    pub(crate) inbound: Streaming<ToAgent>,
}

impl Raw {
    pub(crate) async fn open(channel: Channel, first: Message) -> Result<Raw, Status> {
        let (out, outbound) = mpsc::channel(8);
        let message = Some(first);
        out.send(FromAgent { message }).await.unwrap();
        let mut client = SessionClient::new(channel);
        let inbound = client.connect(ReceiverStream::new(outbound)).await?;
        Ok(Raw {
            out,
            inbound: inbound.into_inner(),
        })
    }

    /// Reads to the end; the status it ends with.
    pub(crate) async fn ended(mut self) -> Status {
        loop {
            match self.inbound.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok("the stream ended"),
                Err(status) => return status,
            }
        }
    }
}
