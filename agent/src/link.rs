//! The agent's end of the wire: joins, connects, reconnects, and turns messages into the engine's words
//! and back. No other room of the agent knows the protocol.
//!
//! ```text
//!   shell ── report, acknowledge, ask_orphans ──▶ mail (levels) ──▶ session ──▶ control plane
//!   shell ◀── FromControl ── forwarder ◀───────── mail (levels) ◀── session ◀──
//! ```
//!
//! Nothing here makes the shell wait: what it tells and what it is told meet in [`mail::Mail`], where a newer
//! level replaces the older. Reports are told again at each reconnect until a STOPPED one is known to
//! be stored. A task that cannot be translated is refused by itself; the others of its set go on.
//!
//! Trust: a host without an identity needs a token, which names the CA by hash; the token is sent only
//! to a server whose certificate that CA has signed. From then on the stored CA is the only root.
//!
//! Deliberately absent: any decision about tasks, and the journal: the shell keeps both.

mod backoff;
mod dial;
mod enroll;
mod identity;
mod mail;
mod pin;
mod run;
mod session;
mod tell;
mod translate;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use longshore_engine::{TaskId, TaskReport, TaskSpec};
use tokio::sync::{mpsc, watch};

use mail::Mail;

/// Events that may wait between the link and the shell; what comes on top collapses in the mail.
const WAITING: usize = 16;

/// What the link is told once.
#[derive(Clone)]
pub struct LinkConfig {
    /// `https://HOST:PORT` of the control plane.
    pub endpoint: String,
    /// Needed until the host has an identity, ignored afterwards.
    pub token: Option<String>,
    /// Key, certificate and CA: files of mode 0600 in this directory of mode 0700.
    pub identity_dir: PathBuf,
    /// What the host has.
    pub registration: Registration,
    /// Store id and generation of the last desired set that the shell put on record.
    pub last_accepted: Option<(String, u64)>,
    /// The tasks that are on record here: a control plane whose store is another one is told of them and
    /// adopts them.
    pub held: Vec<TaskSpec>,
}

impl std::fmt::Debug for LinkConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkConfig")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "(hidden)"))
            .field("identity_dir", &self.identity_dir)
            .field("registration", &self.registration)
            .field("last_accepted", &self.last_accepted)
            .field("held", &self.held.len())
            .finish()
    }
}

/// What a host says of itself when it connects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registration {
    /// (name, value).
    pub attributes: Vec<(String, Option<String>)>,
    /// CPU units, 1024 per core.
    pub cpu: u32,
    /// MiB.
    pub memory: u64,
    /// TCP ports never given out.
    pub reserved_ports: Vec<u16>,
    /// UDP ports never given out.
    pub reserved_ports_udp: Vec<u16>,
    /// For people.
    pub host_name: String,
    /// The agent's version.
    pub agent_version: String,
}

/// What the control plane says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromControl {
    /// A session has begun.
    Connected {
        /// This host's container instance.
        instance_arn: String,
        /// Its cluster.
        cluster: String,
    },
    /// There is no session. Told when one ends and each time the reason changes; the link tries again by
    /// itself (unless the endpoint is no endpoint).
    Disconnected {
        /// Step, subject, cause and remedy.
        why: String,
    },
    /// The whole set wanted on this host, but for tasks that the link itself refused. A newer one replaces an
    /// older one that was not taken yet. Acknowledge each wish, also repeated ones.
    Desired {
        /// Of this store.
        store_id: String,
        /// True as of this generation.
        generation: u64,
        /// The tasks.
        wishes: Vec<Wish>,
    },
    /// Asked with `ask_orphans`: the control plane does not want this task.
    StopOrphan(TaskId),
    /// The task's STOPPED report is stored: its record can go.
    ReportStored(TaskId),
}

/// One task of the desired set. `Debug` shows its ARN, not the values in its environment.
#[derive(Clone, PartialEq, Eq)]
pub struct Wish {
    /// The task.
    pub spec: TaskSpec,
    /// Why it shall stop; none: it shall run.
    pub stop: Option<String>,
}

impl std::fmt::Debug for Wish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wish")
            .field("arn", &self.spec.arn)
            .field("stop", &self.stop)
            .finish_non_exhaustive()
    }
}

/// Whether this host has an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has joined a cluster and needs no token.
    Joined,
    /// It has to join first.
    New,
}

/// A handle on the link.
#[derive(Clone, Debug)]
pub struct Link {
    mail: Arc<Mail>,
    stop: watch::Sender<bool>,
    refused: watch::Receiver<Option<String>>,
}

/// Refuses at once what no number of tries can mend: an endpoint that is none, an identity that is
/// damaged, and without an identity a token that is missing or malformed.
///
/// # Errors
/// One sentence with step, subject and remedy.
pub fn check(endpoint: &str, token: Option<&str>, identity_dir: &Path) -> Result<Standing, String> {
    dial::Address::parse(endpoint)?;
    enroll::check(endpoint, token, &identity::Directory::open(identity_dir)?)
}

/// Tries until this host has an identity; `failed` is told why a try was in vain, each time that the reason changes. May
/// be dropped at any time, and called again: the key that a token was used with is kept.
///
/// # Errors
/// The control plane refuses the token: one sentence. The key is removed then.
pub async fn join(config: &LinkConfig, failed: impl Fn(String)) -> Result<(), String> {
    run::join(config, failed).await
}

impl Link {
    /// Starts the link and keeps it going until `shutdown`. Must be called within a tokio runtime.
    pub fn start(config: LinkConfig) -> (Link, mpsc::Receiver<FromControl>) {
        let (events, receiver) = mpsc::channel(WAITING);
        let (stop, stopped) = watch::channel(false);
        let (refuse, refused) = watch::channel(None);
        let mail = Arc::new(Mail::new(&config.held));
        tokio::spawn(run::forward(mail.clone(), events, stopped.clone()));
        tokio::spawn(run::keep_connected(config, mail.clone(), refuse, stopped));
        let link = Link {
            mail,
            stop,
            refused,
        };
        (link, receiver)
    }

    /// Holds the sentence once the control plane has refused the join token of a host without identity. The
    /// link goes on trying; whether that is worth it is the shell's to say.
    pub fn refused(&self) -> watch::Receiver<Option<String>> {
        self.refused.clone()
    }

    /// Tells a task's level; replaces what was told of it before.
    pub fn report(&self, report: TaskReport) {
        self.mail.report(report);
    }

    /// Tells nothing more about this task.
    pub fn forget(&self, task: &TaskId) {
        self.mail.forget(task);
    }

    /// Answers a wish of this generation: `Ok` once it is on record here, `Err` if this host refuses it
    /// for good and holds nothing of it.
    pub fn acknowledge(&self, task: &TaskId, generation: u64, result: Result<(), String>) {
        self.mail.acknowledge(task, generation, result);
    }

    /// Asks about tasks that are held here and not desired; `StopOrphan` follows for those to stop.
    pub fn ask_orphans(&self, tasks: Vec<TaskId>) {
        self.mail.ask_orphans(tasks);
    }

    /// Ends the session and all tries. Reports not yet told are told by the next start.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        // Both tasks hold a receiver while they live.
        self.stop.closed().await;
    }
}
