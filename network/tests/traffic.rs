//! Real packets through the bridge, on hosts of their own.

mod world;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use longshore_network::{Attachment, Config, Network, PortRequest, Protocol};
use world::{
    Server, ask_tcp, ask_udp, at, host, serve_tcp, serve_udp, sh, unreachable_tcp, unreachable_udp,
};

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
/// The host's address on the wire to the outside, and the outside's.
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

async fn network(root: &Path) -> Network {
    let config = Config {
        run_root: root.join("run"),
        prefix: "lst".into(),
        table: "longshore-t".into(),
        subnet: "10.88.0.0/24".parse().unwrap(),
        reserved_ports: [8088].into(),
    };
    Network::open(config).await.unwrap()
}

fn tcp(container_port: u16, host_port: Option<u16>) -> PortRequest {
    let protocol = Protocol::Tcp;
    PortRequest {
        container_port,
        host_port,
        protocol,
    }
}

fn udp(container_port: u16, host_port: Option<u16>) -> PortRequest {
    let protocol = Protocol::Udp;
    PortRequest {
        container_port,
        host_port,
        protocol,
    }
}

/// A machine beyond the host: a namespace on a wire of its own.
async fn outside(root: &Path) -> PathBuf {
    let config = Config {
        run_root: root.join("outside"),
        prefix: "out".into(),
        table: "outside".into(),
        subnet: "203.0.113.0/24".parse().unwrap(),
        reserved_ports: Default::default(),
    };
    let world = Network::open(config).await.unwrap();
    let pin = world.attach_none("0").await.unwrap().netns;
    sh(&format!(
        "ip link add wire type veth peer name eth9 netns {}",
        pin.display()
    ));
    sh(&format!(
        "ip addr add {HOST}/24 dev wire; ip link set wire up"
    ));
    at(&pin, || {
        sh(&format!(
            "ip addr add {OUTSIDE}/24 dev eth9; ip link set eth9 up"
        ))
    });
    pin
}

fn tcp_in(attachment: &Attachment, name: &'static str, port: u16) -> Server {
    at(&attachment.netns, move || {
        serve_tcp(name, format!("0.0.0.0:{port}"))
    })
}

fn udp_in(attachment: &Attachment, name: &'static str, port: u16) -> Server {
    at(&attachment.netns, move || {
        serve_udp(name, format!("0.0.0.0:{port}"))
    })
}

async fn published_ports_are_reached_from_everywhere(root: PathBuf) {
    let (net, outside) = (network(&root).await, outside(&root).await);
    let ports = [tcp(80, Some(8080)), tcp(81, None), udp(53, Some(5300))];
    let web = net.attach_bridge("a", &ports).await.unwrap();
    let peer = net
        .attach_bridge("b", &[tcp(80, Some(8081)), udp(53, None)])
        .await
        .unwrap();
    let dynamic = web.bindings[1].host_port;
    let _servers = [
        tcp_in(&web, "web", 80),
        tcp_in(&web, "dyn", 81),
        udp_in(&web, "dns", 53),
        tcp_in(&peer, "peer", 80),
    ];
    let (own, sibling) = (web.address.unwrap(), peer.address.unwrap());

    for from_host in [LOCALHOST, Ipv4Addr::new(127, 1, 2, 3), GATEWAY, HOST] {
        assert!(
            ask_tcp(from_host, 8080).starts_with("web sees "),
            "{from_host}"
        );
        assert!(
            ask_tcp(from_host, 8081).starts_with("peer sees "),
            "{from_host}"
        );
        assert!(
            ask_tcp(from_host, dynamic).starts_with("dyn sees "),
            "{from_host}"
        );
        assert!(
            ask_udp(from_host, 5300).starts_with("dns sees "),
            "{from_host}"
        );
    }
    assert_eq!(ask_tcp(own, 80), format!("web sees {GATEWAY}"));
    // Who comes from outside is seen as what it is.
    let from_outside = at(&outside, move || {
        (
            ask_tcp(HOST, 8080),
            ask_tcp(HOST, dynamic),
            ask_udp(HOST, 5300),
        )
    });
    let seen = |name: &str| format!("{name} sees {OUTSIDE}");
    assert_eq!(from_outside, (seen("web"), seen("dyn"), seen("dns")));
    // A sibling, directly and by the host's port; a container itself by the host's port.
    let sibling_asks = move || {
        (
            ask_tcp(own, 80),
            ask_tcp(GATEWAY, 8080),
            ask_udp(HOST, 5300),
        )
    };
    let hairpin = |name: &str| format!("{name} sees {GATEWAY}");
    assert_eq!(
        at(&peer.netns, sibling_asks),
        (
            format!("web sees {sibling}"),
            hairpin("web"),
            hairpin("dns")
        )
    );
    let self_asks = || {
        (
            ask_tcp(GATEWAY, 8080),
            ask_tcp(HOST, 8080),
            ask_udp(GATEWAY, 5300),
        )
    };
    let seen = (hairpin("web"), hairpin("web"), hairpin("dns"));
    assert_eq!(at(&web.netns, self_asks), seen);
}

#[test]
#[ignore = "needs root"]
fn published_ports_are_reached_where_bridged_packets_pass_the_rules() {
    host(|root| async move {
        sh("echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables || true");
        published_ports_are_reached_from_everywhere(root).await;
    });
}

#[test]
#[ignore = "needs root"]
fn published_ports_are_reached_where_bridged_packets_do_not_pass_the_rules() {
    host(|root| async move {
        sh("echo 0 > /proc/sys/net/bridge/bridge-nf-call-iptables || true");
        published_ports_are_reached_from_everywhere(root).await;
    });
}

#[test]
#[ignore = "needs root"]
fn containers_go_out_under_the_hosts_address() {
    host(|root| async move {
        let (net, outside) = (network(&root).await, outside(&root).await);
        let a = net.attach_bridge("a", &[]).await.unwrap();
        let _servers = at(&outside, || {
            (
                serve_tcp("far", "0.0.0.0:80"),
                serve_udp("far", "0.0.0.0:53"),
            )
        });
        let answers = at(&a.netns, || (ask_tcp(OUTSIDE, 80), ask_udp(OUTSIDE, 53)));
        let seen = format!("far sees {HOST}");
        assert_eq!(answers, (seen.clone(), seen));
    });
}

#[test]
#[ignore = "needs root"]
fn only_published_ports_are_reached_from_outside() {
    host(|root| async move {
        let (net, outside) = (network(&root).await, outside(&root).await);
        let a = net
            .attach_bridge("a", &[tcp(80, Some(8080))])
            .await
            .unwrap();
        let _servers = [tcp_in(&a, "web", 80), tcp_in(&a, "private", 81)];
        let address = a.address.unwrap();
        // A neighbour on the wire who knows the way to the bridge's network.
        at(&outside, || {
            sh(&format!("ip route add 10.88.0.0/24 via {HOST}"))
        });
        let closed = at(&outside, move || {
            (
                unreachable_tcp(address, 80),
                unreachable_tcp(address, 81),
                unreachable_tcp(HOST, 81),
            )
        });
        assert_eq!(closed, (true, true, true));
        assert_eq!(
            at(&outside, || ask_tcp(HOST, 8080)),
            format!("web sees {OUTSIDE}")
        );
        // Without the forward chain the way is open: it is the rules that close it.
        sh("nft delete table inet longshore-t");
        assert_eq!(
            at(&outside, move || ask_tcp(address, 81)),
            format!("private sees {OUTSIDE}")
        );
    });
}

#[test]
#[ignore = "needs root"]
fn a_udp_client_that_never_pauses_follows_the_port_to_its_next_container() {
    host(|root| async move {
        let (net, outside) = (network(&root).await, outside(&root).await);
        // One socket for all questions: one flow in the eyes of the kernel.
        let client = at(&outside, || std::net::UdpSocket::bind("0.0.0.0:0").unwrap());
        client
            .set_read_timeout(Some(std::time::Duration::from_secs(10)))
            .unwrap();
        let ask = || {
            client.send_to(b"?", (HOST, 5300)).unwrap();
            let mut answer = [0; 64];
            let len = client.recv(&mut answer).unwrap();
            String::from_utf8_lossy(&answer[..len]).into_owned()
        };
        let old = net
            .attach_bridge("a", &[udp(53, Some(5300))])
            .await
            .unwrap();
        let server = udp_in(&old, "old", 53);
        assert_eq!(ask(), format!("old sees {OUTSIDE}"));
        drop(server);
        net.release("a").await.unwrap();
        // Nobody has the port: the flow now leads to the host itself.
        let of_the_host = serve_udp("host", "0.0.0.0:5300");
        assert_eq!(ask(), format!("host sees {OUTSIDE}"));
        drop(of_the_host);
        let new = net
            .attach_bridge("b", &[udp(53, Some(5300))])
            .await
            .unwrap();
        let _server = udp_in(&new, "new", 53);
        assert_eq!(ask(), format!("new sees {OUTSIDE}"));
    });
}

/// In a namespace whose root sends packets for 127.0.0.1 onto the wire.
fn aim_at_loopback(pin: &Path, interface: &'static str, by: Ipv4Addr) {
    at(pin, move || {
        sh(&format!(
            "ip addr del 127.0.0.1/8 dev lo
             echo 1 > /proc/sys/net/ipv4/conf/{interface}/route_localnet
             ip route add 127.0.0.1/32 via {by} dev {interface}"
        ))
    });
}

#[test]
#[ignore = "needs root"]
fn nobody_reaches_the_hosts_loopback() {
    host(|root| async move {
        let (net, outside) = (network(&root).await, outside(&root).await);
        // As some other software (kube-proxy) leaves a host.
        sh("echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet");
        let _secret = [
            serve_tcp("secret", "127.0.0.1:9000"),
            serve_udp("secret", "127.0.0.1:9000"),
        ];
        aim_at_loopback(&outside, "eth9", HOST);
        let reach = || {
            (
                unreachable_tcp(LOCALHOST, 9000),
                unreachable_udp(LOCALHOST, 9000),
            )
        };
        assert_eq!(at(&outside, reach), (false, false), "the test cannot fail");

        let a = net.attach_bridge("a", &[]).await.unwrap();
        assert!(at(&a.netns, || unreachable_tcp(GATEWAY, 9000)));
        aim_at_loopback(&a.netns, "eth0", GATEWAY);
        assert_eq!(at(&outside, reach), (true, true));
        assert_eq!(at(&a.netns, reach), (true, true));
        assert_eq!(ask_tcp(LOCALHOST, 9000), "secret sees 127.0.0.1");

        sh("nft delete table inet longshore-t");
        assert_eq!(at(&a.netns, reach), (false, false), "the test cannot fail");
    });
}

#[test]
#[ignore = "needs root"]
fn a_container_cannot_pose_as_the_hosts_loopback() {
    host(|root| async move {
        let net = network(&root).await;
        let a = net.attach_bridge("a", &[]).await.unwrap();
        // One way is enough for a command in a datagram; the answer need not come back.
        let listener = std::net::UdpSocket::bind((GATEWAY, 9001)).unwrap();
        listener
            .set_read_timeout(Some(std::time::Duration::from_millis(400)))
            .unwrap();
        let shout = || {
            sh("ip addr replace 127.0.0.9/32 dev eth0
                echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet");
            let socket = std::net::UdpSocket::bind("127.0.0.9:0").unwrap();
            socket.send_to(b"format the disk", (GATEWAY, 9001)).unwrap();
        };
        at(&a.netns, shout);
        assert!(listener.recv_from(&mut [0; 32]).is_err());
        // It is the rule that keeps it out, not the kernel's own check of sources.
        sh("nft delete table inet longshore-t");
        listener
            .set_read_timeout(Some(std::time::Duration::from_secs(10)))
            .unwrap();
        at(&a.netns, shout);
        assert!(
            listener.recv_from(&mut [0; 32]).is_ok(),
            "the test cannot fail"
        );
    });
}

#[test]
#[ignore = "needs root"]
fn loopback_is_up_in_mode_none_and_nothing_else_is_there() {
    host(|root| async move {
        // A new namespace inherits this from the machine's first one.
        sh("echo 0 > /proc/sys/net/ipv4/ip_forward");
        let net = network(&root).await;
        let a = net.attach_none("a").await.unwrap();
        let _inside = at(&a.netns, || serve_tcp("self", "127.0.0.1:80"));
        assert_eq!(
            at(&a.netns, || ask_tcp(LOCALHOST, 80)),
            "self sees 127.0.0.1"
        );
        assert_eq!(at(&a.netns, || sh("ip -o link | wc -l")).trim(), "1");
        let open_to_users =
            "cd /proc/sys/net/ipv4; cat ip_unprivileged_port_start ping_group_range";
        assert_eq!(
            at(&a.netns, move || sh(open_to_users)),
            "0\n0\t2147483647\n"
        );
        assert!(at(&a.netns, || unreachable_tcp(GATEWAY, 80)));
        // No bridge, no rules, no forwarding for a host that needs none.
        assert_eq!(
            sh("nft list tables; cat /proc/sys/net/ipv4/ip_forward").trim(),
            "0"
        );
    });
}
