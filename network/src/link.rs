//! Links, addresses and routes of one network namespace, by rtnetlink(7).
//!
//! A connection belongs to the namespace in which its socket was made, here that of the calling thread
//! ([`Links::here`]) or a pinned one ([`Links::inside`]). Everything bears being done twice: what exists
//! already is success, and so is the absence of what is to be deleted. IPv4 only.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use futures_util::TryStreamExt;
use ipnet::Ipv4Net;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    BridgePortState, InfoBridgePort, InfoKind, InfoPortData, LinkAttribute, LinkInfo, LinkMessage,
    State,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use crate::{NetworkError, netns};

/// A connection to one namespace's rtnetlink; it ends when dropped.
pub(crate) struct Links {
    pub(crate) handle: Handle,
}

/// What [`Links::find`] tells of a link.
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) is_bridge: bool,
    pub(crate) is_veth: bool,
    /// Operational: packets pass, RFC 2863.
    pub(crate) is_live: bool,
    /// As a port of a bridge it forwards.
    pub(crate) forwards: bool,
}

/// A network that is already reachable, and by which interface (index), if one is named.
pub(crate) type Reached = (Ipv4Net, Option<u32>);

impl Links {
    /// The namespace of the calling thread.
    pub(crate) fn here() -> Result<Links, NetworkError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|e| failed("open netlink", "rtnetlink", e))?;
        tokio::spawn(connection);
        Ok(Links { handle })
    }

    /// The namespace that is pinned at `pin`.
    pub(crate) async fn inside(pin: &Path) -> Result<Links, NetworkError> {
        let runtime = tokio::runtime::Handle::current();
        let open = move || {
            let _entered = runtime.enter();
            rtnetlink::new_connection()
        };
        let (connection, handle, _) = netns::inside(pin, open).await?;
        tokio::spawn(connection);
        Ok(Links { handle })
    }

    pub(crate) async fn find(&self, name: &str) -> Result<Option<Link>, NetworkError> {
        let found = self.handle.link().get().match_name(name).execute();
        match found.try_collect::<Vec<_>>().await {
            Ok(links) => Ok(links.first().map(link)),
            Err(e) if errno(&e) == Some(nix::libc::ENODEV) => Ok(None),
            Err(e) => Err(failed("find interface", name, io_error(e))),
        }
    }

    /// Like [`Links::find`] for a link that must be there.
    pub(crate) async fn index_of(&self, name: &str) -> Result<u32, NetworkError> {
        let link = self.find(name).await?;
        link.map(|l| l.index)
            .ok_or_else(|| failed("find interface", name, io::ErrorKind::NotFound.into()))
    }

    /// Creates a link; fine if one of that name exists.
    pub(crate) async fn add(&self, name: &str, link: LinkMessage) -> Result<(), NetworkError> {
        let added = self.handle.link().add(link).execute().await;
        fine_if(added, nix::libc::EEXIST).map_err(|e| failed("make interface", name, e))
    }

    /// Deletes a link and with it its peer; fine if it is gone.
    pub(crate) async fn delete(&self, name: &str) -> Result<(), NetworkError> {
        let Some(link) = self.find(name).await? else {
            return Ok(());
        };
        let deleted = self.handle.link().del(link.index).execute().await;
        fine_if(deleted, nix::libc::ENODEV).map_err(|e| failed("delete interface", name, e))
    }

    pub(crate) async fn set_up(&self, name: &str) -> Result<u32, NetworkError> {
        let index = self.index_of(name).await?;
        let up = LinkUnspec::new_with_index(index).up().build();
        let set = self.handle.link().set(up).execute().await;
        set.map_err(|e| failed("set interface up", name, io_error(e)))?;
        Ok(index)
    }

    pub(crate) async fn add_address(
        &self,
        name: &str,
        address: Ipv4Addr,
        prefix_len: u8,
    ) -> Result<(), NetworkError> {
        let index = self.index_of(name).await?;
        let request = self.handle.address().add(index, address.into(), prefix_len);
        fine_if(request.execute().await, nix::libc::EEXIST)
            .map_err(|e| failed("give address to", name, e))
    }

    pub(crate) async fn add_default_route(&self, gateway: Ipv4Addr) -> Result<(), NetworkError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(gateway)
            .build();
        fine_if(
            self.handle.route().add(route).execute().await,
            nix::libc::EEXIST,
        )
        .map_err(|e| failed("add default route by", &gateway.to_string(), e))
    }

    /// The names of all links.
    pub(crate) async fn names(&self) -> Result<Vec<String>, NetworkError> {
        let links: Vec<LinkMessage> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|e| failed("list", "interfaces", io_error(e)))?;
        Ok(links.iter().filter_map(name_of).collect())
    }

    /// The host's own IPv4 addresses.
    pub(crate) async fn own_addresses(&self) -> Result<Vec<Ipv4Addr>, NetworkError> {
        let own = |a: &AddressMessage| {
            v4(a, |attribute| match attribute {
                AddressAttribute::Local(ip) => Some(*ip),
                _ => None,
            })
        };
        Ok(self.addresses().await?.iter().filter_map(own).collect())
    }

    /// Networks of interface addresses and unicast routes, without default routes and without the
    /// kernel's own local and broadcast entries.
    pub(crate) async fn reached(&self) -> Result<Vec<Reached>, NetworkError> {
        let any = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let routes: Vec<_> = self
            .handle
            .route()
            .get(any)
            .execute()
            .try_collect()
            .await
            .map_err(|e| failed("list", "routes", io_error(e)))?;
        let addresses = self.addresses().await?;
        let on_wire = addresses.iter().filter_map(on_wire);
        Ok(on_wire.chain(routes.iter().filter_map(routed)).collect())
    }

    async fn addresses(&self) -> Result<Vec<AddressMessage>, NetworkError> {
        let all = self.handle.address().get().execute().try_collect().await;
        all.map_err(|e| failed("list", "addresses", io_error(e)))
    }
}

fn on_wire(address: &AddressMessage) -> Option<Reached> {
    let ip = v4(address, |attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    })?;
    let net = Ipv4Net::new(ip, address.header.prefix_len).ok()?.trunc();
    Some((net, Some(address.header.index)))
}

fn v4(
    address: &AddressMessage,
    pick: impl Fn(&AddressAttribute) -> Option<IpAddr>,
) -> Option<Ipv4Addr> {
    match address.attributes.iter().find_map(pick)? {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

fn routed(route: &RouteMessage) -> Option<Reached> {
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    let to = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(*ip),
        _ => None,
    })?;
    let by = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    let net = Ipv4Net::new(to, route.header.destination_prefix_length).ok()?;
    (net.prefix_len() > 0).then_some((net, by))
}

fn link(message: &LinkMessage) -> Link {
    let info = |wanted: LinkInfo| infos(message).any(|info| *info == wanted);
    let port_forwards = |info: &LinkInfo| match info {
        LinkInfo::PortData(InfoPortData::BridgePort(port)) => {
            port.contains(&InfoBridgePort::State(BridgePortState::Forwarding))
        }
        _ => false,
    };
    Link {
        index: message.header.index,
        is_bridge: info(LinkInfo::Kind(InfoKind::Bridge)),
        is_veth: info(LinkInfo::Kind(InfoKind::Veth)),
        is_live: message
            .attributes
            .contains(&LinkAttribute::OperState(State::Up)),
        forwards: infos(message).any(port_forwards),
    }
}

fn infos(message: &LinkMessage) -> impl Iterator<Item = &LinkInfo> {
    let lists = message.attributes.iter().filter_map(|a| match a {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    lists.flatten()
}

fn name_of(message: &LinkMessage) -> Option<String> {
    message.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })
}

fn errno(e: &rtnetlink::Error) -> Option<i32> {
    match e {
        rtnetlink::Error::NetlinkError(message) => Some(message.raw_code().abs()),
        _ => None,
    }
}

fn io_error(e: rtnetlink::Error) -> io::Error {
    match errno(&e) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::other(e.to_string()),
    }
}

fn fine_if(result: Result<(), rtnetlink::Error>, code: i32) -> io::Result<()> {
    match result {
        Err(e) if errno(&e) == Some(code) => Ok(()),
        other => other.map_err(io_error),
    }
}

pub(crate) fn failed(step: &'static str, subject: &str, e: io::Error) -> NetworkError {
    NetworkError {
        step,
        subject: subject.to_owned(),
        cause: match e.raw_os_error() {
            Some(nix::libc::EPERM) => format!("{e}; CAP_NET_ADMIN is needed"),
            _ => e.to_string(),
        },
    }
}
