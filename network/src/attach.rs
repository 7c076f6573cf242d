//! The steps that make a lease true on the host, and those that undo it.
//!
//! ```text
//! attach:   decide ▶ write lease ▶ pin netns ▶ bridge ▶ packet rules ▶ veth ▶ eth0, route
//! release:  packet rules ▶ veth ▶ pin ▶ remove lease ▶ give address and ports free
//! ```
//!
//! The rules come before the veth, so that no container is ever plugged into an unguarded bridge; the
//! lease goes first and last, so that a crash at any arrow is found. Every step bears being done twice.
//! Steps of different containers run side by side; those of one container take turns.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::lease::{Lease, LeaseDir, Mode};
use crate::ledger::{Ledger, Phase};
use crate::link::Links;
use crate::nft::Rules;
use crate::{Attachment, Config, NetworkError, PortRequest};
use crate::{bridge, conntrack, lease, netns, nft, pin_of, ports, veth};

/// What a container asks for.
pub(crate) enum Wish {
    None,
    Bridge(Vec<PortRequest>),
}

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) config: Config,
    pub(crate) leases: LeaseDir,
    ledger: Mutex<Ledger>,
    /// The generation of the rules in the kernel, if this process wrote them; held while writing.
    rules: tokio::sync::Mutex<Option<u64>>,
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Host {
    pub(crate) fn new(config: Config, leases: LeaseDir, ledger: Ledger) -> Host {
        Host {
            config,
            leases,
            ledger: Mutex::new(ledger),
            rules: tokio::sync::Mutex::new(None),
            turns: Mutex::default(),
        }
    }

    pub(crate) async fn attach(&self, id: &str, wish: Wish) -> Result<Attachment, NetworkError> {
        let _turn = self.take_turn(id).await;
        if matches!(wish, Wish::Bridge(_)) {
            // Before anything is promised: without it the bridge would stand unguarded.
            nft::program()?;
        }
        let lease = self.reserve(id, &wish).await?;
        self.realise(&lease).await?;
        Ok(self.describe(&lease))
    }

    async fn reserve(&self, id: &str, wish: &Wish) -> Result<Lease, NetworkError> {
        let decide = || match wish {
            Wish::None => self.ledger().reserve_none(id),
            Wish::Bridge(ports) => self.ledger().reserve_bridge(id, ports, &self.config),
        };
        let (lease, phase) = ports::patiently(decide).await?;
        if phase == Phase::Reserved {
            let (leases, written) = (self.leases.clone(), lease.clone());
            if let Err(e) = blocking(move || leases.write(&written)).await {
                self.ledger().forget(id);
                return Err(e);
            }
        }
        self.ledger().recorded(id);
        Ok(lease)
    }

    async fn realise(&self, lease: &Lease) -> Result<(), NetworkError> {
        let pin = self.pin(&lease.id);
        netns::ensure(&pin).await?;
        match &lease.mode {
            Mode::None => {
                Links::inside(&pin).await?.set_up("lo").await?;
            }
            Mode::Bridge(seat) => {
                bridge::ensure(&self.config).await?;
                self.commit_rules().await?;
                conntrack::claim(seat).await;
                veth::ensure(seat, &self.config.prefix, &pin).await?;
            }
        }
        Ok(())
    }

    pub(crate) async fn release(&self, id: &str) -> Result<(), NetworkError> {
        let _turn = self.take_turn(id).await;
        let left = self.ledger().leave(id);
        match left.as_ref().and_then(Lease::seat) {
            Some(seat) => {
                if !seat.bindings.is_empty() {
                    self.withdraw_rules().await;
                }
                Links::here()?.delete(&seat.veth).await?;
                conntrack::disclaim(seat).await;
            }
            None => self.unplug_stranger(id).await?,
        }
        let (leases, pin, owned) = (self.leases.clone(), self.pin(id), id.to_owned());
        blocking(move || {
            netns::unpin(&pin)?;
            leases.remove(&owned)
        })
        .await?;
        self.ledger().forget(id);
        Ok(())
    }

    /// A pinned namespace without a readable lease: its cable can only be found from inside.
    async fn unplug_stranger(&self, id: &str) -> Result<(), NetworkError> {
        let pin = self.pin(id);
        if !netns::is_pinned(&pin).unwrap_or(false) {
            return Ok(());
        }
        Links::inside(&pin).await?.delete(veth::INSIDE).await
    }

    /// Brings the rules up to the ledger, unless they are; callers that wait while one commit runs share
    /// the next.
    async fn commit_rules(&self) -> Result<(), NetworkError> {
        let mut in_kernel = self.rules.lock().await;
        let (generation, published) = self.ledger().published();
        if *in_kernel == Some(generation) {
            return Ok(());
        }
        let text = nft::replace(&Rules {
            table: &self.config.table,
            bridge: &self.config.prefix,
            subnet: self.config.subnet,
            published: &published,
        });
        nft::commit(&self.config.table, &text).await?;
        *in_kernel = Some(generation);
        Ok(())
    }

    /// Rules that cannot be taken away now lead to an address that nobody has, and every attachment
    /// writes all rules anew before anybody gets it: no reason to keep a container from going.
    async fn withdraw_rules(&self) {
        if let Err(e) = self.commit_rules().await {
            tracing::warn!(error = %e, "released ports stay in the packet rules until the next change");
        }
    }

    pub(crate) async fn remove(&self) -> Result<(), NetworkError> {
        let mut failures = Vec::new();
        let mut ids = self.ledger().ids();
        let pins = self.config.run_root.join("netns");
        ids.extend(
            netns::pinned_names(&pins)
                .into_iter()
                .filter(|n| lease::is_id(n)),
        );
        ids.sort();
        ids.dedup();
        for id in ids {
            failures.extend(self.release(&id).await.err());
        }
        failures.extend(self.remove_table().await.err());
        failures.extend(self.remove_links().await.err());
        if failures.is_empty() {
            let leases = self.leases.clone();
            blocking(move || {
                leases.clear();
                // ENOTEMPTY, ENOENT: nothing of ours is in it.
                std::fs::remove_dir(&pins).ok();
                Ok(())
            })
            .await?;
        }
        all_or(failures)
    }

    async fn remove_table(&self) -> Result<(), NetworkError> {
        let mut in_kernel = self.rules.lock().await;
        *in_kernel = None;
        match nft::program() {
            Ok(_) => nft::commit(&self.config.table, &nft::remove(&self.config.table)).await,
            // No program, no table: attach_bridge refuses without it.
            Err(_) => Ok(()),
        }
    }

    async fn remove_links(&self) -> Result<(), NetworkError> {
        let links = Links::here()?;
        for name in links.names().await? {
            if veth::is_name(&name, &self.config.prefix)
                && links.find(&name).await?.is_some_and(|l| l.is_veth)
            {
                links.delete(&name).await?;
            }
        }
        bridge::remove(&links, &self.config.prefix).await
    }

    pub(crate) fn describe(&self, lease: &Lease) -> Attachment {
        let seat = lease.seat();
        Attachment {
            netns: self.pin(&lease.id),
            address: seat.map(|s| s.address),
            gateway: seat.map(|s| s.gateway()),
            bindings: seat.map(|s| s.bindings.clone()).unwrap_or_default(),
        }
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // A panic in a decision leaves at worst a reservation too many; the leases on disk are the truth.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pin(&self, id: &str) -> PathBuf {
        pin_of(&self.config.run_root, id)
    }

    async fn take_turn(&self, id: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(id.to_owned()).or_default().clone()
        };
        turn.lock_owned().await
    }
}

/// Runs what waits for the disk beside the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    joined(tokio::task::spawn_blocking(act).await)
}

/// The result of a task; that it panicked or was cut off is an error of its own.
pub(crate) fn joined<T>(
    result: Result<Result<T, NetworkError>, tokio::task::JoinError>,
) -> Result<T, NetworkError> {
    result.unwrap_or_else(|e| {
        Err(NetworkError {
            step: "run task",
            subject: "network".into(),
            cause: e.to_string(),
        })
    })
}

fn all_or(failures: Vec<NetworkError>) -> Result<(), NetworkError> {
    let mut all = failures.into_iter();
    let Some(mut first) = all.next() else {
        return Ok(());
    };
    for next in all {
        first.cause = format!("{}; {next}", first.cause);
    }
    Err(first)
}
