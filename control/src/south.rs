//! The south: agents join, connect, learn what they shall run and tell what runs.
//!
//! ```text
//!   Enrollment.Join, Renew ── enrollment ── token, authority ──▶ store: token/, instance/, ca
//!   Session.Connect ───────── session ──┬── instance ──────────▶ store: instance/
//!                             (registry:│── desired ◀── placed ◀─ store: watch task/
//!                        one per host)  │── report ────────────▶ store: task/
//!                                       └── adoption ──────────▶ store: task/, instance/
//! ```
//!
//! **Levels.** A host is sent the whole set of its tasks that are not STOPPED, under a generation: the
//! store's revision at which the set was true. It is sent when a session begins, when a wish of the set
//! changes, and again while an agent leaves a task unanswered. Reports are levels too: they move a task record forward and
//! never back, and a STOPPED report is answered only once it is durably stored.
//!
//! **Silence changes no task.** A host that is not heard of for three heartbeats is `connected: false`, its tasks stay as
//! they were last reported.
//!
//! **Another store.** An agent names the store and generation it last accepted. If that is another store,
//! or a future of this one (a backup was restored), it first tells everything it holds, and each task that this store does not
//! know becomes a task of that instance here, as it is: nothing is stopped. An instance unknown to this store,
//! with a good certificate of this CA, is entered again too. Whoever builds deregistration must
//! therefore leave a mark in the store, not a hole.
//!
//! **Orphans.** An agent asks about tasks that its set does not list; only a task that this store knows to
//! be STOPPED, elsewhere or nowhere is answered with `stop`.
//!
//! Absent: placement and services (north), sessions shared by several control planes: whoever starts
//! here calls all instances disconnected.

mod adoption;
mod authority;
mod bounds;
mod desired;
mod enrollment;
mod identity;
mod instance;
mod placed;
mod port;
mod registry;
mod report;
mod session;
mod tls;
mod token;
mod translate;

#[cfg(test)]
pub(crate) mod fixture;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::store::{Store, StoreError};
use authority::Authority;
use identity::Arns;
use placed::Placed;
use registry::Registry;
pub use token::{DEFAULT_TTL, MAX_TTL, mint_token};

/// What the south is told once.
#[derive(Clone, Debug)]
pub struct Config {
    /// Region in ARNs.
    pub region: String,
    /// Account in ARNs.
    pub account: String,
    /// How often an agent says that it is there; after three of these in silence it is disconnected.
    pub heartbeat: Duration,
    /// After this, and up to a tenth more, a session is asked to connect anew.
    pub maximum_age: Duration,
    /// How long a client certificate is good.
    pub certificate_lifetime: Duration,
}

impl Config {
    /// The usual times: 10 seconds, an hour, 30 days.
    pub fn new(region: impl Into<String>, account: impl Into<String>) -> Config {
        Config {
            region: region.into(),
            account: account.into(),
            heartbeat: Duration::from_secs(10),
            maximum_age: Duration::from_secs(3600),
            certificate_lifetime: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

/// The south could not do something: step, subject, and cause with remedy.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {subject}: {cause}")]
pub struct SouthError {
    /// What was attempted.
    pub step: &'static str,
    /// On what.
    pub subject: String,
    /// Cause and remedy.
    pub cause: String,
}

impl From<StoreError> for SouthError {
    fn from(error: StoreError) -> SouthError {
        SouthError {
            step: error.step,
            subject: error.subject,
            cause: error.cause,
        }
    }
}

/// The agents' port, open.
#[derive(Debug)]
pub struct Serving {
    address: SocketAddr,
    server: JoinHandle<()>,
}

impl Serving {
    /// The address it is bound to (the port that was chosen, where 0 was asked for).
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it has closed after `shutdown` became true. Sessions are told to connect anew and are
    /// given a few seconds to take that in.
    ///
    /// # Errors
    /// The server's task broke off (a defect).
    pub async fn closed(self) -> Result<(), SouthError> {
        self.server.await.map_err(|error| SouthError {
            step: "serve agents",
            subject: self.address.to_string(),
            cause: error.to_string(),
        })
    }
}

/// What all calls share.
#[derive(Debug)]
struct South {
    store: SharedStore,
    config: Config,
    arns: Arns,
    authority: Authority,
    registry: Registry,
    placed: Placed,
    shutdown: watch::Receiver<bool>,
}

/// The store, with a `Debug` that shows only its id.
#[derive(Clone)]
struct SharedStore(Arc<dyn Store>);

impl South {
    /// Waits until the control plane closes.
    async fn closing(&self) {
        let mut shutdown = self.shutdown.clone();
        shutdown.wait_for(|stop| *stop).await.ok();
    }
}

impl std::fmt::Debug for SharedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.0.id())
    }
}

impl SharedStore {
    /// Runs `work`, which reads or writes the store, where blocking is allowed.
    async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    {
        let store = self.0.clone();
        let done = tokio::task::spawn_blocking(move || work(&*store)).await;
        done.unwrap_or_else(|error| {
            Err(StoreError {
                step: "use",
                subject: "the store".into(),
                cause: error.to_string(),
            })
        })
    }
}

/// Opens the agents' port and serves it until `shutdown` is true; see [`serve_on`].
///
/// # Errors
/// The address cannot be bound; [`serve_on`]'s.
pub async fn serve(
    store: Arc<dyn Store>,
    config: Config,
    listen: SocketAddr,
    shutdown: watch::Receiver<bool>,
) -> Result<Serving, SouthError> {
    let listener = TcpListener::bind(listen).await;
    let listener = listener.map_err(|error| cannot_listen(&listen, &error))?;
    serve_on(store, config, listener, shutdown).await
}

/// Serves agents on this listener until `shutdown` is true.
///
/// Makes the cluster's CA if the store has none, and calls every instance disconnected: whoever still is
/// there connects again.
///
/// # Errors
/// The CA cannot be made or read, the store fails.
pub async fn serve_on(
    store: Arc<dyn Store>,
    config: Config,
    listener: TcpListener,
    shutdown: watch::Receiver<bool>,
) -> Result<Serving, SouthError> {
    let store = SharedStore(store);
    let authority = Authority::open(&*store.0)?;
    let tls = tls::config(&authority)?;
    let address = listener.local_addr();
    let address = address.map_err(|error| cannot_listen(&"a listener", &error))?;
    store.run(instance::disconnect_all).await?;
    let south = Arc::new(South {
        placed: Placed::start(store.clone(), shutdown.clone()).await?,
        arns: Arns {
            region: config.region.clone(),
            account: config.account.clone(),
        },
        registry: Registry::default(),
        authority,
        config,
        shutdown: shutdown.clone(),
        store,
    });
    let server = tokio::spawn(port::run(south, listener, tls, shutdown));
    Ok(Serving { address, server })
}

fn cannot_listen(on: &dyn std::fmt::Display, error: &std::io::Error) -> SouthError {
    SouthError {
        step: "listen for agents",
        subject: on.to_string(),
        cause: format!("{error}; choose another address or stop who has it"),
    }
}
