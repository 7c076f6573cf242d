//! rtnetlink(7), the few requests that moving a device takes: one request at a time, its answer awaited.
//!
//! A socket speaks to the network namespace in which it was made, wherever its process goes later. Deliberately
//! absent: routes, link types, notifications, everything asynchronous.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socket_with};
use serde::{Deserialize, Serialize};

// linux/rtnetlink.h, linux/netlink.h, linux/if_link.h, linux/if_addr.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CREATE_EXCL: u16 = 0x400 | 0x200;
const NLM_F_DUMP: u16 = 0x300;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_CACHEINFO: u16 = 6;
const IFA_LABEL: u16 = 3;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
/// What may be asked for again: NODAD, HOMEADDRESS, MANAGETEMPADDR, NOPREFIXROUTE, MCAUTOJOIN.
const IFA_F_WISHES: u32 = 0x02 | 0x10 | 0x100 | 0x200 | 0x400;
const IFF_UP: u32 = 1;
const HEADER: usize = 16;
const IFINFO: usize = 16;
const IFADDR: usize = 8;
/// More than the kernel puts into one datagram of a dump.
const DATAGRAM: usize = 64 << 10;

/// A socket to one network namespace.
#[derive(Debug)]
pub(super) struct Netlink(OwnedFd);

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) up: bool,
}

/// An address of a device, as it can be given again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Address {
    family: u8,
    prefix: u8,
    flags: u32,
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Netlink {
    /// To the namespace that this process is in now.
    pub(super) fn open() -> Result<Netlink, Errno> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None, // NETLINK_ROUTE is 0.
        )?;
        Ok(Netlink(socket))
    }

    /// The device of that name; ENODEV if there is none.
    pub(super) fn link(&self, name: &str) -> Result<Link, Errno> {
        let mut request = Request::new(RTM_GETLINK, 0, &[0; IFINFO]);
        request.attribute(IFLA_IFNAME, &terminated(name));
        let answer = self.ask(request, |kind| kind == RTM_NEWLINK)?;
        answer
            .iter()
            .find_map(|body| link(body))
            .ok_or(Errno::NODEV)
    }

    /// Every device.
    pub(super) fn links(&self) -> Result<Vec<Link>, Errno> {
        let request = Request::new(RTM_GETLINK, NLM_F_DUMP, &[0; IFINFO]);
        let answer = self.ask(request, |kind| kind == RTM_NEWLINK)?;
        Ok(answer.iter().filter_map(|body| link(body)).collect())
    }

    /// The permanent addresses of global scope that a device has.
    pub(super) fn addresses(&self, index: u32) -> Result<Vec<Address>, Errno> {
        let request = Request::new(RTM_GETADDR, NLM_F_DUMP, &[0; IFADDR]);
        let answer = self.ask(request, |kind| kind == RTM_NEWADDR)?;
        Ok(answer
            .iter()
            .filter_map(|body| address(body, index))
            .collect())
    }

    /// Moves a device into another namespace, under a name.
    pub(super) fn give_away(
        &self,
        index: u32,
        to: BorrowedFd<'_>,
        name: &str,
    ) -> Result<(), Errno> {
        let mut request = Request::new(RTM_SETLINK, NLM_F_ACK, &ifinfo(index, 0, 0));
        let descriptor = to.as_raw_fd().cast_unsigned();
        request.attribute(IFLA_NET_NS_FD, &descriptor.to_ne_bytes());
        request.attribute(IFLA_IFNAME, &terminated(name));
        self.ask(request, |_| false).map(drop)
    }

    pub(super) fn set_up(&self, index: u32) -> Result<(), Errno> {
        let request = Request::new(RTM_SETLINK, NLM_F_ACK, &ifinfo(index, IFF_UP, IFF_UP));
        self.ask(request, |_| false).map(drop)
    }

    /// Gives a device an address; that it has it already is fine.
    pub(super) fn add_address(&self, index: u32, address: &Address) -> Result<(), Errno> {
        let mut body = vec![address.family, address.prefix, 0, 0];
        body.extend(index.to_ne_bytes());
        let mut request = Request::new(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE_EXCL, &body);
        for (kind, value) in &address.attributes {
            request.attribute(*kind, value);
        }
        request.attribute(IFA_FLAGS, &address.flags.to_ne_bytes());
        match self.ask(request, |_| false) {
            Err(Errno::EXIST) => Ok(()),
            other => other.map(drop),
        }
    }

    /// The bodies of the answer's messages of a kind. An answer ends with an acknowledgement, an error, the end of
    /// a dump, or, to a request without either flag, with its only message.
    fn ask(&self, request: Request, wanted: fn(u16) -> bool) -> Result<Vec<Vec<u8>>, Errno> {
        let many = request.flags & NLM_F_DUMP != 0;
        let acknowledged = request.flags & NLM_F_ACK != 0;
        let text = request.text();
        rustix::io::retry_on_intr(|| rustix::net::send(&self.0, &text, SendFlags::empty()))?;
        let mut bodies = Vec::new();
        let mut datagram = vec![0; DATAGRAM];
        loop {
            let (_, length) = rustix::io::retry_on_intr(|| {
                rustix::net::recv(&self.0, &mut datagram[..], RecvFlags::empty())
            })?;
            let messages = messages(datagram.get(..length).ok_or(Errno::MSGSIZE)?);
            for (kind, body) in messages {
                match kind {
                    NLMSG_ERROR => return outcome(body).map(|()| bodies),
                    NLMSG_DONE => return Ok(bodies),
                    kind if wanted(kind) => bodies.push(body.to_vec()),
                    _ => {}
                }
            }
            if !many && !acknowledged {
                return Ok(bodies);
            }
        }
    }
}

/// One request.
struct Request {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Request {
    fn new(kind: u16, flags: u16, body: &[u8]) -> Request {
        Request {
            kind,
            flags,
            body: body.to_vec(),
        }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.body.extend(((4 + value.len()) as u16).to_ne_bytes());
        self.body.extend(kind.to_ne_bytes());
        self.body.extend(value);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
    }

    fn text(&self) -> Vec<u8> {
        let mut text = ((HEADER + self.body.len()) as u32).to_ne_bytes().to_vec();
        text.extend(self.kind.to_ne_bytes());
        text.extend((self.flags | NLM_F_REQUEST).to_ne_bytes());
        // One request at a time: no number is needed to tell the answers apart.
        text.extend([0; 8]);
        text.extend(&self.body);
        text
    }
}

fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; IFINFO] {
    let mut body = [0; IFINFO];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&flags.to_ne_bytes());
    body[12..16].copy_from_slice(&change.to_ne_bytes());
    body
}

fn terminated(name: &str) -> Vec<u8> {
    let mut text = name.as_bytes().to_vec();
    text.push(0);
    text
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(four.try_into().ok()?))
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(two.try_into().ok()?))
}

/// Kind and body of each whole message in a datagram.
fn messages(mut datagram: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind)) = (number(datagram, 0), short(datagram, 4)) {
        let Some(body) = datagram.get(HEADER..length as usize) else {
            break;
        };
        found.push((kind, body));
        datagram = datagram
            .get((length as usize).next_multiple_of(4)..)
            .unwrap_or_default();
    }
    found
}

/// Kind and value of each whole attribute.
fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind)) = (short(bytes, 0), short(bytes, 2)) {
        let Some(value) = bytes.get(4..usize::from(length)) else {
            break;
        };
        // The two highest bits say how the value is written.
        found.push((kind & 0x3fff, value));
        bytes = bytes
            .get(usize::from(length).next_multiple_of(4)..)
            .unwrap_or_default();
    }
    found
}

fn outcome(body: &[u8]) -> Result<(), Errno> {
    match number(body, 0).map(u32::cast_signed) {
        Some(0) => Ok(()),
        Some(code) => Err(Errno::from_raw_os_error(code.wrapping_neg())),
        None => Err(Errno::BADMSG),
    }
}

fn link(body: &[u8]) -> Option<Link> {
    let (index, flags) = (number(body, 4)?, number(body, 8)?);
    let name = attributes(body.get(IFINFO..)?)
        .into_iter()
        .find(|(kind, _)| *kind == IFLA_IFNAME)?
        .1;
    let name = String::from_utf8_lossy(name.strip_suffix(b"\0").unwrap_or(name)).into_owned();
    Some(Link {
        index,
        name,
        up: flags & IFF_UP != 0,
    })
}

/// Of that device, permanent, and of RT_SCOPE_UNIVERSE; without what the kernel counts and what has the old name.
fn address(body: &[u8], wanted: u32) -> Option<Address> {
    let [family, prefix, flags, scope] = *body.get(..4)? else {
        return None;
    };
    let all = attributes(body.get(IFADDR..)?);
    let whole = all
        .iter()
        .find(|(kind, _)| *kind == IFA_FLAGS)
        .and_then(|(_, value)| number(value, 0));
    let flags = whole.unwrap_or(u32::from(flags));
    if number(body, 4)? != wanted || scope != 0 || flags & IFA_F_PERMANENT == 0 {
        return None;
    }
    let kept = |kind: &u16| !matches!(*kind, IFA_CACHEINFO | IFA_LABEL | IFA_FLAGS);
    let attributes = all.into_iter().filter(|(kind, _)| kept(kind));
    Some(Address {
        family,
        prefix,
        flags: flags & IFA_F_WISHES,
        attributes: attributes
            .map(|(kind, value)| (kind, value.to_vec()))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn loopback_is_found_and_a_missing_device_is_told() {
        let netlink = Netlink::open().unwrap();
        let lo = netlink.link("lo").unwrap();
        assert_eq!((lo.index, lo.name.as_str()), (1, "lo"));
        assert!(netlink.links().unwrap().contains(&lo));
        assert_eq!(netlink.link("nosuchdevice"), Err(Errno::NODEV));
        // Of host scope: not among those that travel.
        assert!(
            netlink
                .addresses(1)
                .unwrap()
                .iter()
                .all(|address| address.prefix != 8)
        );
    }

    proptest! {
        #[test]
        fn foreign_bytes_are_no_message_and_nothing_worse(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for (_, body) in messages(&bytes) {
                link(body);
                address(body, 1);
                outcome(body).ok();
            }
            attributes(&bytes);
        }
    }
}
