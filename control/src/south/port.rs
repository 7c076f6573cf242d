//! The agents' port: accepts, shakes hands, and hands each call to its service, over HTTP/2 only.
//!
//! Each connection is a task of its own, so that one slow or hostile peer delays nobody; handshakes are
//! bounded in number and time, for they cost before anyone is known. Which service a call is for is in its path
//! (gRPC over HTTP/2), so no router is needed.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use longshore_proto::MAX_MESSAGE;
use longshore_proto::v1::enrollment_server::EnrollmentServer;
use longshore_proto::v1::session_server::SessionServer;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::transport::server::Connected as _;

use super::South;
use super::session::Sessions;

/// A peer that dawdles over its handshake is dropped after this.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at one time.
const HANDSHAKES: usize = 64;
/// Connections at one time.
const CONNECTIONS: usize = 8192;
/// Join and Renew carry a token and a certificate request.
const ENROLLMENT_MESSAGE: usize = 64 * 1024;
/// How long connections may take to close.
const CLOSING: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct Services {
    enrollment: EnrollmentServer<South>,
    session: SessionServer<Sessions>,
}

/// Serves until `shutdown`, then until every connection has closed or was given enough time to.
pub(super) async fn run(
    south: Arc<South>,
    listener: TcpListener,
    tls: ServerConfig,
    mut shutdown: watch::Receiver<bool>,
) {
    let patience = south.patience();
    let services = Services {
        enrollment: EnrollmentServer::from_arc(south.clone())
            .max_decoding_message_size(ENROLLMENT_MESSAGE),
        session: SessionServer::new(Sessions(south))
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE),
    };
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => accepted,
            Some(_) = connections.join_next() => continue,
            _ = shutdown.wait_for(|stop| *stop) => break,
        };
        let Ok((stream, from)) = accepted else {
            // Out of file descriptors, most likely: wait for some to come back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (services, closing) = (services.clone(), closing(shutdown.clone()));
        let (acceptor, handshakes) = (acceptor.clone(), handshakes.clone());
        connections.spawn(async move {
            match shake_hands(&acceptor, &handshakes, stream).await {
                Ok(tls) => attend(tls, services, patience, closing).await,
                Err(why) => tracing::debug!(%from, why, "TLS handshake refused"),
            }
        });
    }
    drop(listener);
    // Those that are left are cut when the set is dropped.
    timeout(CLOSING, async {
        while connections.join_next().await.is_some() {}
    })
    .await
    .ok();
}

async fn closing(mut shutdown: watch::Receiver<bool>) {
    shutdown.wait_for(|stop| *stop).await.ok();
}

async fn shake_hands(
    acceptor: &TlsAcceptor,
    handshakes: &Semaphore,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, String> {
    let shaken = timeout(HANDSHAKE, async {
        let _slot = handshakes.acquire().await;
        stream.set_nodelay(true)?;
        acceptor.accept(stream).await
    });
    match shaken.await {
        Ok(done) => done.map_err(|e| e.to_string()),
        Err(_) => Err("it took too long".into()),
    }
}

/// Serves one connection. A peer without a certificate has come to join, which is one call: whoever stays longer
/// than `patience` would only keep agents from their places.
async fn attend(
    tls: TlsStream<TcpStream>,
    services: Services,
    patience: Duration,
    closing: impl Future<Output = ()>,
) {
    let peer = tls.connect_info();
    let stranger = peer.peer_certs().is_none_or(|chain| chain.is_empty());
    let calls = service_fn(move |mut call: http::Request<Incoming>| {
        call.extensions_mut().insert(peer.clone());
        answer(services.clone(), call)
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(20))
        .max_concurrent_streams(16)
        .serve_connection(TokioIo::new(tls), calls);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = sleep(patience), if stranger => return,
        () = closing => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an agent's connection broke");
    }
}

async fn answer(
    services: Services,
    call: http::Request<Incoming>,
) -> Result<http::Response<Body>, Infallible> {
    let Services {
        mut enrollment,
        mut session,
    } = services;
    match call.uri().path().split('/').nth(1) {
        Some("longshore.v1.Enrollment") => enrollment.call(call).await,
        Some("longshore.v1.Session") => session.call(call).await,
        _ => Ok(tonic::Status::unimplemented("no such service").into_http()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::authority::Authority;
    use super::super::{Config, fixture, serve};
    use super::*;
    use crate::store::Store;
    use longshore_proto::SERVER_NAME;
    use rustls::pki_types::ServerName;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn a_stranger_who_calls_nothing_is_shown_out() {
        let (_directory, store) = fixture::store();
        let store: Arc<dyn Store> = Arc::new(store);
        let mut roots = rustls::RootCertStore::empty();
        let authority = Authority::open(&*store).unwrap();
        roots.add(authority.certificate().clone()).unwrap();
        let mut config = Config::new("us-east-1", "000000000000");
        config.heartbeat = Duration::from_millis(100);
        let (_stop, shutdown) = watch::channel(false);
        let listen = "127.0.0.1:0".parse().unwrap();
        let serving = serve(store, config, listen, shutdown).await.unwrap();

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(serving.address()).await.unwrap();
        let name = ServerName::try_from(SERVER_NAME).unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let mut tls = connector.connect(name, stream).await.unwrap();
        // HTTP/2's preface and empty settings, and then silence.
        tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .await
            .unwrap();
        let mut said = Vec::new();
        let end = timeout(Duration::from_secs(5), tls.read_to_end(&mut said)).await;
        assert!(end.is_ok(), "it is still there");
    }
}
