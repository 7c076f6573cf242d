//! Any spec planned on two hosts: a plan or a refusal, never a panic; the same twice; ending in the program; and as a
//! text without the values of environment variables.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use longshore_runtime::plan::{HostFacts, Plan, Step};
use longshore_runtime::spec::spec_of;

/// A value that is worth looking for: seeds and dictionary have it in environment variables.
const SECRET: &str = "s3cr3t";

static HOSTS: LazyLock<[HostFacts; 2]> = LazyLock::new(|| {
    let names = ["CAP_CHOWN", "CAP_KILL", "CAP_SYS_ADMIN", "CAP_NET_BIND_SERVICE"].map(str::to_owned);
    let rooted = HostFacts {
        bounding: names.to_vec(),
        supported: names.to_vec(),
        v1_hierarchies: ["cpu,cpuacct", "memory", "name=systemd"].map(str::to_owned).to_vec(),
        apparmor: true,
        selinux: true,
        privileged: true,
        ..HostFacts::default()
    };
    let rootless = HostFacts { supported: names.to_vec(), uid: 1000, gid: 1000, ..HostFacts::default() };
    [rooted, rootless]
});

fuzz_target!(|text: &[u8]| {
    let Ok((spec, _)) = spec_of(text, "config.json") else { return };
    for host in HOSTS.iter() {
        let planned = Plan::of(&spec, host);
        let again = Plan::of(&spec, host);
        let plan = match (planned, again) {
            (Ok(plan), Ok(again)) => {
                assert_eq!(plan, again);
                plan
            }
            (Err(refusal), Err(_)) => {
                assert!(!refusal.cause.is_empty(), "{refusal:?}");
                continue;
            }
            (one, other) => panic!("planned once: {one:?}, twice: {other:?}"),
        };
        assert!(matches!(plan.steps.last(), None | Some(Step::Execute { .. })), "{:?}", plan.steps.last());
        let words = plan.to_string();
        let in_environment = |entry: &String| entry.split_once('=').is_some_and(|(_, value)| value == SECRET);
        let hidden = spec.process().as_ref().and_then(|process| process.env().clone()).unwrap_or_default();
        if hidden.iter().any(in_environment) && text.windows(SECRET.len()).filter(|at| *at == SECRET.as_bytes()).count() == 1 {
            assert!(!words.contains(SECRET), "{words}");
        }
        let wire = serde_json::to_vec(&plan).expect("a plan can be sent");
        assert_eq!(plan, serde_json::from_slice(&wire).expect("a plan can be received"));
    }
});
