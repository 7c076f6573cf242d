//! What an agent does before it sets its host up: it looks whether the host may have an agent at all.
//!
//! A host that was never set up joins first, and only then are there cgroups, a bridge, an image store, a journal. So a
//! refusal leaves the host as it was: what was made until then (lock, socket, key) is removed again. The debug socket
//! answers meanwhile, for joining lasts as long as the control plane cannot be reached.
//!
//! Absent: how to join, which is the link's; and a host that was set up before and has lost its identity. Its tasks want
//! their agent, so it is set up and joins beside its work.

use anyhow::{Context as _, Result};
use tokio::net::UnixListener;
use tokio::sync::watch;

use std::path::PathBuf;

use crate::assembly::{host_name, journal_file};
use crate::board::Contact;
use crate::debug::{self, Sources};
use crate::link::{self, LinkConfig, Registration, Standing};
use crate::lock::Lock;
use crate::{Config, Instance};

/// Key and certificates of the host.
pub(crate) fn identity_dir(instance: &Instance) -> PathBuf {
    instance.state_root().join("identity")
}

/// The debug socket, bound, and the lock, once the host may be set up. None: shut down before that.
///
/// # Errors
/// The host cannot join, or the socket cannot be bound. Nothing of the agent is left then.
pub(crate) async fn first(
    config: &Config,
    sources: &Sources,
    lock: Lock,
    shutdown: watch::Receiver<bool>,
) -> Result<Option<(UnixListener, Lock)>> {
    match standing(config) {
        Ok(Standing::New) => {}
        Ok(Standing::Joined) => {
            return Ok(Some((debug::bind(&config.instance.agent_socket())?, lock)));
        }
        Err(why) => return Err(leave(config, lock, anyhow::Error::msg(why))),
    }
    let socket = debug::bind(&config.instance.agent_socket())?;
    if journal_file(&config.instance).exists() {
        return Ok(Some((socket, lock)));
    }
    match join(config, sources, &socket, shutdown).await {
        Ok(true) => Ok(Some((socket, lock))),
        Ok(false) => Ok(None),
        Err(why) => Err(leave(config, lock, why)),
    }
}

fn standing(config: &Config) -> Result<Standing, String> {
    let identity_dir = identity_dir(&config.instance);
    let token = config.token.as_deref();
    let standing = link::check(&config.endpoint, token, &identity_dir)?;
    if standing == Standing::Joined && token.is_some() {
        tracing::info!(
            "the join token is not used: this host has joined already, its identity is in {}",
            identity_dir.display()
        );
    }
    Ok(standing)
}

/// False if it was shut down before it had joined.
async fn join(
    config: &Config,
    sources: &Sources,
    socket: &UnixListener,
    mut shutdown: watch::Receiver<bool>,
) -> Result<bool> {
    let link = LinkConfig {
        endpoint: config.endpoint.clone(),
        token: config.token.clone(),
        identity_dir: identity_dir(&config.instance),
        registration: Registration {
            host_name: host_name(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Registration::default()
        },
        last_accepted: None,
        held: Vec::new(),
    };
    let failed = |why: String| {
        tracing::warn!("control plane not connected: {why}");
        sources.board.set_contact(Contact::Lost(why));
    };
    tokio::select! {
        joined = link::join(&link, failed) => joined.map(|()| true).map_err(anyhow::Error::msg),
        // An error means that the sender is gone, which ends the agent as well.
        _ = shutdown.wait_for(|stop| *stop) => Ok(false),
        () = debug::serve(socket, sources) => anyhow::bail!("serve debug socket: it was closed"),
    }
}

/// Removes what this start has made, so far as nobody else uses it; gives the reason back.
fn leave(config: &Config, lock: Lock, why: anyhow::Error) -> anyhow::Error {
    // Where an agent was set up before, the run root is its own.
    if journal_file(&config.instance).exists() {
        return why;
    }
    let run_root = config.instance.run_root();
    let socket = match std::fs::remove_file(config.instance.agent_socket()) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    };
    let removed = socket.and_then(|()| lock.remove());
    // A control plane of the same instance may have its socket there.
    let removed = removed.and_then(|()| match std::fs::remove_dir(run_root) {
        Err(e) if e.kind() != std::io::ErrorKind::DirectoryNotEmpty => Err(e),
        _ => Ok(()),
    });
    match removed.with_context(|| format!("remove {}", run_root.display())) {
        Ok(()) => why,
        Err(left) => why.context(format!("{left:#}")),
    }
}
