//! The ECS API over HTTP: listens, bounds what a client may take, and hands calls to [`crate::ecs`].
//!
//! Slow and greedy clients are bounded, not trusted: so many connections, so long for a request's head,
//! its body and the whole connection, so many bytes of body, so many calls at work. Whoever holds connections
//! and says nothing keeps nobody out: see [`guests`].
//!
//! Absent: TLS. Signatures keep requests from being forged or changed, not from being read; whoever
//! listens beyond loopback puts a TLS proxy in front.

mod guests;
mod request;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::guests::{Guest, Guests};
pub(crate) use self::request::Front;

/// Connections at once. One more, and the one that has been idle for longest is closed.
const CONNECTIONS: usize = 512;

/// For a request's head, and so for an idle connection too.
const HEAD: Duration = Duration::from_secs(30);

/// For a whole connection. Also ends those whose client stopped reading.
const LIFE: Duration = Duration::from_secs(15 * 60);

/// For calls at work when the server stops.
const GRACE: Duration = Duration::from_secs(5);

/// Serves until `shutdown` says true (or its sender is gone), then lets calls at work finish.
pub(crate) async fn serve(
    listener: TcpListener,
    front: Arc<Front>,
    shutdown: watch::Receiver<bool>,
) {
    let guests = Guests::new(CONNECTIONS);
    let mut connections = JoinSet::new();
    let mut stop = shutdown.clone();
    let stopped = async move { stop.wait_for(|stop| *stop).await.is_ok() };
    tokio::pin!(stopped);
    loop {
        let accepted = tokio::select! {
            _ = &mut stopped => break,
            accepted = accept(&listener, &guests) => accepted,
            // Reaps what has ended, so that the set does not grow.
            Some(_) = connections.join_next() => continue,
        };
        let Some((stream, guest)) = accepted else {
            continue;
        };
        connections.spawn(converse(
            stream,
            guest,
            Arc::clone(&front),
            shutdown.clone(),
        ));
    }
    drop(listener);
    let finished = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, finished).await.is_err() {
        tracing::warn!("API calls were still at work when the server stopped");
    }
}

async fn accept(listener: &TcpListener, guests: &Arc<Guests>) -> Option<(TcpStream, Arc<Guest>)> {
    match listener.accept().await {
        // Without a place it is closed at once: clients try again.
        Ok((stream, _)) => guests.welcome().map(|guest| (stream, Arc::new(guest))),
        Err(error) => {
            // Out of descriptors, mostly: a pause lets others end.
            tracing::warn!(%error, "accepting an API connection failed");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn converse(
    stream: TcpStream,
    guest: Arc<Guest>,
    front: Arc<Front>,
    mut shutdown: watch::Receiver<bool>,
) {
    // Answers are small and waited for.
    stream.set_nodelay(true).ok();
    let calling = Arc::clone(&guest);
    let service = service_fn(move |request| {
        let (front, guest) = (Arc::clone(&front), Arc::clone(&calling));
        async move { Ok::<_, Infallible>(front.answer(request, guest).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(64)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => Some(ended),
        _ = tokio::time::sleep(LIFE) => None,
        _ = shutdown.wait_for(|stop| *stop) => None,
        () = guest.must_leave() => return,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(GRACE, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an API connection ended early");
    }
}
