//! Leases from the first promise to nothing left, on hosts of their own.

mod world;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use longshore_network::{Config, Network, PortRequest, Protocol, pin_of};
use world::{ask_tcp, at, eventually, host, serve_tcp, sh, traces};

fn config(root: &Path, subnet: &str) -> Config {
    Config {
        run_root: root.join("run"),
        prefix: "lst".into(),
        table: "longshore-t".into(),
        subnet: subnet.parse().unwrap(),
        reserved_ports: [8088].into(),
    }
}

async fn network(root: &Path) -> Network {
    Network::open(config(root, "10.88.0.0/24")).await.unwrap()
}

fn tcp(container_port: u16, host_port: Option<u16>) -> PortRequest {
    let protocol = Protocol::Tcp;
    PortRequest {
        container_port,
        host_port,
        protocol,
    }
}

fn lease_of(root: &Path, id: &str) -> PathBuf {
    root.join(format!("run/network/{id}.json"))
}

fn text<T>(refused: Result<T, longshore_network::NetworkError>) -> String {
    refused.err().expect("must be refused").to_string()
}

#[test]
#[ignore = "needs root"]
fn the_same_id_gets_the_same_answer_now_and_after_a_restart() {
    host(|root| async move {
        let net = network(&root).await;
        let ports = [tcp(80, Some(8080)), tcp(81, None)];
        let first = net.attach_bridge("a", &ports).await.unwrap();
        let before = traces(&root);
        assert_eq!(net.attach_bridge("a", &ports).await.unwrap(), first);
        assert_eq!(net.attachment("a").as_ref(), Some(&first));
        assert_eq!(net.attachment("b"), None);
        drop(net);

        let net = network(&root).await;
        assert_eq!(net.attached(), ["a"]);
        assert_eq!(net.attachment("a").as_ref(), Some(&first));
        assert_eq!(net.attach_bridge("a", &ports).await.unwrap(), first);
        assert_eq!(traces(&root), before);
        let none = net.attach_none("b").await.unwrap();
        assert_eq!(net.attach_none("b").await.unwrap(), none);
        assert_eq!(none.netns, pin_of(&root.join("run"), "b"));
    });
}

#[test]
#[ignore = "needs root"]
fn another_wish_for_the_same_id_is_refused() {
    host(|root| async move {
        let net = network(&root).await;
        net.attach_bridge("a", &[tcp(80, None)]).await.unwrap();
        net.attach_none("b").await.unwrap();
        let check = |refused: String, expected: expect_test::Expect| expected.assert_eq(&refused);
        check(
            text(net.attach_none("a").await),
            expect_test::expect!["attach a: it is on the bridge already; release it first"],
        );
        check(
            text(net.attach_bridge("a", &[tcp(81, None)]).await),
            expect_test::expect![
                "attach a: it is attached with other ports already; release it first"
            ],
        );
        check(
            text(net.attach_bridge("b", &[]).await),
            expect_test::expect![
                "attach b: it is attached without a network already; release it first"
            ],
        );
    });
}

#[test]
#[ignore = "needs root"]
fn release_leaves_nothing_and_may_be_repeated() {
    host(|root| async move {
        let net = network(&root).await;
        net.attach_bridge("a", &[tcp(80, Some(8080))])
            .await
            .unwrap();
        net.attach_none("b").await.unwrap();
        for id in ["a", "b", "a", "b", "never-was-f00"] {
            // No id but of a-f, 0-9 and -.
            let refused = net.release(id).await.is_err();
            assert_eq!(refused, id.starts_with('n'));
        }
        assert_eq!(traces(&root), ["link lst"]);
        assert_eq!(net.attached(), Vec::<String>::new());
        drop(eventually(|| std::net::TcpListener::bind("0.0.0.0:8080")));
        net.remove().await.unwrap();
        net.remove().await.unwrap();
        assert_eq!(traces(&root), Vec::<String>::new());
        assert_eq!(sh("nft list ruleset"), "");
        assert!(!root.join("run/network").exists() && !root.join("run/netns").exists());
    });
}

#[test]
#[ignore = "needs root"]
fn remove_takes_everybody_with_it_and_spares_others() {
    host(|root| async move {
        sh("ip link add lst1 type veth peer name lst0000000; nft add table inet theirs");
        let net = network(&root).await;
        net.attach_bridge("a", &[tcp(80, Some(8080))])
            .await
            .unwrap();
        net.attach_none("b").await.unwrap();
        // What no lease names: a veth by name, a lease that cannot be read, with its pin and cable.
        sh("ip link add lst00000000 type veth peer name other");
        net.attach_bridge("c", &[]).await.unwrap();
        drop(net);
        std::fs::write(lease_of(&root, "c"), "{\"version\":7}").unwrap();
        let net = network(&root).await;
        assert_eq!(net.attached(), ["a", "b"]);
        net.remove().await.unwrap();
        assert_eq!(traces(&root), ["link lst0000000", "link lst1"]);
        assert_eq!(sh("nft list tables"), "table inet theirs\n");
        // And it can begin anew.
        net.attach_bridge("a", &[tcp(80, Some(8080))])
            .await
            .unwrap();
    });
}

#[test]
#[ignore = "needs root"]
fn a_cable_without_a_readable_lease_is_released_from_inside() {
    host(|root| async move {
        let net = network(&root).await;
        net.attach_bridge("a", &[]).await.unwrap();
        drop(net);
        std::fs::write(lease_of(&root, "a"), "").unwrap();
        let net = network(&root).await;
        net.release("a").await.unwrap();
        assert_eq!(traces(&root), ["link lst", "file run/network/a.unreadable"]);
    });
}

#[test]
#[ignore = "needs root"]
fn whatever_piece_is_missing_attach_completes_it() {
    host(|root| async move {
        let net = network(&root).await;
        let ports = [tcp(80, Some(8080))];
        let first = net.attach_bridge("a", &ports).await.unwrap();
        let before = traces(&root);
        let veth = sh("ip -o link show type veth | cut -d: -f2 | cut -d@ -f1");
        let pin = first.netns.display();
        let inside = |line: &str| format!("nsenter --net={pin} {line}");
        let losses = [
            format!("ip link del {}", veth.trim()),
            format!("umount {pin}"),
            format!("umount {pin}; rm {pin}"),
            "ip link del lst".to_owned(),
            "nft flush ruleset".to_owned(),
            format!("ip link set {} nomaster down", veth.trim()),
            inside("ip addr flush dev eth0"),
            inside("ip route del default"),
            inside("ip link set lo down"),
            inside("ip link set eth0 down"),
            "ip addr flush dev lst; ip link set lst down".to_owned(),
            "echo 0 > /proc/sys/net/ipv4/conf/lst/route_localnet".to_owned(),
        ];
        drop(net);
        for loss in losses {
            sh(&loss);
            let net = network(&root).await;
            assert_eq!(
                net.attach_bridge("a", &ports).await.unwrap(),
                first,
                "{loss}"
            );
            assert_eq!(traces(&root), before, "{loss}");
            let server = at(&first.netns, || serve_tcp("web", "0.0.0.0:80"));
            assert_eq!(
                ask_tcp("127.0.0.1".parse().unwrap(), 8080),
                "web sees 10.88.0.1",
                "{loss}"
            );
            drop(server);
        }
    });
}

#[test]
#[ignore = "needs root"]
fn ports_are_refused_by_name_and_nothing_is_left() {
    host(|root| async move {
        let net = network(&root).await;
        net.attach_bridge("a", &[tcp(80, Some(8080))])
            .await
            .unwrap();
        let before = traces(&root);
        let theirs = std::net::TcpListener::bind("127.0.0.1:9000").unwrap();
        for (port, why) in [
            (8080, "container a has it"),
            (8088, "reserved"),
            (9000, "a process"),
        ] {
            let refused = text(net.attach_bridge("b", &[tcp(80, Some(port))]).await);
            assert!(refused.starts_with(&format!("publish port 80/tcp on host port {port}: ")));
            assert!(refused.contains(why), "{refused}");
        }
        assert_eq!(
            (traces(&root), net.attached()),
            (before, vec!["a".to_owned()])
        );
        drop(theirs);
        net.attach_bridge("b", &[tcp(80, Some(9000))])
            .await
            .unwrap();
        // From now on the host's processes are told that it is taken, also after a restart.
        assert!(std::net::TcpListener::bind("0.0.0.0:9000").is_err());
        drop(net);
        let _again = network(&root).await;
        assert!(std::net::TcpListener::bind("127.0.0.1:9000").is_err());
    });
}

#[test]
#[ignore = "needs root"]
fn dynamic_ports_come_from_the_kernels_range() {
    host(|root| async move {
        sh("echo 40000 40003 > /proc/sys/net/ipv4/ip_local_port_range");
        let _theirs = std::net::TcpListener::bind("0.0.0.0:40001").unwrap();
        let net = network(&root).await;
        let a = net
            .attach_bridge("a", &[tcp(80, None), tcp(80, None), tcp(81, None)])
            .await
            .unwrap();
        let given: Vec<_> = a.bindings.iter().map(|b| b.host_port).collect();
        assert_eq!(given, [40000, 40002, 40003]);
        let refused = text(net.attach_bridge("b", &[tcp(80, None)]).await);
        assert!(
            refused.contains("no dynamic port is free in 40000-40003"),
            "{refused}"
        );
    });
}

#[test]
#[ignore = "needs root"]
fn addresses_end_by_name_and_come_back() {
    host(|root| async move {
        let net = Network::open(config(&root, "10.88.0.0/29")).await.unwrap();
        for id in ["1", "2", "3", "4", "5"] {
            net.attach_bridge(id, &[]).await.unwrap();
        }
        expect_test::expect!["choose address 6: all 5 addresses of 10.88.0.0/29 are taken; stop containers or choose a larger subnet"]
            .assert_eq(&text(net.attach_bridge("6", &[]).await));
        let address = net.attachment("3").unwrap().address;
        net.release("3").await.unwrap();
        assert_eq!(net.attach_bridge("6", &[]).await.unwrap().address, address);
    });
}

#[test]
#[ignore = "needs root"]
fn ten_at_once_get_ten_of_everything() {
    host(|root| async move {
        let net = std::sync::Arc::new(network(&root).await);
        let tasks: Vec<_> = (0..10)
            .map(|i| {
                let net = net.clone();
                tokio::spawn(async move {
                    net.attach_bridge(&format!("c{i}"), &[tcp(80, None), tcp(81, None)])
                        .await
                })
            })
            .collect();
        let mut addresses = BTreeSet::new();
        let mut ports = BTreeSet::new();
        for task in tasks {
            let attachment = task.await.unwrap().unwrap();
            addresses.insert(attachment.address.unwrap());
            ports.extend(attachment.bindings.iter().map(|b| b.host_port));
            let _server = at(&attachment.netns, || serve_tcp("up", "0.0.0.0:80"));
            assert!(
                ask_tcp(
                    "127.0.0.1".parse().unwrap(),
                    attachment.bindings[0].host_port
                )
                .starts_with("up")
            );
        }
        assert_eq!((addresses.len(), ports.len()), (10, 20));
        let all = net.attached().into_iter().map(|id| {
            let net = net.clone();
            tokio::spawn(async move { net.release(&id).await })
        });
        for task in all.collect::<Vec<_>>() {
            task.await.unwrap().unwrap();
        }
        assert_eq!(traces(&root), ["link lst"]);
    });
}

#[test]
#[ignore = "needs root"]
fn attach_and_release_of_one_id_at_once_end_in_one_of_both() {
    host(|root| async move {
        let net = std::sync::Arc::new(network(&root).await);
        for _ in 0..10 {
            let (one, other) = (net.clone(), net.clone());
            let attach =
                tokio::spawn(async move { one.attach_bridge("a", &[tcp(80, Some(8080))]).await });
            let release = tokio::spawn(async move { other.release("a").await });
            let (attached, released) = (attach.await.unwrap(), release.await.unwrap());
            assert!(
                attached.is_ok() && released.is_ok(),
                "{attached:?} {released:?}"
            );
        }
        net.release("a").await.unwrap();
        assert_eq!(traces(&root), ["link lst"]);
    });
}

#[test]
#[ignore = "needs root"]
fn a_subnet_that_is_reached_otherwise_is_refused_unless_it_is_in_use() {
    host(|root| async move {
        sh(
            "ip link add wire type veth peer name far; ip link set far up; ip addr add 10.88.0.200/25 dev wire; ip link set wire up",
        );
        sh("ip route add 172.16.0.0/12 via 10.88.0.129; ip route add default via 10.88.0.129");
        let open = |subnet: &str| Network::open(config(&root, subnet));
        expect_test::expect!["choose bridge network 10.88.0.0/24: the host already reaches 10.88.0.128/25 otherwise; choose another subnet"]
            .assert_eq(&text(open("10.88.0.0/24").await));
        assert!(text(open("172.17.0.0/16").await).contains("172.16.0.0/12"));
        let net = open("10.89.0.0/24").await.unwrap();
        net.attach_bridge("a", &[]).await.unwrap();
        drop(net);
        // Its own bridge is no stranger, and a route that came later must not lock the containers out.
        drop(open("10.89.0.0/24").await.unwrap());
        sh("ip route add 10.89.0.128/25 dev wire");
        open("10.89.0.0/24")
            .await
            .unwrap()
            .release("a")
            .await
            .unwrap();
    });
}

#[test]
#[ignore = "needs root"]
fn an_interface_of_another_kind_is_not_taken_for_the_bridge() {
    host(|root| async move {
        sh("ip link add lst type veth peer name far");
        let net = network(&root).await;
        let refused = text(net.attach_bridge("a", &[]).await);
        assert!(
            refused.starts_with("make bridge lst: another kind of interface"),
            "{refused}"
        );
        net.release("a").await.unwrap();
        assert!(text(net.remove().await).starts_with("make bridge lst: "));
        assert_eq!(traces(&root), ["link far", "link lst"]);
    });
}

#[test]
#[ignore = "needs root"]
fn an_abandoned_call_runs_to_its_end() {
    host(|root| async move {
        let net = network(&root).await;
        {
            let ports = [tcp(80, Some(8080))];
            let attach = net.attach_bridge("a", &ports);
            let gone = tokio::time::timeout(std::time::Duration::ZERO, attach).await;
            assert!(gone.is_err(), "it ended before it could be abandoned");
        }
        // The turn of the same id comes after it.
        net.release("a").await.unwrap();
        assert_eq!(traces(&root), ["link lst"]);
    });
}
