//! Golden plans of AppArmor and SELinux labels.

use super::*;

fn labelled() -> Value {
    let mut spec = spec();
    spec["process"]["apparmorProfile"] = json!("web");
    spec["process"]["selinuxLabel"] = json!("u:r:t:s0");
    spec["linux"]["mountLabel"] = json!("u:o:f:s0");
    let mounts = spec["mounts"].as_array_mut().unwrap();
    mounts.extend([
        json!({"destination": "/dev/mqueue", "type": "mqueue"}),
        json!({"destination": "/sys", "type": "sysfs"}),
        json!({"destination": "/own", "type": "tmpfs", "options": ["context=u:o:own:s0"]}),
    ]);
    spec
}

fn plan_where_labels_count(spec: Value) -> Plan {
    let host = HostFacts {
        apparmor: true,
        selinux: true,
        ..host()
    };
    Plan::of(&serde_json::from_value(spec).unwrap(), &host).unwrap()
}

#[test]
fn labels_of_a_host_with_both_modules() {
    let plan = plan_where_labels_count(labelled());
    expect_test::expect![[r#"
        clone pid mount uts ipc
        open host proc
        label SelinuxKeyCreate u:r:t:s0
        new session keyring
        label SelinuxKeyCreate
        label AppArmorExec web
        label SelinuxExec u:r:t:s0
        pivot root, rprivate
        attach #0, mount proc /proc rw,nosuid,nodev,noexec private, no symlink
        attach #1, mount tmpfs /dev rw,nosuid,strictatime private mode=755 context=u:o:f:s0
        mount cgroup /sys/fs/cgroup ro,nosuid,nodev,noexec [cpu,cpuacct name=systemd]
        attach #3, mount mqueue /dev/mqueue rw private, its top labelled u:o:f:s0
        attach #4, mount sysfs /sys rw private, no symlink
        attach #5, mount tmpfs /own rw private context=u:o:own:s0
        execute ["web", "--port", "80"] with PATH TOKEN"#]]
    .assert_eq(&lines(
        &plan,
        &[
            "host proc",
            "label",
            "keyring",
            "hooks",
            "pivot",
            "mount ",
            "execute",
        ],
    ));
    assert!(plan.warnings.len() == 1, "{:?}", plan.warnings);
}

/// A program's label takes effect at the next execve, and a hook of init's is one.
#[test]
fn labels_of_the_program_come_after_the_last_hook_of_the_creation() {
    let mut spec = labelled();
    let hook = json!([{"path": "/hook"}]);
    spec["hooks"] = json!({"createContainer": hook, "startContainer": hook});
    let namespaces = json!([{"type": "mount"}, {"type": "user", "path": "/proc/7/ns/user"}]);
    spec["linux"]["namespaces"] = namespaces;
    spec.as_object_mut().unwrap().remove("hostname");
    spec["mounts"] = json!([{"destination": "/t", "type": "tmpfs"}]);
    let plan = plan_where_labels_count(spec);
    expect_test::expect![[r#"
        stage: enter cgroup
        stage: open host proc
        stage: join user /proc/7/ns/user
        label SelinuxKeyCreate u:r:t:s0
        new session keyring
        label SelinuxKeyCreate
        mount tmpfs /t rw private context=u:o:f:s0
        createContainer hooks /hook ["/hook"] with []
        label AppArmorExec web
        label SelinuxExec u:r:t:s0
        pivot root, rprivate
        await start
        startContainer hooks /hook ["/hook"] with [PATH TOKEN]
        execute ["web", "--port", "80"] with PATH TOKEN"#]]
    .assert_eq(&lines(
        &plan,
        &[
            "host proc",
            "label",
            "keyring",
            "hooks",
            "pivot",
            "mount ",
            "join",
            "execute",
            "await",
            "enter cgroup",
        ],
    ));
}

#[test]
fn labels_that_nobody_enforces_are_a_warning_or_refused() {
    let plan = plan(|spec| {
        spec["process"]["apparmorProfile"] = json!("web");
        spec["linux"]["mountLabel"] = json!("u:o:f:s0");
    })
    .unwrap();
    expect_test::expect![[r#"
        warning: SELinux mount label `u:o:f:s0` is not in force: this host has no SELinux
        warning: AppArmor profile `web` is not in force: this host has no AppArmor"#]]
    .assert_eq(&lines(&plan, &["label", "profile", "keyring "]));
    let unconfined = super::plan(|spec| {
        spec["process"]["apparmorProfile"] = json!("unconfined");
    });
    assert!(!unconfined.unwrap().to_string().contains("AppArmor"));
    let refused = refusal(|spec| spec["process"]["selinuxLabel"] = json!("u:r:t:s0"));
    assert!(
        refused.contains("`u:r:t:s0`: this host has no SELinux"),
        "{refused}"
    );
    assert!(
        refusal(|spec| spec["process"]["apparmorProfile"] = json!("a\nexec b"))
            .contains("no label")
    );
}
