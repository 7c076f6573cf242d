//! Golden plans of exec, and what becomes of what is asked for.

use oci_spec::runtime::{Process, Spec};
use serde_json::{Value, json};

use super::*;

fn spec() -> Spec {
    let spec = json!({
        "ociVersion": "1.2.0",
        "root": {"path": "x"},
        "process": {
            "terminal": true,
            "user": {"uid": 33, "gid": 34, "additionalGids": [5], "umask": 63},
            "args": ["web"],
            "env": ["PATH=/bin", "TOKEN=hunter2"],
            "cwd": "/srv",
            "noNewPrivileges": true,
            "oomScoreAdj": 100,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096}],
            "capabilities": {
                "bounding": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"],
            },
        },
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network", "path": "/run/netns/t1"}],
            "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
        },
    });
    serde_json::from_value(spec).unwrap()
}

fn host() -> HostFacts {
    HostFacts {
        supported: Vec::new(),
        privileged: true,
        uid: 0,
        gid: 0,
        bounding: ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
            .map(str::to_owned)
            .to_vec(),
        ..HostFacts::default()
    }
}

fn cgroup() -> Location {
    Location::Path {
        path: "longshore/t1/c1".into(),
        optional: false,
    }
}

fn process(asked: Asked) -> (Process, Vec<String>) {
    asked.process(spec().process().as_ref()).unwrap()
}

fn plan(asked: Asked) -> String {
    let (process, _) = process(asked);
    let plan = Plan::of_exec(&spec(), &process, &cgroup(), &host());
    plan.unwrap().to_string()
}

fn asked(args: &[&str]) -> Asked {
    Asked {
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        ..Default::default()
    }
}

fn given(value: Value) -> Asked {
    Asked {
        process: Some(serde_json::from_value(value).unwrap()),
        ..Default::default()
    }
}

/// Opened before the container's /proc could be another's, written when nothing but the program is executed any more.
#[test]
fn labels_of_a_host_with_both_modules() {
    let process = json!({"args": ["web"], "cwd": "/", "user": {"uid": 0, "gid": 0},
        "apparmorProfile": "web", "selinuxLabel": "u:r:t:s0"});
    let host = HostFacts {
        apparmor: true,
        selinux: true,
        ..host()
    };
    let (process, _) = self::process(given(process));
    let plan = Plan::of_exec(&spec(), &process, &cgroup(), &host).unwrap();
    expect_test::expect![[r#"
        cgroup longshore/t1/c1
        stage: undumpable
        stage: enter cgroup
        stage: affinity to every CPU
        stage: open host proc
        stage: oom score adjustment 100
        stage: join container's pid mount network
        clone 
          open root
          label SelinuxKeyCreate u:r:t:s0
          new session keyring
          label SelinuxKeyCreate 
          enter directory /
          label AppArmorExec web
          label SelinuxExec u:r:t:s0
          home of 0
          RLIMIT_NOFILE 1024 4096
          bounding CHOWN KILL
          user 0 group 0 groups []
          umask 077
          find web in /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
          effective CHOWN, permitted CHOWN, inheritable none, ambient none
          no new privileges
          await start
          seccomp filter, flags 0x4
          execute ["web"] with 
    "#]]
    .assert_eq(&plan.to_string());
}

/// What that user namespace forbids is done before it is joined.
#[test]
fn in_a_container_with_a_user_namespace() {
    let mut spec = serde_json::to_value(spec()).unwrap();
    let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({"type": "user"}));
    let spec: Spec = serde_json::from_value(spec).unwrap();
    let (process, _) = process(asked(&["ls"]));
    let plan = Plan::of_exec(&spec, &process, &cgroup(), &host()).unwrap();
    let text = plan.to_string();
    let stage: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("stage"))
        .collect();
    expect_test::expect![[r#"
        stage: undumpable
        stage: enter cgroup
        stage: affinity to every CPU
        stage: open host proc
        stage: oom score adjustment 100
        stage: room for RLIMIT_NOFILE 4096
        stage: leave all groups
        stage: join container's pid mount network user
        stage: become root of the user namespace
        stage: undumpable"#]]
    .assert_eq(&stage.join("\n"));
}

#[test]
fn what_is_not_said_is_the_containers() {
    expect_test::expect![[r#"
        cgroup longshore/t1/c1
        stage: undumpable
        stage: enter cgroup
        stage: affinity to every CPU
        stage: open host proc
        stage: oom score adjustment 100
        stage: join container's pid mount network
        clone 
          open root
          new session keyring
          enter directory /srv
          home of 33
          RLIMIT_NOFILE 1024 4096
          bounding CHOWN KILL
          user 33 group 34 groups [5]
          umask 077
          find ls in /bin
          effective CHOWN, permitted CHOWN, inheritable none, ambient none
          no new privileges
          await start
          seccomp filter, flags 0x4
          execute ["ls", "-l"] with PATH TOKEN
    "#]]
    .assert_eq(&plan(asked(&["ls", "-l"])));
}

#[test]
fn all_that_can_be_said() {
    let asked = Asked {
        environment: vec!["TOKEN=other".into(), "MORE=1".into()],
        cwd: Some("/tmp".into()),
        user: Some("7:8".parse().unwrap()),
        groups: vec![9, 10],
        capabilities: vec!["CAP_NET_BIND_SERVICE".into(), "kill".into()],
        terminal: true,
        no_new_privileges: Some(false),
        ..asked(&["id"])
    };
    expect_test::expect![[r#"
        cgroup longshore/t1/c1
        stage: undumpable
        stage: enter cgroup
        stage: affinity to every CPU
        stage: open host proc
        stage: oom score adjustment 100
        stage: join container's pid mount network
        clone 
          open root
          new session keyring
          terminal of 7
          enter directory /tmp
          home of 7
          RLIMIT_NOFILE 1024 4096
          bounding CHOWN KILL NET_BIND_SERVICE
          user 7 group 8 groups [9, 10]
          umask 077
          find id in /bin
          effective CHOWN KILL NET_BIND_SERVICE, permitted CHOWN KILL NET_BIND_SERVICE, inheritable none, ambient none
          await start
          seccomp filter, flags 0x4
          effective CHOWN KILL NET_BIND_SERVICE, permitted CHOWN KILL NET_BIND_SERVICE, inheritable none, ambient none
          execute ["id"] with PATH TOKEN MORE
    "#]].assert_eq(&plan(asked));
}

#[test]
fn another_user_has_none_of_the_containers_groups() {
    let user = |asked: Asked| {
        let (process, _) = process(asked);
        let user = process.user().clone();
        (user.uid(), user.gid(), user.additional_gids().clone())
    };
    assert_eq!(user(asked(&["id"])), (33, 34, Some(vec![5])));
    let other = Asked {
        user: Some("7".parse().unwrap()),
        ..asked(&["id"])
    };
    assert_eq!(user(other), (7, 34, None));
}

#[test]
fn added_capabilities_are_never_inheritable() {
    let (process, warnings) = process(Asked {
        capabilities: vec!["CAP_KILL".into(), "CAP_TELEPORT".into()],
        ..asked(&["id"])
    });
    let sets = process.capabilities().clone().unwrap();
    let has = |set: &Option<std::collections::HashSet<_>>| {
        set.iter()
            .flatten()
            .any(|one| *one == oci_spec::runtime::Capability::Kill)
    };
    assert!(has(sets.bounding()) && has(sets.effective()) && has(sets.permitted()));
    assert!(!has(sets.inheritable()) && !has(sets.ambient()));
    assert_eq!(warnings, ["CAP_TELEPORT is not a capability: ignored"]);
}

#[test]
fn a_process_that_was_given_whole_keeps_the_containers_restrictions() {
    let bare = json!({"user": {"uid": 0, "gid": 0}, "args": ["id"], "cwd": "/", "env": ["A=1"]});
    let (process, _) = process(given(bare));
    assert_eq!(process.no_new_privileges(), Some(true));
    assert_eq!(process.oom_score_adj(), Some(100));
    assert_eq!(process.user().umask(), Some(0o77));
    assert_eq!(process.terminal(), None);
    assert_eq!(
        process.env(),
        &Some(vec!["A=1".to_owned()]),
        "and nothing of its environment"
    );
    assert_eq!(
        process.capabilities(),
        spec().process().as_ref().unwrap().capabilities()
    );
}

#[test]
fn what_cannot_be_is_refused() {
    let refused = |asked: Asked, container: Option<&Process>| {
        let process = asked.process(container).map_err(|error| error.to_string());
        let (process, _) = match process {
            Ok(process) => process,
            Err(refusal) => return refusal,
        };
        let plan = Plan::of_exec(&spec(), &process, &cgroup(), &host());
        plan.map(|plan| plan.to_string()).unwrap_err().to_string()
    };
    let container = spec().process().clone();
    let container = container.as_ref();
    assert!(refused(asked(&[]), container).contains("no program to run"));
    assert!(refused(asked(&["id"]), None).contains("give one with --process"));
    let relative = Asked {
        cwd: Some("tmp".into()),
        ..asked(&["id"])
    };
    assert!(refused(relative, container).contains("absolute"));
    let wide = json!({"terminal": true, "consoleSize": {"height": 70000, "width": 1}, "user": {},
        "args": ["id"], "cwd": "/"});
    assert!(refused(given(wide), container).contains("65535"));
    let profile = || Asked {
        apparmor_profile: Some("other".into()),
        ..asked(&["id"])
    };
    assert!(refused(profile(), container).contains("this host has no AppArmor"));
    let label = Asked {
        selinux_label: Some("u:r:t:s0".into()),
        ..asked(&["id"])
    };
    assert!(refused(label, container).contains("this host has no SELinux"));
}

#[test]
fn no_secret_is_shown() {
    let asked = Asked {
        environment: vec!["KEY=hunter3".into()],
        ..asked(&["id"])
    };
    assert!(!format!("{asked:?}").contains("hunter3"));
    assert!(!plan(asked).contains("hunter"));
}
