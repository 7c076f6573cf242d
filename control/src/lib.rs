//! The control plane: the ECS API to the north, agents' sessions to the south, a store in the middle.
//!
//! North and south never call each other: each reads and writes records ([`model`]) in the [`store`] and
//! watches it for what the other one wrote.

pub mod access_key;
pub mod admin;
pub mod definition;
pub mod ecs;
pub mod id;
pub mod model;
mod north;
pub mod placement;
pub mod sigv4;
pub mod south;
pub mod store;
mod sweep;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use tokio::sync::watch;

use crate::access_key::AccessKey;
use crate::ecs::{Api, Arns};
use crate::store::{RedbStore, Store};

/// What a control plane must be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Holds `control/store.redb`; made where it is missing.
    pub state_dir: PathBuf,
    /// Where the ECS API listens; port 0: any free port, see [`ControlPlane::api_address`].
    pub api_listen: SocketAddr,
    /// Where agents connect to.
    pub rpc_listen: SocketAddr,
    /// The region in ARNs and in clients' signatures.
    pub region: String,
    /// The account in ARNs: 12 digits.
    pub account: String,
    /// The cluster that is meant where a call names none; made at the first start.
    pub default_cluster: String,
    /// The operator's socket (join tokens); none: no socket.
    pub admin_socket: Option<PathBuf>,
}

/// A control plane that has its store, its keys and its listener, and does not serve yet.
pub struct ControlPlane {
    config: Config,
    store: Arc<dyn Store>,
    access_key: AccessKey,
    api: TcpListener,
    api_address: SocketAddr,
    rpc: TcpListener,
    rpc_address: SocketAddr,
}

impl std::fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlPlane")
            .field("config", &self.config)
            .field("api_address", &self.api_address)
            .field("rpc_address", &self.rpc_address)
            .finish_non_exhaustive()
    }
}

impl ControlPlane {
    /// Opens the store, makes what a first start needs (access key, default cluster), and binds the API's
    /// address. May be done again at any time: what is there stays.
    ///
    /// # Errors
    /// A region, account or cluster name that cannot be one; the store's errors; an address in use.
    pub fn open(config: Config) -> anyhow::Result<ControlPlane> {
        check(&config)?;
        // First, so that a port that is taken leaves no store behind.
        let (api, api_address) = listen("the ECS API", config.api_listen)?;
        let (rpc, rpc_address) = listen("agents", config.rpc_listen)?;
        let store: Arc<dyn Store> = Arc::new(RedbStore::open(&config.state_dir.join("control"))?);
        let access_key = access_key::first(store.as_ref())?;
        make_default_cluster(&config, &store)?;
        if !api_address.ip().is_loopback() {
            tracing::warn!(%api_address, "the ECS API listens beyond loopback without TLS: requests are signed but can be read on the way");
        }
        Ok(ControlPlane {
            config,
            store,
            access_key,
            api,
            api_address,
            rpc,
            rpc_address,
        })
    }

    /// The access key that clients sign with: (id, secret).
    #[must_use]
    pub fn access_key(&self) -> (&str, &str) {
        (&self.access_key.id, &self.access_key.secret)
    }

    /// Where the ECS API listens.
    #[must_use]
    pub fn api_address(&self) -> SocketAddr {
        self.api_address
    }

    /// Where agents connect to.
    #[must_use]
    pub fn rpc_address(&self) -> SocketAddr {
        self.rpc_address
    }

    /// The store, for whoever assembles more around it.
    #[must_use]
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    /// Serves until `shutdown` says true. Tasks on hosts go on without it.
    ///
    /// # Errors
    /// A listener that cannot be used, a CA that cannot be read, an admin socket that cannot be made.
    pub async fn serve(self, shutdown: watch::Receiver<bool>) -> anyhow::Result<()> {
        let listener =
            tokio::net::TcpListener::from_std(self.api).context("use the API's listener")?;
        let api = api(&self.config, &self.store);
        let front = north::Front::new(api, Arc::clone(&self.store), self.config.region.clone());
        let north = north::serve(listener, Arc::new(front), shutdown.clone());
        let sweep = sweep_regularly(Arc::clone(&self.store), shutdown.clone());
        let rpc =
            tokio::net::TcpListener::from_std(self.rpc).context("use the agents' listener")?;
        let told = south::Config::new(self.config.region, self.config.account);
        let store = Arc::clone(&self.store);
        let south = south::serve_on(store, told, rpc, shutdown.clone()).await?;
        let admin = match &self.config.admin_socket {
            None => None,
            Some(path) => Some(admin::serve(self.store, path, shutdown).await?),
        };
        let admin = async {
            if let Some(admin) = admin {
                admin.closed().await;
            }
        };
        // A port that breaks off ends the whole: half a control plane would look well and do nothing.
        tokio::try_join!(
            async { anyhow::Ok(tokio::join!(north, sweep, admin)) },
            async { anyhow::Ok(south.closed().await?) },
        )?;
        Ok(())
    }
}

fn listen(to: &str, address: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listening = || format!("listen for {to} on {address}");
    let listener = TcpListener::bind(address).with_context(listening)?;
    listener.set_nonblocking(true).with_context(listening)?;
    let address = listener.local_addr().with_context(listening)?;
    Ok((listener, address))
}

/// Only at the first start: a default cluster that was deleted stays deleted.
fn make_default_cluster(config: &Config, store: &Arc<dyn Store>) -> anyhow::Result<()> {
    let name = &config.default_cluster;
    let key = format!("cluster/{name}");
    if model::read::<model::Cluster>(store.as_ref(), &key)?.is_none() {
        let body = serde_json::json!({"clusterName": name});
        api(config, store)
            .call("CreateCluster", body)
            .with_context(|| format!("make the default cluster {name:?}"))?;
    }
    Ok(())
}

fn api(config: &Config, store: &Arc<dyn Store>) -> Api {
    let arns = Arns {
        region: config.region.clone(),
        account: config.account.clone(),
    };
    Api::new(Arc::clone(store), arns, config.default_cluster.clone())
}

/// Region and account become parts of ARNs and signatures; a slip there is found at the first call only.
fn check(config: &Config) -> anyhow::Result<()> {
    let region = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if config.region.is_empty() || !config.region.bytes().all(region) {
        bail!(
            "region {:?} is none: use lowercase letters, digits and hyphens, like us-east-1",
            config.region
        );
    }
    if config.account.len() != 12 || !config.account.bytes().all(|b| b.is_ascii_digit()) {
        bail!("account {:?} is none: use 12 digits", config.account);
    }
    Ok(())
}

async fn sweep_regularly(store: Arc<dyn Store>, mut shutdown: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(sweep::INTERVAL) => {}
        }
        let store = Arc::clone(&store);
        let swept = tokio::task::spawn_blocking(move || sweep::sweep(store.as_ref(), now())).await;
        match swept {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "sweeping old records failed; it is tried again")
            }
            Err(panic) => tracing::error!(%panic, "sweeping old records failed unexpectedly"),
        }
    }
}

/// The time, as records keep it. A clock before 1970 reads as 1970.
#[must_use]
pub fn now() -> model::Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
