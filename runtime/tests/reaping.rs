//! The agent has nothing to reap but what it waits for itself: a test file of its own, so that every child is this test's.

mod support;

use support::{Host, Root};

#[test]
#[ignore = "needs root"]
fn no_zombie_is_left_to_the_agent() {
    let host = Host::new();
    let container = host
        .create(&host.spec(&["/bin/sleep", "1000"], |_| {}), Root::busybox())
        .unwrap();
    container.start().unwrap();
    assert_eq!(children(), 1, "the nursery; no monitor is this process's");
    container.delete().unwrap();
    assert_eq!(children(), 1, "the nursery");
    drop(host);
    assert_eq!(children(), 0, "the nursery ends with the agent's side");
}

fn children() -> usize {
    let own = std::process::id().to_string();
    let parent = |stat: &str| {
        stat.rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1).map(str::to_owned))
    };
    let stats = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| std::fs::read_to_string(entry.unwrap().path().join("stat")).ok());
    stats
        .filter(|stat| parent(stat).as_deref() == Some(own.as_str()))
        .count()
}
