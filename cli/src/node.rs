//! `longshore node`: hosts of the cluster.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::place::Which;
use crate::{socket, telling};

/// Let hosts join
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Node {
    Token(Token),
}

/// Make a join token: it admits one host, once, within an hour
///
/// Asks the control plane of this machine over its local socket. The token goes to standard output; hand
/// it to `longshore agent` by the variable LONGSHORE_JOIN_TOKEN or by --token-file, never as an argument.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  longshore node token > token && scp token host2: && rm token")]
pub(crate) struct Token {
    #[command(flatten)]
    which: Which,
    /// The cluster that the host joins
    #[arg(long, default_value = "default", value_name = "NAME")]
    cluster: String,
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
        let socket = self.which.instance()?.control_socket();
        let path = format!("/v1/token?cluster={}", self.cluster);
        let answer = socket::block_on(socket::post(&socket, &path))?;
        let token = answer["token"].as_str().context("read the answer to /v1/token: no token in it")?;
        telling::print(&match self.json {
            true => format!("{}\n", Value::from_iter([("token", token), ("cluster", &self.cluster)])),
            false => format!("{token}\n"),
        })
    }
}
