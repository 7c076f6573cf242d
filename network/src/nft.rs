//! The packet rules of an instance: one nftables table of its own, written whole in one transaction.
//!
//! The text is a pure function of the leases. It is handed to the `nft` program, which the kernel's
//! netlink interface is not stable enough to replace. Nobody else's table is read or changed. Limits:
//!
//! - nftables has no "accept that overrules": where another table's forward chain drops (docker's and
//!   ufw's `FORWARD` policy do), containers of the bridge are cut off until that firewall lets the bridge
//!   through (`iptables -I DOCKER-USER -i BRIDGE -j ACCEPT` and the same with `-o`).
//! - `nft flush ruleset` (a restart of Debian's `nftables.service`) removes this table too; it comes
//!   back with the next change or with the agent's next start.
//! - IPv4 only: `[::1]:PORT` and the host's other IPv6 addresses do not reach a published port.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::io::AsyncWriteExt;

use crate::{NetworkError, PortBinding, Protocol};

/// Far above the few milliseconds that it takes; a hung kernel lock must not hang an attachment for ever.
const PATIENCE: Duration = Duration::from_secs(30);
/// How much of what nft complains goes into an error.
const MAX_COMPLAINT: usize = 600;

/// What the rules are made from.
pub(crate) struct Rules<'a> {
    pub(crate) table: &'a str,
    pub(crate) bridge: &'a str,
    pub(crate) subnet: Ipv4Net,
    pub(crate) published: &'a [(PortBinding, Ipv4Addr)],
}

/// The transaction that replaces the table, whether it exists or not.
pub(crate) fn replace(rules: &Rules<'_>) -> String {
    let Rules { table, bridge, .. } = rules;
    let subnet = rules.subnet.trunc();
    let tcp = map(Protocol::Tcp, rules.published);
    let udp = map(Protocol::Udp, rules.published);
    let drop_old = remove(table);
    format!(
        r#"{drop_old}table inet {table} {{
{tcp}{udp}	# route_localnet opens the bridge for 127.0.0.0/8; nothing but loopback may use it (CVE-2020-8558).
	chain guard_loopback {{
		type filter hook prerouting priority raw; policy accept;
		iifname != "lo" ip daddr 127.0.0.0/8 drop
		iifname "{bridge}" ip saddr 127.0.0.0/8 drop
	}}
	chain publish {{
		dnat ip to tcp dport map @published_tcp
		dnat ip to udp dport map @published_udp
	}}
	chain from_outside {{
		type nat hook prerouting priority dstnat; policy accept;
		meta nfproto ipv4 fib daddr type local jump publish
	}}
	chain from_host {{
		type nat hook output priority -100; policy accept;
		meta nfproto ipv4 fib daddr type local jump publish
	}}
	# Published ports are the only way in; another bridge's containers are outside too.
	chain forward {{
		type filter hook forward priority filter; policy accept;
		iifname "{bridge}" accept
		oifname "{bridge}" ct state established,related accept
		oifname "{bridge}" ct status dnat accept
		oifname "{bridge}" drop
	}}
	chain leave {{
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr {subnet} oifname != "{bridge}" masquerade
		# The answer must come back through the host, which knows the translation.
		oifname "{bridge}" ip saddr {subnet} ct status dnat masquerade
		oifname "{bridge}" ip saddr 127.0.0.0/8 masquerade
	}}
}}
"#
    )
}

/// The transaction that removes the table, whether it exists or not.
pub(crate) fn remove(table: &str) -> String {
    format!("table inet {table}\ndelete table inet {table}\n")
}

fn map(protocol: Protocol, published: &[(PortBinding, Ipv4Addr)]) -> String {
    let mut text = format!(
        "\tmap published_{protocol} {{\n\t\ttype inet_service : ipv4_addr . inet_service\n"
    );
    let mut of_protocol: Vec<_> = published
        .iter()
        .filter(|(b, _)| b.protocol == protocol)
        .collect();
    of_protocol.sort_by_key(|(b, _)| b.host_port);
    if !of_protocol.is_empty() {
        text.push_str("\t\telements = {\n");
        for (b, address) in of_protocol {
            writeln!(
                text,
                "\t\t\t{} : {address} . {},",
                b.host_port, b.container_port
            )
            .expect("writing to a string succeeds");
        }
        text.push_str("\t\t}\n");
    }
    text.push_str("\t}\n");
    text
}

/// The `nft` program. A service's PATH may lack the directories of root's programs.
pub(crate) fn program() -> Result<PathBuf, NetworkError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin"];
    std::env::split_paths(&path)
        .chain(usual.map(PathBuf::from))
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join("nft"))
        .find(|program| program.is_file())
        .ok_or_else(|| NetworkError {
            step: "find program",
            subject: "nft".into(),
            cause: "not installed; network mode bridge needs it: apt install nftables".into(),
        })
}

/// Commits one transaction: all of it or nothing. If this process dies while nft reads, nft sees a text
/// that is cut within the table's braces (the part before them fits one write to an empty pipe), and
/// refuses it whole.
pub(crate) async fn commit(table: &str, transaction: &str) -> Result<(), NetworkError> {
    let failed = |cause: String| NetworkError {
        step: "write nftables table",
        subject: format!("inet {table}"),
        cause,
    };
    let mut nft = tokio::process::Command::new(program()?)
        .args(["-f", "-"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed(format!("nft: {e}")))?;
    let mut stdin = nft.stdin.take();
    let talk = async {
        if let Some(stdin) = stdin.as_mut() {
            // A broken pipe is a program that ended early; its status tells why.
            stdin.write_all(transaction.as_bytes()).await.ok();
        }
        drop(stdin);
        nft.wait_with_output().await
    };
    let output = tokio::time::timeout(PATIENCE, talk)
        .await
        .map_err(|_| failed(format!("nft did not end within {} s", PATIENCE.as_secs())))?
        .map_err(|e| failed(format!("nft: {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let complaint: String = complaint.trim().chars().take(MAX_COMPLAINT).collect();
    Err(failed(format!(
        "nft ended with {}: {complaint}",
        output.status
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn rules(published: &[(PortBinding, Ipv4Addr)]) -> String {
        replace(&Rules {
            table: "longshore-test",
            bridge: "lst",
            subnet: "10.88.0.0/24".parse().unwrap(),
            published,
        })
    }

    fn binding(host_port: u16, container_port: u16, protocol: Protocol) -> PortBinding {
        PortBinding {
            container_port,
            host_port,
            protocol,
        }
    }

    #[test]
    fn the_table_is_this_text() {
        let a = Ipv4Addr::new(10, 88, 0, 2);
        let b = Ipv4Addr::new(10, 88, 0, 3);
        let published = [
            (binding(8081, 80, Protocol::Tcp), b),
            (binding(8080, 80, Protocol::Tcp), a),
            (binding(53, 5353, Protocol::Udp), a),
        ];
        expect![[r#"
            table inet longshore-test
            delete table inet longshore-test
            table inet longshore-test {
            	map published_tcp {
            		type inet_service : ipv4_addr . inet_service
            		elements = {
            			8080 : 10.88.0.2 . 80,
            			8081 : 10.88.0.3 . 80,
            		}
            	}
            	map published_udp {
            		type inet_service : ipv4_addr . inet_service
            		elements = {
            			53 : 10.88.0.2 . 5353,
            		}
            	}
            	# route_localnet opens the bridge for 127.0.0.0/8; nothing but loopback may use it (CVE-2020-8558).
            	chain guard_loopback {
            		type filter hook prerouting priority raw; policy accept;
            		iifname != "lo" ip daddr 127.0.0.0/8 drop
            		iifname "lst" ip saddr 127.0.0.0/8 drop
            	}
            	chain publish {
            		dnat ip to tcp dport map @published_tcp
            		dnat ip to udp dport map @published_udp
            	}
            	chain from_outside {
            		type nat hook prerouting priority dstnat; policy accept;
            		meta nfproto ipv4 fib daddr type local jump publish
            	}
            	chain from_host {
            		type nat hook output priority -100; policy accept;
            		meta nfproto ipv4 fib daddr type local jump publish
            	}
            	# Published ports are the only way in; another bridge's containers are outside too.
            	chain forward {
            		type filter hook forward priority filter; policy accept;
            		iifname "lst" accept
            		oifname "lst" ct state established,related accept
            		oifname "lst" ct status dnat accept
            		oifname "lst" drop
            	}
            	chain leave {
            		type nat hook postrouting priority srcnat; policy accept;
            		ip saddr 10.88.0.0/24 oifname != "lst" masquerade
            		# The answer must come back through the host, which knows the translation.
            		oifname "lst" ip saddr 10.88.0.0/24 ct status dnat masquerade
            		oifname "lst" ip saddr 127.0.0.0/8 masquerade
            	}
            }
        "#]]
        .assert_eq(&rules(&published));
    }

    #[test]
    fn without_ports_the_maps_are_empty_and_the_guards_stand() {
        let text = rules(&[]);
        assert!(!text.contains("elements"));
        assert!(text.contains("iifname != \"lo\" ip daddr 127.0.0.0/8 drop"));
    }
}
