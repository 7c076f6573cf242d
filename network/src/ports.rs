//! Host ports: which ones a container gets, and keeping everybody else off them.
//!
//! A port is refused by name when another container holds it, when it is reserved, or when bind(2) on
//! `0.0.0.0` says that a process of the host (or one of its connections) has it. The socket of that very
//! bind is then kept, without `SO_REUSEADDR` and without listen(2): so there is no moment between the
//! check and the use, and a daemon that starts later is told `EADDRINUSE` instead of being silently
//! hidden behind the translation. The socket never carries a byte: packets are translated before they
//! could reach it. What is not covered: the moments while no agent runs (the sockets die with it and are
//! bound again at `open`), and a host process that binds the port for IPv6 only, which does not collide.
//!
//! Dynamic ports come from the kernel's own range for them, as in ECS; those that the administrator took
//! out of it (`ip_local_reserved_ports`) are not given.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

use crate::{NetworkError, PortBinding, PortRequest, Protocol};

/// What ECS falls back to when the kernel's range cannot be read.
const FALLBACK: RangeInclusive<u16> = 49153..=65535;

/// How often, and how far apart, a bound port is tried again: 0.2 s in all.
const ATTEMPTS: usize = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// Where dynamic ports come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dynamic {
    range: RangeInclusive<u16>,
    except: Vec<RangeInclusive<u16>>,
}

impl Dynamic {
    /// Reads /proc/sys/net/ipv4, which shows the network namespace of the calling thread.
    pub(crate) fn of_this_host() -> Dynamic {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok();
        Dynamic::parse(
            read("ip_local_port_range").as_deref(),
            read("ip_local_reserved_ports").as_deref(),
        )
    }

    fn parse(range: Option<&str>, reserved: Option<&str>) -> Dynamic {
        Dynamic {
            range: range.and_then(parse_range).unwrap_or(FALLBACK),
            except: reserved.map(parse_list).unwrap_or_default(),
        }
    }

    /// Every candidate once, beginning after `last`.
    fn candidates(&self, last: Option<u16>) -> impl Iterator<Item = u16> + '_ {
        let (first, end) = (*self.range.start(), *self.range.end());
        let start = match last {
            Some(l) if l >= first && l < end => l + 1,
            _ => first,
        };
        (start..=end)
            .chain(first..start)
            .filter(|p| !self.except.iter().any(|e| e.contains(p)))
    }
}

/// `32768 60999`, as the kernel prints it.
fn parse_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut words = text.split_whitespace();
    let (low, high) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    (low > 0 && low <= high && words.next().is_none()).then_some(low..=high)
}

/// `8080,9148-9150`, as the kernel prints it; what cannot be read is left out.
fn parse_list(text: &str) -> Vec<RangeInclusive<u16>> {
    let parse = |word: &str| {
        let (low, high) = word.split_once('-').unwrap_or((word, word));
        Some(low.parse().ok()?..=high.parse().ok()?)
    };
    text.trim().split(',').filter_map(parse).collect()
}

/// Keeps one host port from everybody else.
pub(crate) fn hold(protocol: Protocol, port: u16) -> io::Result<OwnedFd> {
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let socket = socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))?;
    Ok(socket)
}

/// Why there is no port.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// bind(2) says that somebody has it. That may be a child of this process that inherited the socket of
    /// a port just let go, and has not come to execve(2) yet: worth another try.
    Bound(NetworkError),
    /// Trying again does not help.
    Final(NetworkError),
}

impl From<NetworkError> for Refusal {
    fn from(error: NetworkError) -> Refusal {
        Refusal::Final(error)
    }
}

impl From<Refusal> for NetworkError {
    fn from(refusal: Refusal) -> NetworkError {
        match refusal {
            Refusal::Bound(error) | Refusal::Final(error) => error,
        }
    }
}

/// Tries until the answer is not [`Refusal::Bound`], or that has been the answer for too long.
pub(crate) async fn patiently<T>(
    mut attempt: impl FnMut() -> Result<T, Refusal>,
) -> Result<T, NetworkError> {
    for _ in 0..ATTEMPTS {
        match attempt() {
            Err(Refusal::Bound(_)) => tokio::time::sleep(PAUSE).await,
            other => return other.map_err(NetworkError::from),
        }
    }
    attempt().map_err(NetworkError::from)
}

/// Binds the ports of an earlier run again. A port that cannot be had is a warning: its container lives.
pub(crate) async fn hold_again(bindings: &[PortBinding]) -> Vec<OwnedFd> {
    let mut held = Vec::new();
    for b in bindings {
        let request = PortRequest {
            container_port: b.container_port,
            host_port: Some(b.host_port),
            protocol: b.protocol,
        };
        let again = || {
            hold(b.protocol, b.host_port)
                .map_err(|e| Refusal::Bound(refusal(&request, b.host_port, e.to_string())))
        };
        match patiently(again).await {
            Ok(socket) => held.push(socket),
            Err(e) => {
                tracing::warn!(error = %e, "a process of the host took a published port while \
                no agent ran; its clients reach the container instead")
            }
        }
    }
    held
}

/// What stands between a request and its port.
pub(crate) struct Market<'a> {
    pub(crate) dynamic: &'a Dynamic,
    pub(crate) reserved: &'a BTreeSet<u16>,
    /// Who holds the port already, if anybody.
    pub(crate) holder: &'a dyn Fn(Protocol, u16) -> Option<String>,
}

/// Gives every request its host port, in the order of the requests, and what holds it (`take`, which is
/// [`hold`] outside of tests). `last` is where the search for dynamic ports goes on. All or none.
pub(crate) fn assign<H>(
    requests: &[PortRequest],
    market: &Market<'_>,
    last: &mut Option<u16>,
    take: &mut dyn FnMut(Protocol, u16) -> io::Result<H>,
) -> Result<(Vec<PortBinding>, Vec<H>), Refusal> {
    let mut chosen: Vec<Option<(u16, H)>> = requests.iter().map(|_| None).collect();
    // Static ones first: a dynamic port must not take what the same container asks for by number.
    for (request, slot) in requests.iter().zip(&mut chosen) {
        if let Some(port) = wanted(request) {
            *slot = Some((port, take_static(request, port, market, take)?));
        }
    }
    for (request, slot) in requests.iter().zip(&mut chosen) {
        if slot.is_none() {
            *slot = Some(take_dynamic(request, market, last, take)?);
        }
    }
    let bind = |(request, (host_port, held)): (&PortRequest, (u16, H))| {
        let binding = PortBinding {
            container_port: request.container_port,
            host_port,
            protocol: request.protocol,
        };
        (binding, held)
    };
    Ok(requests
        .iter()
        .zip(chosen.into_iter().flatten())
        .map(bind)
        .unzip())
}

/// The host port that is asked for by number; ECS writes a dynamic one as absent or 0.
pub(crate) fn wanted(request: &PortRequest) -> Option<u16> {
    request.host_port.filter(|p| *p != 0)
}

fn take_static<H>(
    request: &PortRequest,
    port: u16,
    market: &Market<'_>,
    take: &mut dyn FnMut(Protocol, u16) -> io::Result<H>,
) -> Result<H, Refusal> {
    let refuse = |cause: String| Err(Refusal::Final(refusal(request, port, cause)));
    if market.reserved.contains(&port) {
        return refuse("it is reserved for the host; choose another or none".into());
    }
    if let Some(id) = (market.holder)(request.protocol, port) {
        return refuse(format!("container {id} has it; choose another or none"));
    }
    match take(request.protocol, port) {
        Ok(held) => Ok(held),
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            let cause = "a process or connection of the host has it; choose another or none";
            Err(Refusal::Bound(refusal(request, port, cause.into())))
        }
        Err(e) => refuse(format!("bind 0.0.0.0: {e}")),
    }
}

fn take_dynamic<H>(
    request: &PortRequest,
    market: &Market<'_>,
    last: &mut Option<u16>,
    take: &mut dyn FnMut(Protocol, u16) -> io::Result<H>,
) -> Result<(u16, H), Refusal> {
    let free =
        |p: &u16| !market.reserved.contains(p) && (market.holder)(request.protocol, *p).is_none();
    for port in market.dynamic.candidates(*last).filter(free) {
        match take(request.protocol, port) {
            Ok(held) => {
                *last = Some(port);
                return Ok((port, held));
            }
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            Err(e) => return Err(refusal(request, port, format!("bind 0.0.0.0: {e}")).into()),
        }
    }
    let range = &market.dynamic.range;
    let cause = format!(
        "no dynamic port is free in {}-{}; stop containers or widen net.ipv4.ip_local_port_range",
        range.start(),
        range.end()
    );
    Err(refusal(request, 0, cause).into())
}

fn refusal(request: &PortRequest, host_port: u16, cause: String) -> NetworkError {
    let host = match host_port {
        0 => "a dynamic port".to_owned(),
        port => format!("host port {port}"),
    };
    NetworkError {
        step: "publish port",
        subject: format!("{}/{} on {host}", request.container_port, request.protocol),
        cause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(container_port: u16, host_port: Option<u16>) -> PortRequest {
        PortRequest {
            container_port,
            host_port,
            protocol: Protocol::Tcp,
        }
    }

    /// A host of ten dynamic ports where 103 is a process's, 104 another container's, 105 reserved,
    /// 106 taken out by the administrator.
    fn run(requests: &[PortRequest], last: &mut Option<u16>) -> Result<Vec<u16>, String> {
        let dynamic = Dynamic::parse(Some("100\t109\n"), Some("106,9000-9001\n"));
        let reserved = BTreeSet::from([105]);
        let market = Market {
            dynamic: &dynamic,
            reserved: &reserved,
            holder: &|_, p| (p == 104).then(|| "beef".into()),
        };
        let mut bound = BTreeSet::from([103]);
        let mut take = |_: Protocol, p: u16| match bound.insert(p) {
            true => Ok(()),
            false => Err(io::ErrorKind::AddrInUse.into()),
        };
        assign(requests, &market, last, &mut take)
            .map(|(bindings, _)| bindings.iter().map(|b| b.host_port).collect())
            .map_err(|e| NetworkError::from(e).to_string())
    }

    #[test]
    fn dynamic_ports_skip_what_others_have() {
        let mut last = None;
        let seven = [ask(80, None); 6];
        assert_eq!(
            run(&seven, &mut last),
            Ok(vec![100, 101, 102, 107, 108, 109])
        );
        assert_eq!(last, Some(109));
        assert_eq!(run(&[ask(80, Some(0))], &mut last), Ok(vec![100]));
        let err = run(&[ask(80, None); 7], &mut last).unwrap_err();
        assert!(err.contains("no dynamic port is free in 100-109"), "{err}");
    }

    #[test]
    fn a_static_port_of_the_same_container_is_not_given_dynamically() {
        let both = [ask(80, None), ask(81, Some(100))];
        assert_eq!(run(&both, &mut None), Ok(vec![101, 100]));
    }

    #[test]
    fn static_refusals_say_who_has_it() {
        let refused = |port| run(&[ask(80, Some(port))], &mut None).unwrap_err();
        expect_test::expect!["publish port 80/tcp on host port 103: a process or connection of the host has it; choose another or none"].assert_eq(&refused(103));
        expect_test::expect![
            "publish port 80/tcp on host port 104: container beef has it; choose another or none"
        ]
        .assert_eq(&refused(104));
        expect_test::expect!["publish port 80/tcp on host port 105: it is reserved for the host; choose another or none"].assert_eq(&refused(105));
    }

    #[test]
    fn an_unreadable_range_falls_back_to_that_of_ecs() {
        for text in [
            None,
            Some(""),
            Some("5"),
            Some("9 3"),
            Some("0 5"),
            Some("1 2 3"),
            Some("a b"),
        ] {
            assert_eq!(Dynamic::parse(text, None).range, FALLBACK, "{text:?}");
        }
        let parsed = Dynamic::parse(Some("32768\t60999\n"), Some("\n"));
        assert_eq!((parsed.range, parsed.except), (32768..=60999, vec![]));
    }

    #[test]
    fn a_held_port_is_refused_to_others_until_it_is_let_go() {
        let held = hold(Protocol::Udp, 0).unwrap();
        let own = rustix::net::getsockname(&held).unwrap();
        let port = SocketAddrV4::try_from(own).unwrap().port();
        let again = || hold(Protocol::Udp, port).map_err(|e| e.kind());
        assert_eq!(again().unwrap_err(), io::ErrorKind::AddrInUse);
        drop(held);
        // A child of another test may hold a copy for a moment; see `Refusal::Bound`.
        let mut attempts = 0..1_000_000;
        assert!(attempts.any(|_| again().is_ok()));
    }
}
