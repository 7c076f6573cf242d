//! The process that monitors come from is killed, or could not settle: the agent starts another, and no request is lost.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Host, Root, eventually, is_own_child, wait};

fn nursery(host: &Host) -> Option<Pid> {
    let pids = host.group("monitor").processes().unwrap();
    let own = pids.into_iter().find(|pid| is_own_child(*pid));
    own.map(|pid| Pid::from_raw(pid as i32))
}

#[test]
#[ignore = "needs root"]
fn the_nursery_dies_and_nobody_notices() {
    let host = Host::new();
    let script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done";
    let spec = host.spec(&["/bin/sh", "-c", script], |_| {});
    let container = host.create(&spec, Root::busybox()).unwrap();
    let first = nursery(&host).unwrap();
    kill(first, Signal::SIGKILL).unwrap();
    eventually("it is dead", || nursery(&host).is_none());
    container.start().unwrap();
    eventually("the program is ready", || host.output().contains("ready"));
    container.signal(15).unwrap();
    assert_eq!(wait(&container).code, 7);
    container.delete().unwrap();
    let (exit, output) = host.shell("echo again");
    assert_eq!((exit.code, output.contains("again")), (0, true));
    let second = nursery(&host).expect("another nursery");
    assert_ne!(second, first);
}

#[test]
#[ignore = "needs root"]
fn the_nursery_dies_with_a_request_in_its_hands() {
    let host = Host::new();
    let spec = host.spec(&["/bin/true"], |_| {});
    host.create(&spec, Root::busybox())
        .unwrap()
        .delete()
        .unwrap();
    let nursery = nursery(&host).unwrap();
    kill(nursery, Signal::SIGSTOP).unwrap();
    std::thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let (host, spec) = (&host, &spec);
        let asking = scope.spawn(move || {
            tell.send(nix::unistd::gettid()).unwrap();
            host.create(spec, Root::busybox()).unwrap()
        });
        let call = format!("/proc/self/task/{}/syscall", told.recv().unwrap());
        eventually("it has asked and waits for the answer", || {
            let number = format!("{} ", libc::SYS_recvfrom);
            std::fs::read_to_string(&call).is_ok_and(|now| now.starts_with(&number))
        });
        kill(nursery, Signal::SIGKILL).unwrap();
        let container = asking.join().unwrap();
        container.start().unwrap();
        assert_eq!(wait(&container).code, 0);
    });
}

#[test]
#[ignore = "needs root"]
fn a_nursery_that_could_not_settle_is_replaced() {
    let host = Host::new();
    let spec = host.spec(&["/bin/true"], |_| {});
    host.group("monitor").remove().unwrap();
    let refused = host.create(&spec, Root::busybox()).unwrap_err();
    assert!(refused.to_string().contains("/monitor"), "{refused}");
    host.group("monitor").create().unwrap();
    let container = host.create(&spec, Root::busybox()).unwrap();
    container.start().unwrap();
    assert_eq!(wait(&container).code, 0);
}
