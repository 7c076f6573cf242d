//! `longshore control`: the control plane by itself, and what `dev` shares with it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use longshore_agent::Instance;
use longshore_control::{Config, ControlPlane};

use crate::keys::{self, Keys};
use crate::place::{self, Place};
use crate::{shutdown, socket, telling};

/// Run the control plane: the ECS API, and the RPC port that agents dial
///
/// Needs no privilege where --state-dir and --control-socket are in folders of the user's own; their
/// defaults are root's. The API speaks plain HTTP with SigV4: put a TLS proxy before it where it leaves
/// loopback. The RPC port is mutual TLS by itself.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  longshore control --rpc 10.0.0.5:4481
  longshore node token                     on the same host, for each host that joins

Without root:
  longshore control --state-dir ~/longshore --control-socket ~/longshore/control.sock
  longshore node token --control-socket ~/longshore/control.sock")]
pub(crate) struct Control {
    #[command(flatten)]
    place: Place,
    /// Where longshore node token asks; its folder must be there
    /// [default: /run/longshore[-NAME]/control.sock]
    #[arg(long, value_name = "PATH")]
    control_socket: Option<PathBuf>,
    #[command(flatten)]
    ports: Ports,
}

const API_PORT: u16 = 4480;
const RPC_PORT: u16 = 4481;
const DEFAULT_REGION: &str = "us-east-1";
const DEFAULT_ACCOUNT: &str = "000000000000";

/// Where the control plane listens.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Ports {
    /// Where the ECS API listens
    #[arg(long, value_name = "ADDRESS", default_value_t = local(API_PORT))]
    pub(crate) api: SocketAddr,
    /// Where agents dial
    #[arg(long, value_name = "ADDRESS", default_value_t = local(RPC_PORT))]
    pub(crate) rpc: SocketAddr,
    /// Region in ARNs and signatures
    #[arg(long, default_value = DEFAULT_REGION)]
    region: String,
    /// Account in ARNs
    #[arg(long, default_value = DEFAULT_ACCOUNT)]
    account: String,
}

/// Made at the first start; what a call means that names no cluster.
pub(crate) const DEFAULT_CLUSTER: &str = "default";

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

impl Ports {
    /// `dev` is for one machine and one person.
    pub(crate) fn need_loopback(&self) -> Result<()> {
        for (name, address) in [("--api", self.api), ("--rpc", self.rpc)] {
            if !address.ip().is_loopback() {
                bail!(
                    "start longshore dev: {name} {address} is not loopback; for other hosts run longshore control \
                     and longshore agent apart"
                );
            }
        }
        Ok(())
    }

    /// The options of a command line that name these, where they are not the defaults.
    pub(crate) fn words(&self) -> Vec<String> {
        let all = [
            ("--api", self.api.to_string(), local(API_PORT).to_string()),
            ("--rpc", self.rpc.to_string(), local(RPC_PORT).to_string()),
            ("--region", self.region.clone(), DEFAULT_REGION.to_owned()),
            (
                "--account",
                self.account.clone(),
                DEFAULT_ACCOUNT.to_owned(),
            ),
        ];
        let changed = all
            .into_iter()
            .filter(|(_, value, default)| value != default);
        changed
            .flat_map(|(option, value, _)| [option.to_owned(), value])
            .collect()
    }

    /// The RPC endpoint as an agent on this host dials it.
    pub(crate) fn endpoint(&self) -> String {
        format!("https://{}", self.rpc)
    }
}

impl Control {
    pub(crate) fn run(self) -> Result<()> {
        let (instance, socket) = self.roots()?;
        telling::log("info");
        let claim = place::claim(&instance).map_err(without_root)?;
        let ended = self.serve(instance, socket);
        if ended.is_err() {
            claim.give_up_if_unused();
        }
        ended
    }

    fn serve(self, instance: Instance, socket: PathBuf) -> Result<()> {
        shutdown::run(async move {
            let stopping = shutdown::on_signals()?;
            let plane = open(&instance, &self.ports, &socket)?;
            let keys = instance.state_root().join("control.env");
            write_keys(&keys, &plane, &self.ports)?;
            let ready = ready(plane.api_address(), self.ports.rpc, &keys);
            let serving = plane.serve(stopping);
            tokio::pin!(serving);
            tokio::select! {
                ended = &mut serving => return ended,
                () = socket::until_answers(&socket) => telling::print(&ready)?,
            }
            serving.await
        })
    }

    /// The instance, and where its admin socket is.
    fn roots(&self) -> Result<(Instance, PathBuf)> {
        let instance = self.place.instance()?;
        let Some(socket) = &self.control_socket else {
            let socket = instance.control_socket();
            return Ok((instance, socket));
        };
        let socket = std::path::absolute(socket)
            .with_context(|| format!("resolve --control-socket {}", socket.display()))?;
        // The socket is all that the control plane puts into a run directory: none is made then.
        let state = instance.state_root().to_owned();
        Ok((instance.with_run_root(state), socket))
    }
}

/// The defaults are root's: who is not root is told what to name instead.
fn without_root(error: anyhow::Error) -> anyhow::Error {
    let denied = error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|cause| cause.kind() == std::io::ErrorKind::PermissionDenied);
    match denied && !rustix::process::geteuid().is_root() {
        true => error.context(
            "start longshore control without root: name --state-dir and --control-socket in folders of your own",
        ),
        false => error,
    }
}

fn ready(api: SocketAddr, rpc: SocketAddr, keys: &Path) -> String {
    let keys = keys.display();
    format!("Ready: the ECS API is at http://{api}, agents dial {rpc}. Keys: source {keys}\n")
}

/// Opens the store and the API's port.
pub(crate) fn open(instance: &Instance, ports: &Ports, socket: &Path) -> Result<ControlPlane> {
    ControlPlane::open(Config {
        state_dir: instance.state_root().to_owned(),
        api_listen: ports.api,
        rpc_listen: ports.rpc,
        region: ports.region.clone(),
        account: ports.account.clone(),
        default_cluster: DEFAULT_CLUSTER.to_owned(),
        admin_socket: Some(socket.to_owned()),
    })
}

/// Writes what a client needs.
pub(crate) fn write_keys(file: &Path, plane: &ControlPlane, ports: &Ports) -> Result<()> {
    let (access_key_id, secret_access_key) = plane.access_key();
    let keys = Keys {
        api: plane.api_address(),
        region: &ports.region,
        access_key_id,
        secret_access_key,
    };
    keys::write(file, &keys)
}
