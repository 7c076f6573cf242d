//! The ledger: who holds which address, veth name and port, in memory.
//!
//! Decisions are taken here, in one short synchronous step each, so that two attachments at once never
//! get the same thing; nothing here waits for a disk or the kernel's links. A reservation counts from the
//! moment of the decision, but no packet rule is made from it until its lease is on disk.
//!
//! ```text
//! (none) ──reserve──▶ Reserved ──recorded──▶ Recorded ──leave──▶ Leaving ──forget──▶ (none)
//!    ▲                   │ the lease could not be written            │ attached again
//!    └──────forget───────┘                    ▲──────────────────────┘ (its release had failed)
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use crate::lease::{Lease, Mode, Seat};
use crate::ports::{self, Dynamic, Market, Refusal};
use crate::{Config, MAX_PORTS, NetworkError, PortBinding, PortRequest, Protocol, address, veth};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Decided; the lease is not known to be on disk.
    Reserved,
    /// The lease is on disk; rules may be made from it.
    Recorded,
    /// Being undone; everything is still held.
    Leaving,
}

#[derive(Debug)]
struct Entry {
    lease: Lease,
    phase: Phase,
    /// Sockets that keep the ports from the processes of the host.
    _holds: Vec<OwnedFd>,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: BTreeMap<String, Entry>,
    last_address: Option<Ipv4Addr>,
    last_port: Option<u16>,
    /// Counts the changes of [`Ledger::published`].
    generation: u64,
}

impl Ledger {
    /// Takes over a lease of an earlier run that [contradicts](Ledger::contradicted) none.
    pub(crate) fn adopt(&mut self, lease: Lease, holds: Vec<OwnedFd>) {
        self.insert(lease, Phase::Recorded, holds);
    }

    /// The container that holds something of what `lease` claims.
    pub(crate) fn contradicted(&self, lease: &Lease) -> Option<&str> {
        let seat = lease.seat()?;
        let same = |other: &Seat| {
            let port = |b: &PortBinding| (b.protocol, b.host_port);
            other.address == seat.address
                || other.veth == seat.veth
                || other
                    .bindings
                    .iter()
                    .any(|o| seat.bindings.iter().any(|b| port(b) == port(o)))
        };
        let mut others = self.entries.values().map(|e| &e.lease);
        others
            .find(|l| l.seat().is_some_and(same))
            .map(|l| l.id.as_str())
    }

    /// The lease of `id` in mode none: the one that it has, or a new one.
    pub(crate) fn reserve_none(&mut self, id: &str) -> Result<(Lease, Phase), Refusal> {
        match self.known(id) {
            Some((lease, phase)) if lease.mode == Mode::None => Ok((lease, phase)),
            Some(_) => Err(contradiction(id, "it is on the bridge").into()),
            None => Ok(self.reserve(id, Mode::None, Vec::new())),
        }
    }

    /// The lease of `id` on the bridge: the one that it has if it was for the same ports, or a new one.
    pub(crate) fn reserve_bridge(
        &mut self,
        id: &str,
        requests: &[PortRequest],
        config: &Config,
    ) -> Result<(Lease, Phase), Refusal> {
        match self.known(id) {
            None => {}
            Some((lease, phase)) => match lease.seat() {
                Some(seat) if answers(&seat.bindings, requests) => return Ok((lease, phase)),
                Some(_) => return Err(contradiction(id, "it is attached with other ports").into()),
                None => return Err(contradiction(id, "it is attached without a network").into()),
            },
        }
        check(id, requests)?;
        let address = self.choose_address(id, config)?;
        let (bindings, holds) = self.assign_ports(requests, config)?;
        // Only now is everything decided; a refusal above has moved nothing.
        self.last_address = Some(address);
        let taken = self.seats().map(|s| s.veth.as_str()).collect();
        let seat = Seat {
            address,
            prefix_len: config.subnet.prefix_len(),
            veth: veth::choose_name(&config.prefix, id, &taken),
            bindings,
        };
        Ok(self.reserve(id, Mode::Bridge(seat), holds))
    }

    fn choose_address(&self, id: &str, config: &Config) -> Result<Ipv4Addr, NetworkError> {
        let taken: BTreeSet<_> = self.seats().map(|s| s.address).collect();
        let chosen = address::choose(config.subnet, &taken, self.last_address);
        chosen.ok_or_else(|| NetworkError {
            step: "choose address",
            subject: id.to_owned(),
            cause: format!(
                "all {} addresses of {} are taken; stop containers or choose a larger subnet",
                taken.len(),
                config.subnet
            ),
        })
    }

    fn assign_ports(
        &mut self,
        requests: &[PortRequest],
        config: &Config,
    ) -> Result<(Vec<PortBinding>, Vec<OwnedFd>), Refusal> {
        let holders = self.port_holders();
        let market = Market {
            dynamic: &Dynamic::of_this_host(),
            reserved: &config.reserved_ports,
            holder: &|protocol, port| holders.get(&(protocol, port)).cloned(),
        };
        let mut last = self.last_port;
        let assigned = ports::assign(requests, &market, &mut last, &mut ports::hold);
        self.last_port = last;
        assigned
    }

    fn port_holders(&self) -> BTreeMap<(Protocol, u16), String> {
        let bound = self.entries.values().flat_map(|e| {
            let bindings = e.lease.seat().into_iter().flat_map(|s| &s.bindings);
            bindings.map(|b| ((b.protocol, b.host_port), e.lease.id.clone()))
        });
        bound.collect()
    }

    fn reserve(&mut self, id: &str, mode: Mode, holds: Vec<OwnedFd>) -> (Lease, Phase) {
        let lease = Lease {
            id: id.to_owned(),
            mode,
        };
        self.insert(lease.clone(), Phase::Reserved, holds);
        (lease, Phase::Reserved)
    }

    fn insert(&mut self, lease: Lease, phase: Phase, holds: Vec<OwnedFd>) {
        let entry = Entry {
            lease,
            phase,
            _holds: holds,
        };
        self.entries.insert(entry.lease.id.clone(), entry);
    }

    fn known(&self, id: &str) -> Option<(Lease, Phase)> {
        self.entries.get(id).map(|e| (e.lease.clone(), e.phase))
    }

    fn seats(&self) -> impl Iterator<Item = &Seat> {
        self.entries.values().filter_map(|e| e.lease.seat())
    }

    /// The lease is on disk.
    pub(crate) fn recorded(&mut self, id: &str) {
        self.turn_to(id, Phase::Recorded);
    }

    /// Begins to undo; none if there is no lease.
    pub(crate) fn leave(&mut self, id: &str) -> Option<Lease> {
        self.turn_to(id, Phase::Leaving);
        Some(self.known(id)?.0)
    }

    fn turn_to(&mut self, id: &str, phase: Phase) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        if entry.phase != phase {
            entry.phase = phase;
            let has_ports = entry.lease.seat().is_some_and(|s| !s.bindings.is_empty());
            self.generation += u64::from(has_ports);
        }
    }

    /// Everything is undone, or nothing was done.
    pub(crate) fn forget(&mut self, id: &str) {
        self.entries.remove(id);
    }

    /// The lease of a container that is attached.
    pub(crate) fn attached(&self, id: &str) -> Option<&Lease> {
        let entry = self.entries.get(id)?;
        (entry.phase == Phase::Recorded).then_some(&entry.lease)
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    /// The ports that the rules are to publish, and the generation that they stand for.
    pub(crate) fn published(&self) -> (u64, Vec<(PortBinding, Ipv4Addr)>) {
        let live = self.entries.values().filter(|e| e.phase == Phase::Recorded);
        let ports = live.filter_map(|e| e.lease.seat()).flat_map(|s| {
            let of = |b: &PortBinding| (*b, s.address);
            s.bindings.iter().map(of)
        });
        (self.generation, ports.collect())
    }
}

/// True if `bindings` is what `requests` would get.
fn answers(bindings: &[PortBinding], requests: &[PortRequest]) -> bool {
    bindings.len() == requests.len()
        && bindings.iter().zip(requests).all(|(b, r)| {
            b.container_port == r.container_port
                && b.protocol == r.protocol
                && ports::wanted(r).is_none_or(|p| p == b.host_port)
        })
}

fn check(id: &str, requests: &[PortRequest]) -> Result<(), NetworkError> {
    let numbered = requests
        .iter()
        .filter_map(|r| Some((r.protocol, ports::wanted(r)?)));
    let mut seen = BTreeSet::new();
    let cause = if requests.len() > MAX_PORTS {
        format!("{} ports are more than {MAX_PORTS}", requests.len())
    } else if requests.iter().any(|r| r.container_port == 0) {
        "container port 0 is none".into()
    } else if let Some((protocol, port)) = numbered.into_iter().find(|n| !seen.insert(*n)) {
        format!("host port {port}/{protocol} is asked for twice")
    } else {
        return Ok(());
    };
    Err(NetworkError {
        step: "publish ports of",
        subject: id.to_owned(),
        cause,
    })
}

fn contradiction(id: &str, what: &str) -> NetworkError {
    NetworkError {
        step: "attach",
        subject: id.to_owned(),
        cause: format!("{what} already; release it first"),
    }
}
