//! The cable between a container and the bridge: a veth pair, `eth0` inside, a port of the bridge outside.
//!
//! Both ends are made by one message, each in its place: there is no moment in which `eth0` exists in
//! the host's namespace, and deleting either end deletes both. The host's end is named in the lease.

use std::collections::BTreeSet;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::{LinkBridgePort, LinkUnspec, LinkVeth};

use crate::lease::Seat;
use crate::link::{Links, failed};
use crate::{NetworkError, address, bridge};

/// The interface's name in the container.
pub(crate) const INSIDE: &str = "eth0";
const DIGITS: usize = 8;
/// How often, and how far apart, an interface is looked at until packets pass: 2 s in all.
const LOOKS: usize = 400;
const PAUSE: Duration = Duration::from_millis(5);

/// A name for the host's end that is not `taken`: the prefix and eight hexadecimal digits, which with a
/// prefix of 7 is as long as the kernel allows (15). The same id gives the same name where it can.
pub(crate) fn choose_name(prefix: &str, id: &str, taken: &BTreeSet<&str>) -> String {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    let first = hasher.finish() as u32;
    let names = (0..=u32::MAX).map(|step| format!("{prefix}{:08x}", first.wrapping_add(step)));
    let mut free = names.filter(|n| !taken.contains(n.as_str()));
    free.next().expect("2^32 names outnumber all leases")
}

/// True if `name` is one that [`choose_name`] gives for `prefix`.
pub(crate) fn is_name(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|digits| {
        digits.len() == DIGITS
            && digits
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Plugs the namespace at `pin` into the bridge, as far as that has not been done.
pub(crate) async fn ensure(seat: &Seat, bridge: &str, pin: &Path) -> Result<(), NetworkError> {
    let host = Links::here()?;
    let inner = Links::inside(pin).await?;
    if inner.find(INSIDE).await?.is_none() {
        // The host's end without its peer here: that of a namespace whose pin was lost.
        host.delete(&seat.veth).await?;
        make(&host, seat, bridge, pin).await?;
    }
    plug(&host, &seat.veth, bridge).await?;
    inner.set_up("lo").await?;
    inner
        .add_address(INSIDE, seat.address, seat.prefix_len)
        .await?;
    inner.set_up(INSIDE).await?;
    inner.add_default_route(seat.gateway()).await?;
    wait_until_live(&host, &inner, seat, bridge).await
}

/// Waits until packets pass. The kernel opens a link some time after it was set up, in a work queue; what is
/// sent before is dropped, and a lost ARP request costs a container's first connection a whole second.
/// Usually it is done at the first look (asking for a link makes newer kernels do the work at once).
async fn wait_until_live(
    host: &Links,
    inner: &Links,
    seat: &Seat,
    bridge: &str,
) -> Result<(), NetworkError> {
    for _ in 0..LOOKS {
        let port = host.find(&seat.veth).await?;
        if port.is_some_and(|l| l.is_live && l.forwards)
            && host.find(bridge).await?.is_some_and(|l| l.is_live)
            && inner.find(INSIDE).await?.is_some_and(|l| l.is_live)
        {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    // An old kernel or a strange one; the container can bear a slow first packet.
    tracing::warn!(veth = seat.veth, "the interface is not yet live");
    Ok(())
}

async fn make(host: &Links, seat: &Seat, bridge: &str, pin: &Path) -> Result<(), NetworkError> {
    let pinned = File::open(pin)
        .map_err(|e| failed("open network namespace", &pin.display().to_string(), e))?;
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(INSIDE.into()),
        LinkAttribute::NetNsFd(pinned.as_raw_fd()),
        LinkAttribute::Address(address::mac(seat.address).to_vec()),
    ];
    let pair = LinkVeth::new(&seat.veth, INSIDE)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .controller(host.index_of(bridge).await?);
    host.add(&seat.veth, pair.build()).await
}

/// Makes the host's end a port of the bridge and sets it up.
async fn plug(host: &Links, veth: &str, bridge: &str) -> Result<(), NetworkError> {
    let index = host.index_of(veth).await?;
    let port = LinkUnspec::new_with_index(index).controller(host.index_of(bridge).await?);
    let set = host.handle.link().set(port.build()).execute().await;
    set.map_err(|e| {
        failed(
            "plug into bridge",
            veth,
            std::io::Error::other(e.to_string()),
        )
    })?;
    // Where br_netfilter is on, a container that calls itself by its host port is answered by the
    // bridge, out of the port that the frame came in by.
    let hairpin = LinkBridgePort::new(index).hairpin(true).build();
    let set = host.handle.link().set_port(hairpin).execute().await;
    set.map_err(|e| {
        failed(
            "set hairpin mode of",
            veth,
            std::io::Error::other(e.to_string()),
        )
    })?;
    bridge::quiet_ipv6(veth)?;
    host.set_up(veth).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel_and_never_collide() {
        let first = choose_name("ls-abcd", "dead-beef", &BTreeSet::new());
        assert_eq!(first.len(), 15);
        assert!(is_name(&first, "ls-abcd"));
        let second = choose_name("ls-abcd", "dead-beef", &BTreeSet::from([first.as_str()]));
        assert!(is_name(&second, "ls-abcd") && second != first);
    }

    #[test]
    fn an_instance_does_not_take_anothers_veth_for_its_own() {
        assert!(is_name("ls00000000", "ls"));
        for other in [
            "ls1000000000",
            "ls",
            "ls0000000",
            "ls0000000g",
            "eth0",
            "ls0000000A",
        ] {
            assert!(!is_name(other, "ls"), "{other}");
        }
    }
}
