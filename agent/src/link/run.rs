//! The link's two tasks: one keeps a session open, one brings events to the shell.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::backoff::{Backoff, Ended, jitter};
use super::dial::{Address, Trust, dial};
use super::enroll::{Failure, identify};
use super::identity::Directory;
use super::mail::Mail;
use super::session::{End, Memory, Session};
use super::{FromControl, LinkConfig};

/// Reconnects that were asked for come within this, so that not all hosts come at once.
const SPREAD: Duration = Duration::from_millis(250);

/// Brings events to the shell, at its pace.
pub(super) async fn forward(
    mail: Arc<Mail>,
    events: mpsc::Sender<FromControl>,
    mut stopped: watch::Receiver<bool>,
) {
    let bring = async {
        loop {
            let event = mail.next_incoming().await;
            if events.send(event).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = bring => {}
        () = stop(&mut stopped) => {}
    }
}

/// Connects, and again, until it is stopped.
pub(super) async fn keep_connected(
    config: LinkConfig,
    mail: Arc<Mail>,
    refused: watch::Sender<Option<String>>,
    mut stopped: watch::Receiver<bool>,
) {
    let address = match Address::parse(&config.endpoint) {
        Ok(address) => address,
        Err(why) => return mail.session(FromControl::Disconnected { why }),
    };
    let mut memory = Memory::new(config.last_accepted.clone());
    tokio::select! {
        () = try_forever(&config, &address, &mail, &refused, &mut memory) => {}
        () = stop(&mut stopped) => {}
    }
}

/// See [`super::join`].
pub(super) async fn join(config: &LinkConfig, failed: impl Fn(String)) -> Result<(), String> {
    let address = Address::parse(&config.endpoint)?;
    let directory = Directory::open(&config.identity_dir)?;
    let mut backoff = Backoff::default();
    let mut told = None;
    loop {
        let why = match identify(config, &directory, &address).await {
            Ok(_) => return Ok(()),
            Err(Failure::Refused(why)) => {
                directory.remove()?;
                return Err(why);
            }
            Err(Failure::Passing(why)) => why,
        };
        if told.as_ref() != Some(&why) {
            failed(why.clone());
            told = Some(why);
        }
        let bound = backoff.bound(Ended::Broken(Duration::ZERO)).max(SPREAD);
        tokio::time::sleep(jitter(bound)).await;
    }
}

async fn stop(stopped: &mut watch::Receiver<bool>) {
    // An error says that every handle is gone: nobody listens any more.
    stopped.wait_for(|stop| *stop).await.ok();
}

async fn try_forever(
    config: &LinkConfig,
    address: &Address,
    mail: &Arc<Mail>,
    refused: &watch::Sender<Option<String>>,
    memory: &mut Memory,
) {
    let mut backoff = Backoff::default();
    let mut told = None;
    loop {
        let mut since = None;
        let ended = attempt(config, address, mail, memory, &mut since).await;
        if let Err(Failure::Refused(why)) = &ended {
            refused.send_replace(Some(why.clone()));
        }
        let lasted = since.map_or(Duration::ZERO, |since: Instant| since.elapsed());
        let (ended, why) = match ended {
            Ok(End::Reconnect) => (
                Ended::Asked(lasted),
                "the control plane asked for a new session".to_owned(),
            ),
            Err(Failure::Passing(why) | Failure::Refused(why)) => (Ended::Broken(lasted), why),
        };
        // The same failure again is no news.
        if since.is_some() || told.as_ref() != Some(&why) {
            told = Some(why.clone());
            mail.session(FromControl::Disconnected { why });
        }
        let bound = backoff.bound(ended).max(SPREAD);
        tokio::time::sleep(jitter(bound)).await;
    }
}

async fn attempt(
    config: &LinkConfig,
    address: &Address,
    mail: &Arc<Mail>,
    memory: &mut Memory,
    since: &mut Option<Instant>,
) -> Result<End, Failure> {
    let failed = |why: String| format!("connect to {}: {why}", config.endpoint);
    let directory = Directory::open(&config.identity_dir)?;
    let identity = identify(config, &directory, address).await?;
    let channel = dial(address, &Trust::Identity(&identity)).await;
    let opened = match channel {
        Ok(channel) => Session::open(channel, &config.registration, memory).await,
        Err(why) => Err(why),
    };
    let session = opened.map_err(failed)?;
    *since = Some(Instant::now());
    mail.session(session.connected());
    Ok(session.converse(mail, memory).await.map_err(failed)?)
}
