//! Dies at each await of attach and release in turn, and looks at what recovery leaves.

#[path = "../tests/world/mod.rs"]
mod world;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::attach::{Host, Wish};
use crate::{Config, Network, PortRequest, Protocol};
use world::{ask_tcp, at, blocking_host, runtime, serve_tcp, traces};

/// Ends with none instead of waiting for the nth time.
struct DieAtWait<F> {
    inner: Pin<Box<F>>,
    waits_left: usize,
}

impl<F: Future> Future for DieAtWait<F> {
    type Output = Option<F::Output>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.inner.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if self.waits_left == 0 => Poll::Ready(None),
            Poll::Pending => {
                self.waits_left -= 1;
                Poll::Pending
            }
        }
    }
}

fn config(root: &Path) -> Config {
    Config {
        run_root: root.join("run"),
        prefix: "lsc".into(),
        table: "longshore-crash".into(),
        subnet: "10.88.0.0/24".parse().unwrap(),
        reserved_ports: Default::default(),
    }
}

const PORTS: [PortRequest; 2] = [
    PortRequest {
        container_port: 80,
        host_port: Some(8080),
        protocol: Protocol::Tcp,
    },
    PortRequest {
        container_port: 81,
        host_port: None,
        protocol: Protocol::Udp,
    },
];

async fn act(host: &Host, attach: bool) {
    match attach {
        true => drop(
            host.attach("a", Wish::Bridge(PORTS.to_vec()))
                .await
                .unwrap(),
        ),
        false => host.release("a").await.unwrap(),
    }
}

/// One process of the agent that opens, acts and dies at its nth wait; true if it lived to the end.
fn run_and_die(root: &Path, attach: bool, waits: usize) -> bool {
    let runtime = runtime();
    let lived = runtime.block_on(async {
        let network = Network::open(config(root)).await.unwrap();
        let inner = Box::pin(act(&network.host, attach));
        let waits_left = waits;
        DieAtWait { inner, waits_left }.await.is_some()
    });
    // Dropping the runtime waits for the threads that were already at work, as their system calls would
    // end before a process does.
    drop(runtime);
    lived
}

fn recover_by_attach(root: &Path) {
    runtime().block_on(async {
        let network = Network::open(config(root)).await.unwrap();
        let attachment = network.attach_bridge("a", &PORTS).await.unwrap();
        let _server = at(&attachment.netns, || serve_tcp("web", "0.0.0.0:80"));
        assert!(ask_tcp("127.0.0.1".parse().unwrap(), 8080).starts_with("web"));
        assert_eq!(network.attached(), ["a"]);
    });
}

fn recover_by_release(root: &Path) {
    runtime().block_on(async {
        let network = Network::open(config(root)).await.unwrap();
        network.release("a").await.unwrap();
        network.attach_none("b").await.unwrap();
        network.release("b").await.unwrap();
        let left = traces(root);
        assert!(left.iter().all(|l| l == "link lsc"), "{left:?}");
    });
}

#[test]
#[ignore = "needs root"]
fn a_crash_at_any_wait_of_attach_is_completed_or_undone() {
    blocking_host(|root| {
        let mut waits = 0;
        while !run_and_die(&root, true, waits) {
            recover_by_attach(&root);
            recover_by_release(&root);
            let lived = run_and_die(&root, true, waits);
            recover_by_release(&root);
            if lived {
                break;
            }
            waits += 1;
        }
        println!("{waits} waits");
        assert!(waits > 15, "only {waits} waits: the steps were not reached");
    });
}

#[test]
#[ignore = "needs root"]
fn a_crash_at_any_wait_of_release_is_completed_or_undone() {
    blocking_host(|root| {
        let mut waits = 0;
        loop {
            recover_by_attach(&root);
            let lived = run_and_die(&root, false, waits);
            recover_by_attach(&root);
            run_and_die(&root, false, waits);
            recover_by_release(&root);
            if lived {
                break;
            }
            waits += 1;
        }
        println!("{waits} waits");
        assert!(waits > 4, "only {waits} waits: the steps were not reached");
    });
}
