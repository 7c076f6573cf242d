//! Each attribute as text, and each refusal.

use oci_spec::runtime::{Linux, Process};
use serde_json::{Value, json};

use super::*;

fn attributes(process: Value, linux: Value) -> Result<String, StepError> {
    let mut whole = json!({"user": {"uid": 0, "gid": 0}, "cwd": "/"});
    whole
        .as_object_mut()
        .unwrap()
        .extend(process.as_object().unwrap().clone());
    let process: Process = serde_json::from_value(whole).unwrap();
    let linux: Linux = serde_json::from_value(linux).unwrap();
    let texts: Vec<String> = of(&linux, &process)?
        .iter()
        .map(Attribute::to_string)
        .collect();
    Ok(texts.join("; "))
}

fn scheduler(scheduler: Value) -> Result<String, StepError> {
    let text = attributes(json!({"scheduler": scheduler}), json!({}))?;
    Ok(text.replace("scheduler ", ""))
}

#[test]
fn nothing_asked_for_changes_nothing() {
    assert_eq!(attributes(json!({}), json!({})).unwrap(), "");
}

#[test]
fn every_attribute_has_its_place() {
    let process = json!({
        "scheduler": {"policy": "SCHED_BATCH", "nice": 5},
        "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 4},
    });
    let linux = json!({
        "personality": {"domain": "LINUX32"},
        "memoryPolicy": {"mode": "MPOL_INTERLEAVE", "nodes": "2-3", "flags": ["MPOL_F_STATIC_NODES"]},
    });
    assert_eq!(
        attributes(process, linux).unwrap(),
        "memory policy MPOL_INTERLEAVE flags 0x8000 nodes 2-3; \
         scheduler SCHED_BATCH nice 5; io priority IOPRIO_CLASS_IDLE 4; personality LINUX32"
    );
}

#[test]
fn every_policy_is_planned_or_refused_with_a_reason() {
    for (policy, text) in [
        ("SCHED_OTHER", "SCHED_OTHER nice 0"),
        ("SCHED_BATCH", "SCHED_BATCH nice 0"),
        ("SCHED_ISO", "SCHED_ISO nice 0"),
        ("SCHED_IDLE", "SCHED_IDLE nice 0"),
    ] {
        assert_eq!(scheduler(json!({"policy": policy})).unwrap(), text);
        let refusal = scheduler(json!({"policy": policy, "priority": 1})).unwrap_err();
        assert!(refusal.cause.contains("only"), "{refusal}");
    }
    for policy in ["SCHED_FIFO", "SCHED_RR"] {
        let text = scheduler(json!({"policy": policy, "priority": 10})).unwrap();
        assert_eq!(text, format!("{policy} priority 10"));
        for priority in [-1, 0, 100] {
            let wanted = json!({"policy": policy, "priority": priority});
            assert!(
                scheduler(wanted)
                    .unwrap_err()
                    .cause
                    .contains("between 1 and 99")
            );
        }
    }
    assert!(scheduler(json!({"policy": "SCHED_OTHER", "nice": 20})).is_err());
    assert!(scheduler(json!({"policy": "SCHED_OTHER", "period": 1})).is_err());
}

#[test]
fn a_deadline_needs_its_numbers_and_their_order() {
    let deadline = |runtime: u64, deadline: u64, period: u64| {
        scheduler(
            json!({"policy": "SCHED_DEADLINE", "runtime": runtime, "deadline": deadline, "period": period}),
        )
    };
    assert_eq!(
        deadline(1024, 2000, 3000).unwrap(),
        "SCHED_DEADLINE 1024/2000/3000 ns"
    );
    assert_eq!(
        deadline(1024, 2000, 0).unwrap(),
        "SCHED_DEADLINE 1024/2000/0 ns"
    );
    for (numbers, words) in [
        (
            (0, 20, 30),
            "sched_setattr: `SCHED_DEADLINE` requires `runtime`",
        ),
        (
            (10, 0, 30),
            "sched_setattr: `SCHED_DEADLINE` requires `deadline`",
        ),
        ((3000, 2000, 3000), "runtime must be <= `deadline`"),
        ((2000, 3000, 2500), "deadline must be <= `period`"),
        ((1023, 2000, 3000), "runtime must be between 1024"),
        ((1 << 63, 1 << 63, 0), "runtime must be between 1024"),
    ] {
        let refusal = deadline(numbers.0, numbers.1, numbers.2)
            .unwrap_err()
            .to_string();
        assert!(refusal.contains(words), "{refusal}");
    }
}

#[test]
fn memory_policies_that_the_kernel_would_refuse_without_a_reason() {
    let policy = |policy: Value| attributes(json!({}), json!({"memoryPolicy": policy}));
    assert!(policy(json!({"mode": "MPOL_LOCAL"})).is_ok());
    assert!(policy(json!({"mode": "MPOL_PREFERRED", "nodes": ""})).is_ok());
    for (wanted, words) in [
        (
            json!({"mode": "MPOL_DEFAULT", "nodes": "0"}),
            "takes no nodes",
        ),
        (json!({"mode": "MPOL_BIND"}), "at least one node"),
        (
            json!({"mode": "MPOL_PREFERRED", "nodes": "bad"}),
            "no number",
        ),
        (
            json!({"mode": "MPOL_PREFERRED", "nodes": "10284838"}),
            "up to 1023",
        ),
    ] {
        let refusal = policy(wanted).unwrap_err();
        assert!(refusal.cause.contains(words), "{refusal}");
    }
}

#[test]
fn personality_flags_and_io_levels_are_checked() {
    let linux = json!({"personality": {"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]}});
    assert!(
        attributes(json!({}), linux)
            .unwrap_err()
            .cause
            .contains("ADDR_NO_RANDOMIZE")
    );
    for level in [-1, 8] {
        let process = json!({"ioPriority": {"class": "IOPRIO_CLASS_RT", "priority": level}});
        assert!(attributes(process, json!({})).is_err());
    }
}

#[test]
fn the_affinity_of_an_exec() {
    let affinity = |affinity: Value| {
        let process =
            json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "execCPUAffinity": affinity});
        of_exec(&serde_json::from_value(process).unwrap())
    };
    let cpus = |cpus: &[u32]| Some(Attribute::Affinity(Some(cpus.to_vec())));
    let every = Some(Attribute::Affinity(None));
    assert_eq!(affinity(json!(null)).unwrap(), (None, every.clone()));
    assert_eq!(affinity(json!({})).unwrap(), (None, every));
    assert_eq!(
        affinity(json!({"initial": "7"})).unwrap(),
        (cpus(&[7]), None)
    );
    let both = affinity(json!({"initial": "7", "final": "0-1,7"})).unwrap();
    assert_eq!(both, (cpus(&[7]), cpus(&[0, 1, 7])));
    assert!(affinity(json!({"final": "3-1"})).is_err());
}
