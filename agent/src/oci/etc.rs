//! The three files of /etc that say who and where a container is: `hosts`, `hostname`,
//! `resolv.conf`. Their content only; the create effect writes them.

use std::net::IpAddr;

use longshore_engine::NetworkMode;
use longshore_network::Attachment;

/// The host's own files, as far as containers inherit them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostFiles {
    pub(crate) hosts: String,
    pub(crate) resolv_conf: String,
}

/// What to write for one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EtcFiles {
    pub(crate) hosts: String,
    pub(crate) hostname: String,
    pub(crate) resolv_conf: String,
}

impl EtcFiles {
    /// The files of a container called `hostname`. `attachment` is None in mode host.
    pub(crate) fn compose(
        mode: NetworkMode,
        hostname: &str,
        attachment: Option<&Attachment>,
        host: &HostFiles,
    ) -> EtcFiles {
        let (hosts, resolv_conf) = match mode {
            NetworkMode::Host => (host.hosts.clone(), host.resolv_conf.clone()),
            NetworkMode::None => (own_hosts(hostname, None), no_resolver("network mode none")),
            NetworkMode::Bridge => (
                own_hosts(hostname, attachment),
                reachable(&host.resolv_conf),
            ),
        };
        EtcFiles {
            hosts,
            hostname: format!("{hostname}\n"),
            resolv_conf,
        }
    }
}

fn own_hosts(hostname: &str, attachment: Option<&Attachment>) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    let address = attachment
        .and_then(|a| a.address)
        .map_or("127.0.0.1".to_owned(), |address| address.to_string());
    text.push_str(&format!("{address}\t{hostname}\n"));
    text
}

fn no_resolver(why: &str) -> String {
    format!("# No name server: {why}.\n")
}

/// The host's file without name servers on the host's loopback, which a container cannot reach.
/// No public server takes their place: what a container asks is its owner's business.
fn reachable(resolv_conf: &str) -> String {
    let is_loopback_server = |line: &str| {
        let mut words = line.split_whitespace();
        words.next() == Some("nameserver")
            && words
                .next()
                .and_then(|word| word.split('%').next())
                .and_then(|word| word.parse::<IpAddr>().ok())
                .is_some_and(|address| address.is_loopback())
    };
    let kept: Vec<&str> = resolv_conf
        .lines()
        .filter(|line| !is_loopback_server(line))
        .collect();
    if kept.iter().any(|line| line.starts_with("nameserver")) {
        kept.join("\n") + "\n"
    } else {
        no_resolver("the host has only ones on its own loopback, or none")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(mode: NetworkMode, host: &HostFiles, expected: Expect) {
        let attachment = Attachment {
            netns: "/run/longshore/netns/x".into(),
            address: Some("172.31.64.2".parse().unwrap()),
            gateway: Some("172.31.64.1".parse().unwrap()),
            bindings: Vec::new(),
        };
        let files = EtcFiles::compose(mode, "web", Some(&attachment), host);
        let text = format!(
            "{}--\n{}--\n{}",
            files.hosts, files.hostname, files.resolv_conf
        );
        expected.assert_eq(&text);
    }

    #[test]
    fn a_bridged_container_has_its_address_and_the_reachable_servers() {
        let host = HostFiles {
            hosts: "10.0.0.1 secret-of-the-host\n".to_owned(),
            resolv_conf:
                "search lan\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nnameserver ::1%lo\n"
                    .to_owned(),
        };
        check(
            NetworkMode::Bridge,
            &host,
            expect![[r#"
            127.0.0.1	localhost
            ::1	localhost ip6-localhost ip6-loopback
            fe00::	ip6-localnet
            ff00::	ip6-mcastprefix
            ff02::1	ip6-allnodes
            ff02::2	ip6-allrouters
            172.31.64.2	web
            --
            web
            --
            search lan
            nameserver 192.0.2.1
        "#]],
        );
    }

    #[test]
    fn without_a_reachable_server_the_file_says_so() {
        let host = HostFiles {
            resolv_conf: "nameserver 127.0.0.1\n".to_owned(),
            ..HostFiles::default()
        };
        let files = EtcFiles::compose(NetworkMode::Bridge, "web", None, &host);
        expect![[r#"
            # No name server: the host has only ones on its own loopback, or none.
        "#]]
        .assert_eq(&files.resolv_conf);
    }

    #[test]
    fn in_mode_host_the_host_s_files_are_seen() {
        let host = HostFiles {
            hosts: "10.0.0.1 here\n".to_owned(),
            resolv_conf: "nameserver 127.0.0.53\n".to_owned(),
        };
        check(
            NetworkMode::Host,
            &host,
            expect![[r#"
            10.0.0.1 here
            --
            web
            --
            nameserver 127.0.0.53
        "#]],
        );
    }
}
