//! `longshore node`: hosts of the cluster.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::json;

use crate::place::Which;
use crate::{socket, telling};

/// Let hosts join
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Node {
    Token(Token),
}

/// Make a join token: it admits one host, once, for a short time
///
/// Asks the control plane of this machine over its local socket. The token goes to standard output; hand
/// it to `longshore agent` by the variable LONGSHORE_JOIN_TOKEN or by --token-file, never as an argument.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  (umask 077; longshore node token > token) && scp -p token host2: && rm token"
)]
pub(crate) struct Token {
    #[command(flatten)]
    which: Which,
    /// The socket of longshore control, where it was told one [default: the instance's]
    #[arg(long, value_name = "PATH")]
    control_socket: Option<PathBuf>,
    /// The cluster that the host joins
    #[arg(long, default_value = "default", value_name = "NAME")]
    cluster: String,
    /// Seconds for which it is good
    #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
    ttl: u64,
    /// Print JSON: token, cluster
    #[arg(long)]
    json: bool,
}

impl Node {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Node::Token(verb) => verb.run(),
        }
    }
}

impl Token {
    fn run(self) -> Result<()> {
        let socket = match self.control_socket {
            Some(socket) => socket,
            None => self.which.instance()?.control_socket(),
        };
        let wanted = json!({"cluster": self.cluster, "ttl_seconds": self.ttl});
        let answer = socket::block_on(socket::post(&socket, "/v1/tokens", &wanted))?;
        let token = answer["token"]
            .as_str()
            .context("read the answer to /v1/tokens: no token in it")?;
        telling::print(&match self.json {
            true => format!("{}\n", json!({"token": token, "cluster": self.cluster})),
            false => format!("{token}\n"),
        })
    }
}
