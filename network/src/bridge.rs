//! The instance's bridge: the switch that its containers plug into, and the host's foot in it.
//!
//! What it changes outside of the bridge is one thing: `net.ipv4.ip_forward=1`, without which no packet
//! passes between the bridge and the world. It is host-wide (per network namespace): the host now also
//! forwards between its other interfaces, as far as its firewall lets it. It is never set back, because
//! others may have come to rely on it.
//!
//! On the bridge itself: no STP (ports forward at once), no IPv6, and `route_localnet`, so that
//! `127.0.0.1:PORT` on the host reaches a published port; `nft` closes what that would open
//! (CVE-2020-8558). Containers of one bridge may talk to each other, as on ECS's.

use std::io;
use std::path::Path;

use ipnet::Ipv4Net;
use rtnetlink::LinkBridge;

use crate::address;
use crate::link::{Link, Links, failed};
use crate::{Config, NetworkError};

/// Makes the bridge and its settings, as far as they are missing.
pub(crate) async fn ensure(config: &Config) -> Result<(), NetworkError> {
    let name = &config.prefix;
    let gateway = address::gateway(config.subnet);
    let links = Links::here()?;
    // A MAC of its own: without one a bridge takes the lowest of its ports', and changes it under the
    // containers' ARP caches whenever one comes or goes.
    let new = LinkBridge::new(name).address(address::mac(gateway).to_vec());
    links.add(name, new.build()).await?;
    refuse_other(name, links.find(name).await?.as_ref())?;
    set_sysctls(name)?;
    links
        .add_address(name, gateway, config.subnet.prefix_len())
        .await?;
    links.set_up(name).await?;
    Ok(())
}

/// Deletes the bridge; fine if it is gone.
pub(crate) async fn remove(links: &Links, name: &str) -> Result<(), NetworkError> {
    let found = links.find(name).await?;
    if found.is_none() {
        return Ok(());
    }
    refuse_other(name, found.as_ref())?;
    links.delete(name).await
}

fn refuse_other(name: &str, link: Option<&Link>) -> Result<(), NetworkError> {
    if link.is_none_or(|l| l.is_bridge) {
        return Ok(());
    }
    Err(NetworkError {
        step: "make bridge",
        subject: name.to_owned(),
        cause: "another kind of interface has this name; choose another instance name".into(),
    })
}

/// Refuses a network that the host already reaches by another way: packets for one of the two would
/// go to the other.
pub(crate) async fn refuse_overlap(config: &Config) -> Result<(), NetworkError> {
    let links = Links::here()?;
    let own = links.find(&config.prefix).await?.map(|l| l.index);
    let subnet = config.subnet.trunc();
    let overlaps = |net: &Ipv4Net| net.contains(&subnet) || subnet.contains(net);
    let reached = links.reached().await?;
    let other = reached
        .iter()
        .find(|(net, by)| overlaps(net) && (by.is_none() || *by != own));
    match other {
        None => Ok(()),
        Some((net, _)) => Err(NetworkError {
            step: "choose bridge network",
            subject: subnet.to_string(),
            cause: format!("the host already reaches {net} otherwise; choose another subnet"),
        }),
    }
}

fn set_sysctls(bridge: &str) -> Result<(), NetworkError> {
    set("ipv4/ip_forward", "1")?;
    set(&format!("ipv4/conf/{bridge}/route_localnet"), "1")?;
    quiet_ipv6(bridge)
}

/// No IPv6 on a host-side interface of ours: no router advertisement of a container is heard, and no
/// link-local address of the host is reachable from one.
pub(crate) fn quiet_ipv6(interface: &str) -> Result<(), NetworkError> {
    if !Path::new("/proc/sys/net/ipv6").exists() {
        return Ok(());
    }
    set(&format!("ipv6/conf/{interface}/accept_ra"), "0")?;
    set(&format!("ipv6/conf/{interface}/disable_ipv6"), "1")
}

/// Writes below /proc/sys/net, which shows the network namespace of the calling thread. What is set
/// already is left alone, so that a read-only /proc/sys with the right values is good enough.
fn set(name: &str, value: &str) -> Result<(), NetworkError> {
    let path = Path::new("/proc/sys/net").join(name);
    let change = || -> io::Result<()> {
        if std::fs::read_to_string(&path)?.trim() == value {
            return Ok(());
        }
        std::fs::write(&path, value)
    };
    change().map_err(|e| failed("set sysctl", &path.display().to_string(), e))
}
