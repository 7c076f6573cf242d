//! Addresses: which one of the bridge's network is given next, and what follows from it.
//!
//! Pure. The first host address is the bridge's own (the gateway); network and broadcast address are
//! never given. An address that was released is the last to be given again, so that a neighbour's ARP
//! cache and a half-dead connection do not meet a stranger at once. No IPv6, no DHCP.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// The largest prefix that holds a gateway and one container.
pub(crate) const MAX_PREFIX_LEN: u8 = 30;

/// The bridge's own address: the first of its network.
pub(crate) fn gateway(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()) + 1)
}

/// The gateway of the network that `address` was given from; `prefix_len` is at most
/// [`MAX_PREFIX_LEN`] (checked where leases are read).
pub(crate) fn gateway_of(address: Ipv4Addr, prefix_len: u8) -> Ipv4Addr {
    gateway(Ipv4Net::new_assert(address, prefix_len.min(MAX_PREFIX_LEN)))
}

/// The next free address after `last`, going round; none when all are taken.
pub(crate) fn choose(
    subnet: Ipv4Net,
    taken: &BTreeSet<Ipv4Addr>,
    last: Option<Ipv4Addr>,
) -> Option<Ipv4Addr> {
    let first = u32::from(subnet.network()) + 2;
    let end = u32::from(subnet.broadcast());
    let start = last.map_or(first, |l| u32::from(l).saturating_add(1));
    let start = if (first..end).contains(&start) {
        start
    } else {
        first
    };
    (start..end)
        .chain(first..start)
        .map(Ipv4Addr::from)
        .find(|a| !taken.contains(a))
}

/// A locally administered unicast MAC that follows from the address: whoever gets the address again is
/// reached in spite of a neighbour's stale ARP entry.
pub(crate) fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x6c, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn goes_round_and_ends_when_all_are_taken() {
        let subnet = net("10.0.0.0/29");
        let mut taken = BTreeSet::new();
        let mut last = None;
        for host in 2..=6 {
            let got = choose(subnet, &taken, last).unwrap();
            assert_eq!(got, Ipv4Addr::new(10, 0, 0, host));
            taken.insert(got);
            last = Some(got);
        }
        assert_eq!(choose(subnet, &taken, last), None);
        taken.remove(&ip("10.0.0.4"));
        assert_eq!(choose(subnet, &taken, last), Some(ip("10.0.0.4")));
    }

    #[test]
    fn a_released_address_is_not_given_again_at_once() {
        let subnet = net("10.0.0.0/24");
        let none = BTreeSet::new();
        assert_eq!(
            choose(subnet, &none, Some(ip("10.0.0.2"))),
            Some(ip("10.0.0.3"))
        );
        assert_eq!(
            choose(subnet, &none, Some(ip("10.0.0.254"))),
            Some(ip("10.0.0.2"))
        );
        // The cursor of another network does not lead out of this one.
        assert_eq!(
            choose(subnet, &none, Some(ip("192.168.0.9"))),
            Some(ip("10.0.0.2"))
        );
    }

    #[test]
    fn the_gateway_follows_from_a_lease() {
        assert_eq!(gateway_of(ip("10.88.3.77"), 16), ip("10.88.0.1"));
        assert_eq!(gateway(net("10.0.0.128/30")), ip("10.0.0.129"));
    }

    proptest! {
        #[test]
        fn what_is_given_is_free_and_a_host_address(
            base in any::<u32>(), prefix in 22u8..=30, last in proptest::option::of(any::<u32>()),
            picks in proptest::collection::btree_set(0u32..1024, 0..40),
        ) {
            let subnet = Ipv4Net::new(base.into(), prefix).unwrap().trunc();
            let taken = picks.iter()
                .map(|p| Ipv4Addr::from(u32::from(subnet.network()).wrapping_add(*p))).collect();
            if let Some(got) = choose(subnet, &taken, last.map(Ipv4Addr::from)) {
                prop_assert!(subnet.contains(&got) && !taken.contains(&got));
                prop_assert!(got != subnet.network() && got != subnet.broadcast());
                prop_assert!(got != gateway(subnet));
            } else {
                let all = subnet.hosts().skip(1).all(|h| taken.contains(&h));
                prop_assert!(all);
            }
        }
    }
}
