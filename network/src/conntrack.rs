//! Connection tracking entries that would outlive the port they were made for.
//!
//! The kernel translates a flow as its first packet was translated, until the flow has been silent for its
//! timeout. A UDP client that keeps sending to a published port would thus talk to the address of the
//! container before for ever, or, if it sent while nobody had the port, to the host. TCP needs no such
//! care: a new connection is a new flow. So whenever a UDP port changes hands the entries of its flows are
//! deleted, by ctnetlink (linux/netfilter/nfnetlink_conntrack.h); conntrack(8) does the same.
//!
//! An entry that could not be deleted is a warning, never a reason to fail.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{netlink, recv, send, socket_with};

use crate::attach::blocking;
use crate::lease::Seat;
use crate::link::{Links, failed};
use crate::{NetworkError, Protocol};

// linux/netlink.h, linux/netfilter/nfnetlink.h
const HEADER: usize = 16;
const GENERIC: usize = 4;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const SUBSYSTEM: u16 = 1 << 8;
const CT_GET: u16 = SUBSYSTEM | 1;
const CT_DELETE: u16 = SUBSYSTEM | 2;
/// The flags of an attribute's type: nested, network byte order.
const TYPE_MASK: u16 = 0x3fff;
// linux/netfilter/nfnetlink_conntrack.h
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;

const AF_INET: u8 = 2;
const UDP: u8 = 17;
/// The kernel's dumps come in messages of at most 32 KiB.
const BUFFER: usize = 64 * 1024;
const PATIENCE: Duration = Duration::from_secs(5);

/// Flows to these host ports that do not lead to `owner` are stale.
struct Stale {
    ports: Vec<u16>,
    owner: Option<Ipv4Addr>,
    /// Addresses of the host: a flow of somebody else's to the same port number elsewhere is not meant.
    local: Vec<Ipv4Addr>,
}

impl Stale {
    fn covers(&self, flow: &Flow<'_>) -> bool {
        flow.protocol == UDP
            && self.ports.contains(&flow.port)
            && (flow.to.is_loopback() || self.local.contains(&flow.to))
            && self.owner != Some(flow.answered_by)
    }
}

/// Lets new packets of old flows find the container that has the UDP ports now.
pub(crate) async fn claim(seat: &Seat) {
    forget(seat, Some(seat.address)).await;
}

/// Forgets every flow to the UDP ports of a container that goes.
pub(crate) async fn disclaim(seat: &Seat) {
    forget(seat, None).await;
}

async fn forget(seat: &Seat, owner: Option<Ipv4Addr>) {
    let udp = seat.bindings.iter().filter(|b| b.protocol == Protocol::Udp);
    let ports: Vec<_> = udp.map(|b| b.host_port).collect();
    if ports.is_empty() {
        return;
    }
    if let Err(e) = try_forget(ports, owner).await {
        tracing::warn!(error = %e, "UDP clients of an earlier container may wait for their flows to end");
    }
}

async fn try_forget(ports: Vec<u16>, owner: Option<Ipv4Addr>) -> Result<(), NetworkError> {
    let local = Links::here()?.own_addresses().await?;
    let stale = Stale {
        ports,
        owner,
        local,
    };
    let work = move || delete(&stale).map_err(|e| failed("forget flows of", "UDP ports", e));
    blocking(work).await
}

fn delete(stale: &Stale) -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::NETFILTER),
    )?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    // The whole list first: a deletion's answer must not fall between the parts of the list.
    for key in list(&socket, stale)? {
        exchange(&socket, CT_DELETE, NLM_F_ACK, &key, |_| ()).or_else(|e| {
            match e.raw_os_error() {
                // It timed out meanwhile.
                Some(nix::libc::ENOENT) => Ok(()),
                _ => Err(e),
            }
        })?;
    }
    Ok(())
}

/// The keys of the stale flows.
fn list(socket: &OwnedFd, stale: &Stale) -> io::Result<Vec<Vec<u8>>> {
    let mut keys = Vec::new();
    exchange(socket, CT_GET, NLM_F_DUMP, &[], |entry| {
        keys.extend(parse(entry).filter(|f| stale.covers(f)).map(|f| f.key()));
    })?;
    Ok(keys)
}

/// Sends one request and reads up to its end; `each` sees the attributes of every entry.
fn exchange(
    socket: &OwnedFd,
    kind: u16,
    flags: u16,
    attributes: &[u8],
    mut each: impl FnMut(&[u8]),
) -> io::Result<()> {
    send(
        socket,
        &request(kind, flags, attributes),
        SendFlags::empty(),
    )?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let (_, len) = recv(socket, &mut buffer[..], RecvFlags::TRUNC)?;
        let mut rest = buffer
            .get(..len)
            .ok_or_else(|| io::Error::other("an answer is longer than the kernel's limit"))?;
        while let Some((kind, body, next)) = message(rest) {
            rest = next;
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => return verdict(body),
                _ => each(body.get(GENERIC..).unwrap_or_default()),
            }
        }
    }
}

fn request(kind: u16, flags: u16, attributes: &[u8]) -> Vec<u8> {
    let len = (HEADER + GENERIC + attributes.len()) as u32;
    let mut text = Vec::with_capacity(len as usize);
    text.extend(len.to_ne_bytes());
    text.extend(kind.to_ne_bytes());
    text.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    // Sequence number and port: one request at a time on a socket of its own.
    text.extend([0; 8]);
    text.extend([AF_INET, 0, 0, 0]);
    text.extend(attributes);
    text
}

/// `NLMSG_ERROR` with 0 is an acknowledgement.
fn verdict(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|b| i32::from_ne_bytes(*b)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::Error::other("a netlink error without a number")),
    }
}

/// The first message's type and body, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER..len)?;
    Some((
        kind,
        body,
        bytes.get(len.next_multiple_of(4)..).unwrap_or_default(),
    ))
}

/// What is needed of an entry.
struct Flow<'a> {
    protocol: u8,
    to: Ipv4Addr,
    port: u16,
    answered_by: Ipv4Addr,
    /// The attributes that name the entry to the kernel, whole.
    names: Vec<&'a [u8]>,
}

impl Flow<'_> {
    fn key(&self) -> Vec<u8> {
        self.names.concat()
    }
}

fn parse(entry: &[u8]) -> Option<Flow<'_>> {
    let original = find(entry, CTA_TUPLE_ORIG)?;
    let (ip, transport) = (
        find(original, CTA_TUPLE_IP)?,
        find(original, CTA_TUPLE_PROTO)?,
    );
    let answer = find(find(entry, CTA_TUPLE_REPLY)?, CTA_TUPLE_IP)?;
    let address = |ip, side| Some(Ipv4Addr::from(*find(ip, side)?.first_chunk::<4>()?));
    let is_name = |kind| matches!(kind, CTA_TUPLE_ORIG | CTA_ID | CTA_ZONE);
    Some(Flow {
        protocol: *find(transport, CTA_PROTO_NUM)?.first()?,
        to: address(ip, CTA_IP_V4_DST)?,
        port: u16::from_be_bytes(*find(transport, CTA_PROTO_DST_PORT)?.first_chunk()?),
        answered_by: address(answer, CTA_IP_V4_SRC)?,
        names: attributes(entry)
            .filter(|a| is_name(a.kind))
            .map(|a| a.whole)
            .collect(),
    })
}

struct Attribute<'a> {
    kind: u16,
    value: &'a [u8],
    /// With header and padding.
    whole: &'a [u8],
}

fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|a| a.kind == kind).map(|a| a.value)
}

/// The attributes up to the end or the first one that does not fit.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    std::iter::from_fn(move || {
        let len = u16::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & TYPE_MASK;
        let value = bytes.get(4..len)?;
        let whole = bytes.get(..len.next_multiple_of(4))?;
        bytes = &bytes[whole.len()..];
        Some(Attribute { kind, value, whole })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((value.len() + 4) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn tuple(kind: u16, source: [u8; 4], to: [u8; 4], protocol: u8, port: u16) -> Vec<u8> {
        let nested = 0x8000;
        let ip = [
            attribute(CTA_IP_V4_SRC, &source),
            attribute(CTA_IP_V4_DST, &to),
        ]
        .concat();
        let transport = [
            attribute(CTA_PROTO_NUM, &[protocol]),
            attribute(CTA_PROTO_DST_PORT, &port.to_be_bytes()),
        ];
        let both = [
            attribute(nested | CTA_TUPLE_IP, &ip),
            attribute(nested | CTA_TUPLE_PROTO, &transport.concat()),
        ];
        attribute(nested | kind, &both.concat())
    }

    const CLIENT: [u8; 4] = [192, 0, 2, 9];
    const HOST: [u8; 4] = [192, 0, 2, 1];
    const FAR: [u8; 4] = [8, 8, 8, 8];
    const OLD: [u8; 4] = [10, 88, 0, 2];
    const NEW: [u8; 4] = [10, 88, 0, 3];

    fn entry(to: [u8; 4], protocol: u8, port: u16, answered_by: [u8; 4]) -> Vec<u8> {
        [
            tuple(CTA_TUPLE_ORIG, CLIENT, to, protocol, port),
            tuple(CTA_TUPLE_REPLY, answered_by, CLIENT, protocol, 40000),
            attribute(CTA_ID, &[1, 2, 3, 4]),
            attribute(7, &[0; 4]),
        ]
        .concat()
    }

    #[test]
    fn only_udp_flows_to_the_hosts_own_port_that_lead_elsewhere_are_stale() {
        let stale = Stale {
            ports: vec![53],
            owner: Some(NEW.into()),
            local: vec![HOST.into()],
        };
        let covered = |e: Vec<u8>| stale.covers(&parse(&e).unwrap());
        assert!(covered(entry(HOST, UDP, 53, OLD)), "the container before");
        assert!(
            covered(entry(HOST, UDP, 53, HOST)),
            "the host while nobody had the port"
        );
        assert!(covered(entry([127, 0, 0, 1], UDP, 53, OLD)));
        assert!(!covered(entry(HOST, UDP, 53, NEW)), "its own");
        assert!(
            !covered(entry(FAR, UDP, 53, FAR)),
            "somebody asks a server far away"
        );
        assert!(!covered(entry(HOST, UDP, 54, OLD)));
        assert!(!covered(entry(HOST, 6, 53, OLD)));
    }

    #[test]
    fn the_key_names_the_flow_and_nothing_else() {
        let bytes = entry(HOST, UDP, 53, OLD);
        let name = [
            tuple(CTA_TUPLE_ORIG, CLIENT, HOST, UDP, 53),
            attribute(CTA_ID, &[1, 2, 3, 4]),
        ];
        assert_eq!(parse(&bytes).unwrap().key(), name.concat());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parsers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let mut rest = &bytes[..];
            while let Some((_, body, next)) = message(rest) {
                parse(body);
                rest = next;
            }
            parse(&bytes);
        }

        #[test]
        fn a_damaged_entry_makes_no_parser_panic(at in 0usize..100, by in any::<u8>()) {
            let mut bytes = entry(HOST, UDP, 53, OLD);
            let at = at % bytes.len();
            bytes[at] ^= by;
            parse(&bytes);
        }
    }
}
