//! Golden plans of user namespaces, stages and joined namespaces.

use super::*;

/// In a namespace that is joined with its mounts, /proc is whatever was mounted there.
#[test]
fn the_hosts_proc_is_opened_before_users_and_mounts_are_joined() {
    let plan = plan(|spec| {
        spec["process"]["oomScoreAdj"] = json!(null);
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces[1]["path"] = json!("/proc/7/ns/mnt");
        namespaces.push(json!({"type": "user", "path": "/proc/7/ns/user"}));
    });
    expect_test::expect![[r#"
        stage: open host proc
        stage: room for RLIMIT_NOFILE unlimited
        stage: leave all groups
        stage: join mount /proc/7/ns/mnt, network /run/netns/t1, user /proc/7/ns/user
        become root of the user namespace"#]]
    .assert_eq(&lines(
        &plan.unwrap(),
        &["host proc", "room", "leave", "join", "become"],
    ));
}

#[test]
fn groups_are_kept_where_the_annotation_asks_for_it() {
    let plan = |value: &str| {
        let plan = plan(|spec| {
            spec["annotations"] = json!({"run.oci.keep_original_groups": value});
            let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.push(json!({"type": "user", "path": "/proc/7/ns/user"}));
        });
        lines(&plan.unwrap(), &["leave", "become", "groups"])
    };
    expect_test::expect![[r#"
        become root of the user namespace, groups kept
        user 33 group 34 groups kept
        warning: run.oci.keep_original_groups: additionalGids are not in force beside it"#]]
    .assert_eq(&plan("1"));
    expect_test::expect![[r#"
        stage: leave all groups
        become root of the user namespace
        user 33 group 34 groups [5]"#]]
    .assert_eq(&plan("0"));
}

fn mapped(spec: &mut Value) {
    let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({"type": "user"}));
    for name in ["uidMappings", "gidMappings"] {
        spec["linux"][name] = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
    }
}

/// The lines up to the pivot: what is done before, by whom.
fn beginning(plan: &Plan) -> String {
    let text = plan.to_string();
    text.split_inclusive('\n')
        .take_while(|line| !line.contains("isolate mounts"))
        .collect()
}

#[test]
fn a_new_user_namespace_leaves_what_needs_the_host_s_rights_to_the_parent() {
    expect_test::expect![[r#"
        cgroup longshore/t1/c1
        parent: open host null
        parent: open tree #2 /host/data
        parent: make 6 devices
        stage: enter cgroup
        stage: affinity to every CPU
        stage: undumpable
        stage: join network /run/netns/t1
        clone pid mount uts ipc user
        map uids 0=100000+1000, gids 0=100000+1000, written by privilege
        parent: oom score adjustment 100
        parent: room for RLIMIT_NOFILE unlimited
          become root of the user namespace
          undumpable
          new cgroup namespace
          new session keyring
          hostname box
          open file system #0 proc
          open file system #1 tmpfs
    "#]]
    .assert_eq(&beginning(&plan(mapped).unwrap()));
}

#[test]
fn a_stage_does_what_must_be_done_before_init_is_cloned() {
    let staged = |spec: &mut Value| {
        let namespaces = &mut spec["linux"]["namespaces"];
        namespaces[0]["path"] = json!("/proc/7/ns/pid");
        let more = [
            json!({"type": "time"}),
            json!({"type": "user", "path": "/proc/7/ns/user"}),
        ];
        namespaces.as_array_mut().unwrap().extend(more);
        spec["linux"]["timeOffsets"] =
            json!({"monotonic": {"secs": -5, "nanosecs": 6}, "boottime": {}});
    };
    expect_test::expect![[r#"
        cgroup longshore/t1/c1
        parent: open host null
        parent: open tree #2 /host/data
        parent: make 6 devices
        stage: enter cgroup
        stage: affinity to every CPU
        stage: open host proc
        stage: oom score adjustment 100
        stage: room for RLIMIT_NOFILE unlimited
        stage: new time namespace boottime 0 0 monotonic -5 6
        stage: undumpable
        stage: leave all groups
        stage: join pid /proc/7/ns/pid, network /run/netns/t1, user /proc/7/ns/user
        clone mount uts ipc
          become root of the user namespace
          undumpable
          new cgroup namespace
          new session keyring
          hostname box
          open file system #0 proc
          open file system #1 tmpfs
    "#]]
    .assert_eq(&beginning(&plan(staged).unwrap()));
}

#[test]
fn without_privilege_the_user_namespace_comes_first() {
    let mut spec = spec();
    mapped(&mut spec);
    let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["path"].is_null());
    spec["linux"]["gidMappings"] = json!([]);
    spec["process"]["user"] = json!({"uid": 0, "gid": 0});
    namespaces_of(&mut spec).push(json!({"type": "time"}));
    let host = HostFacts {
        privileged: false,
        uid: 1000,
        gid: 1000,
        ..host()
    };
    let plan = |spec: &Value| Plan::of(&serde_json::from_value(spec.clone()).unwrap(), &host);
    expect_test::expect![[r#"
        cgroup longshore/t1/c1
        stage: enter cgroup
        stage: affinity to every CPU
        stage: become root of the user namespace
        stage: new time namespace
        stage: undumpable
        clone pid mount uts ipc user
        map uids 0=100000+1000, gids 0=1000+1, written by newuidmap and newgidmap
        parent: oom score adjustment 100
        parent: room for RLIMIT_NOFILE unlimited
          new cgroup namespace
          new session keyring
          hostname box
          open host null
          open file system #0 proc
          open file system #1 tmpfs
          open tree #2 /host/data
          open device /dev/null c 1:3 0666 0:0
          open device /dev/zero c 1:5 0666 0:0
          open device /dev/full c 1:7 0666 0:0
          open device /dev/random c 1:8 0666 0:0
          open device /dev/urandom c 1:9 0666 0:0
          open device /dev/tty c 5:0 0666 0:0
    "#]]
    .assert_eq(&beginning(&plan(&spec).unwrap()));
    namespaces_of(&mut spec).retain(|namespace| namespace["type"] != "user");
    spec["linux"]["uidMappings"] = json!([]);
    let refusal = plan(&spec).unwrap_err().to_string();
    assert!(refusal.contains("needs a user namespace"), "{refusal}");
}
