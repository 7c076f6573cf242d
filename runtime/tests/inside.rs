//! What a program finds inside its container.

mod support;

use serde_json::{Value, json};
use support::{Host, Root};

const STATUS: &str = "grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp):' /proc/self/status";

fn status(host: &Host, change: impl FnOnce(&mut Value)) -> String {
    let (exit, output) = host.run(
        &host.spec(&["/bin/sh", "-c", STATUS], change),
        Root::busybox(),
    );
    assert_eq!(exit.code, 0, "{output}");
    output.replace('\t', " ")
}

#[test]
#[ignore = "needs root"]
fn root_has_exactly_the_capabilities_of_the_spec() {
    let host = Host::new();
    expect_test::expect![[r#"
        Uid: 0 0 0 0
        Gid: 0 0 0 0
        Groups:  
        CapInh: 0000000000000000
        CapPrm: 00000000000004e3
        CapEff: 00000000000004e3
        CapBnd: 00000000000004e3
        CapAmb: 0000000000000000
        NoNewPrivs: 0
        Seccomp: 0
    "#]]
    .assert_eq(&status(&host, |_| {}));
}

#[test]
#[ignore = "needs root"]
fn another_user_has_no_capability_in_force() {
    let host = Host::new();
    let change = |spec: &mut Value| {
        spec["process"]["user"] = json!({"uid": 33, "gid": 34, "additionalGids": [5, 6]});
        spec["process"]["noNewPrivileges"] = json!(true);
    };
    expect_test::expect![[r#"
        Uid: 33 33 33 33
        Gid: 34 34 34 34
        Groups: 5 6 
        CapInh: 0000000000000000
        CapPrm: 0000000000000000
        CapEff: 0000000000000000
        CapBnd: 00000000000004e3
        CapAmb: 0000000000000000
        NoNewPrivs: 1
        Seccomp: 0
    "#]]
    .assert_eq(&status(&host, change));
}

#[test]
#[ignore = "needs root"]
fn ambient_capabilities_reach_another_user() {
    let host = Host::new();
    let change = |spec: &mut Value| {
        spec["process"]["user"] = json!({"uid": 33, "gid": 33});
        let sets = &mut spec["process"]["capabilities"];
        sets["inheritable"] = json!(["CAP_NET_BIND_SERVICE"]);
        sets["ambient"] = json!(["CAP_NET_BIND_SERVICE"]);
    };
    let status = status(&host, change);
    assert!(
        status.contains("CapEff: 0000000000000400") && status.contains("CapAmb: 0000000000000400"),
        "{status}"
    );
}

#[test]
#[ignore = "needs root"]
fn a_spec_without_capabilities_gives_none() {
    let host = Host::new();
    let change = |spec: &mut Value| {
        drop(
            spec["process"]
                .as_object_mut()
                .unwrap()
                .remove("capabilities"),
        )
    };
    let status = status(&host, change);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(
            status.contains(&format!("{set}: 0000000000000000")),
            "{status}"
        );
    }
}

/// The default profile, which must let init do what it does after loading it.
#[test]
#[ignore = "needs root"]
fn the_default_seccomp_profile_is_in_force_for_root_and_others() {
    let host = Host::new();
    let profile =
        serde_json::to_value(longshore_runtime::seccomp::default_profile(&["CAP_CHOWN"])).unwrap();
    for (uid, no_new_privileges) in [(0, false), (0, true), (33, false), (33, true)] {
        let change = |spec: &mut Value| {
            spec["process"]["user"] = json!({"uid": uid, "gid": uid});
            spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
            spec["linux"]["seccomp"] = profile.clone();
        };
        let args = [
            "/bin/sh",
            "-c",
            "grep Seccomp: /proc/self/status; mount -t tmpfs x /tmp",
        ];
        let (exit, output) = host.run(&host.spec(&args, change), Root::busybox());
        assert!(
            exit.code != 0 && output.contains("Seccomp:\t2"),
            "{uid} {no_new_privileges}: {output}"
        );
    }
}

/// A profile that is older than close_range(2), or thinks little of descriptors, hinders the program alone.
#[test]
#[ignore = "needs root"]
fn a_seccomp_profile_need_not_allow_what_only_init_does() {
    let host = Host::new();
    let names = [
        "close_range",
        "dup3",
        "fcntl",
        "recvmsg",
        "recvfrom",
        "accept4",
        "faccessat2",
        "openat2",
        "setresuid",
        "setgroups",
    ];
    for no_new_privileges in [false, true] {
        let spec = host.spec(&["/bin/true"], |spec| {
            spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
            spec["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
            });
        });
        let (exit, output) = host.run(&spec, Root::busybox());
        assert_eq!(exit.code, 0, "{no_new_privileges}: {output}");
    }
}

#[test]
#[ignore = "needs root"]
fn environment_directory_home_umask_and_arguments() {
    let host = Host::new();
    let script = "env; pwd; umask; hostname; cat /proc/sys/kernel/domainname; echo \"$0 $1\"";
    let spec = host.spec(&["/bin/sh", "-c", script, "zero", "one two"], |spec| {
        spec["process"]["env"] = json!(["PATH=/bin", "A=1", "B=x=y", "A=2"]);
        spec["process"]["cwd"] = json!("/made/here");
        spec["process"]["user"] = json!({"uid": 33, "gid": 33, "umask": 0o27});
        spec["domainname"] = json!("domain.of.the.box");
    });
    let (exit, output) = host.run(&spec, Root::busybox());
    assert_eq!(exit.code, 0, "{output}");
    let lines: Vec<&str> = output.lines().collect();
    for line in [
        "PATH=/bin",
        "A=2",
        "B=x=y",
        "HOME=/srv/web",
        "/made/here",
        "0027",
        "box",
        "domain.of.the.box",
        "zero one two",
    ] {
        assert!(lines.contains(&line), "{line} in {output}");
    }
    assert!(
        !output.contains("A=1") && !output.contains("CARGO"),
        "{output}"
    );
}

#[test]
#[ignore = "needs root"]
fn only_standard_descriptors_are_open() {
    let host = Host::new();
    let (_, output) = host.shell("ls /proc/1/fd; readlink /proc/1/fd/0");
    assert_eq!(output, "0\n1\n2\n/dev/null\n");
}

#[test]
#[ignore = "needs root"]
fn another_user_can_open_its_output_again() {
    let host = Host::new();
    let spec = host.spec(
        &[
            "/bin/sh",
            "-c",
            "echo again > /dev/stdout; echo err > /dev/stderr",
        ],
        |spec| {
            spec["process"]["user"] = json!({"uid": 33, "gid": 33});
        },
    );
    let (exit, output) = host.run(&spec, Root::busybox());
    assert_eq!((exit.code, output.as_str()), (0, "again\nerr\n"));
}

#[test]
#[ignore = "needs root"]
fn every_namespace_is_its_own() {
    let host = Host::new();
    let (_, output) = host.shell("for n in cgroup ipc mnt net pid uts; do readlink /proc/self/ns/$n; done; echo $$; ls /proc");
    for name in ["cgroup", "ipc", "mnt", "net", "pid", "uts"] {
        let ours = std::fs::read_link(format!("/proc/thread-self/ns/{name}")).unwrap();
        let ours = ours.to_str().unwrap();
        assert!(
            output.contains(&format!("{name}:[")) && !output.contains(ours),
            "{name}: {output}"
        );
    }
    assert!(output.contains("\n1\n"), "{output}");
}

#[test]
#[ignore = "needs root"]
fn loopback_is_up_in_a_new_network_namespace() {
    let host = Host::new();
    let (_, output) = host.shell("ip -o addr");
    assert!(
        output.contains("127.0.0.1/8") && output.lines().all(|line| line.contains(" lo ")),
        "{output}"
    );
}

#[test]
#[ignore = "needs root"]
fn a_network_namespace_is_joined_by_its_path() {
    let host = Host::new();
    let path = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        std::fs::File::open("/proc/thread-self/ns/net").unwrap()
    });
    let namespace = path.join().unwrap();
    use std::os::fd::AsRawFd;
    let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
    let expected = std::fs::read_link(&path).unwrap();
    let spec = host.spec(&["/bin/readlink", "/proc/self/ns/net"], |spec| {
        spec["linux"]["namespaces"][1] = json!({"type": "network", "path": path});
    });
    let (exit, output) = host.run(&spec, Root::busybox());
    assert_eq!((exit.code, output.trim()), (0, expected.to_str().unwrap()));
    let spec = host.spec(&["/bin/true"], |spec| {
        spec["linux"]["namespaces"][1] = json!({"type": "ipc", "path": path});
        spec["linux"]["namespaces"][2] = json!({"type": "network"});
    });
    let error = host.create(&spec, Root::busybox()).unwrap_err();
    assert_eq!(
        (error.step.as_str(), error.errno),
        ("join namespace", Some(libc::EINVAL))
    );
    host.assert_nothing_left();
}

#[test]
#[ignore = "needs root"]
fn masked_paths_are_empty_and_read_only_paths_refuse() {
    let host = Host::new();
    let (_, output) = host.shell(
        "exec 2>&1; cat /proc/keys /proc/timer_list | wc -c; ls /sys/firmware | wc -l; \
         echo x > /proc/sys/kernel/hostname; echo x > /proc/bus/x; touch /sys/firmware/x; \
         grep -c -E ' /(proc/(keys|timer_list)|sys/firmware) ' /proc/self/mountinfo",
    );
    let lines: Vec<&str> = output.lines().collect();
    assert!(lines.starts_with(&["0", "0"]), "{output}");
    assert_eq!(
        output.matches("Read-only file system").count(),
        2,
        "{output}"
    );
}

/// Its mode and owner are asked to become what they are: were it allowed, the test would still do no harm.
#[test]
#[ignore = "needs root"]
fn the_host_s_null_device_cannot_be_given_another_mode_or_owner() {
    let host = Host::new();
    // One pipe for both streams: who reads two may read either first.
    let script = "exec 2>&1; for file in /proc/self/fd/0 /proc/keys /proc/timer_list; do \
         /bin/busybox chmod 666 $file; /bin/busybox chown 0:0 $file; done; \
         echo x > /proc/self/fd/0 && cat /proc/self/fd/0 && echo works";
    let refusals = |output: &str| output.matches("Read-only file system").count();
    let (_, output) = host.shell(&format!(
        "{script}; stat -Lc %d /proc/self/fd/0; stat -c %d /dev/null"
    ));
    assert_eq!(refusals(&output), 4, "{output}");
    let [.., works, input, own] = output.lines().collect::<Vec<_>>()[..] else {
        panic!("{output}");
    };
    assert_eq!((works, input), ("works", own), "{output}");

    let without_dev = host.spec(&["/bin/sh", "-c", script], |spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| mount["destination"] == "/proc");
    });
    // The log goes on where the first run's ended.
    let (exit, output) = host.run(&without_dev, Root::busybox());
    assert_eq!((exit.code, refusals(&output)), (0, 4 + 6), "{output}");
}

#[test]
#[ignore = "needs root"]
fn a_read_only_root_refuses_and_its_mounts_do_not() {
    let host = Host::new();
    let script = "touch /x; touch /tmp/x; touch /dev/shm/x /data/x && echo written";
    let data = tempfile::tempdir().unwrap();
    let spec = host.spec(&["/bin/sh", "-c", script], |spec| {
        spec["root"]["readonly"] = json!(true);
        let bind = json!({"destination": "/data", "type": "bind", "source": data.path(), "options": ["rbind", "rw"]});
        spec["mounts"].as_array_mut().unwrap().push(bind);
    });
    let (_, output) = host.run(&spec, Root::busybox());
    assert_eq!(
        output.matches("Read-only file system").count(),
        2,
        "{output}"
    );
    assert!(output.contains("written") && data.path().join("x").exists());
}

#[test]
#[ignore = "needs root"]
fn binds_of_directories_and_files_may_be_read_only() {
    let host = Host::new();
    let data = tempfile::tempdir().unwrap();
    std::fs::write(data.path().join("file"), "from the host\n").unwrap();
    let spec = host.spec(&["/bin/sh", "-c", "cat /a/b/file /etc/one; echo x > /etc/one; touch /a/b/x"], |spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.push(json!({"destination": "/a/b", "source": data.path(), "options": ["bind", "ro"]}));
        mounts.push(json!({"destination": "/etc/one", "source": data.path().join("file"), "options": ["bind", "ro"]}));
    });
    let (_, output) = host.run(&spec, Root::busybox());
    assert_eq!(output.matches("from the host").count(), 2, "{output}");
    assert_eq!(
        output.matches("Read-only file system").count(),
        2,
        "{output}"
    );
    let missing = host.spec(&["/bin/true"], |spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.push(
            json!({"destination": "/a", "source": "/no/such/directory", "options": ["bind"]}),
        );
    });
    let error = host.create(&missing, Root::busybox()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "open bind source /no/such/directory: No such file or directory (os error 2)"
    );
}

#[test]
#[ignore = "needs root"]
fn default_devices_and_links_are_there_and_work() {
    let host = Host::new();
    let (exit, output) = host.shell(
        "cd /dev; stat -c '%n %a %t:%T %F' null zero full random urandom tty; for link in ptmx fd stdin; do readlink $link; done; \
         head -c 4 /dev/zero | wc -c; echo x > /dev/null; ls /dev/pts",
    );
    assert_eq!(exit.code, 0, "{output}");
    for (name, number) in [
        ("null", "1:3"),
        ("zero", "1:5"),
        ("full", "1:7"),
        ("random", "1:8"),
        ("urandom", "1:9"),
        ("tty", "5:0"),
    ] {
        assert!(
            output.contains(&format!("{name} 666 {number} character special file")),
            "{output}"
        );
    }
    assert!(
        output.contains("pts/ptmx\n/proc/self/fd\n/proc/self/fd/0"),
        "{output}"
    );
}

#[test]
#[ignore = "needs root"]
fn limits_and_oom_score_are_set() {
    let host = Host::new();
    let spec = host.spec(
        &[
            "/bin/sh",
            "-c",
            "grep -E 'open files|core file' /proc/self/limits; cat /proc/self/oom_score_adj",
        ],
        |spec| {
            spec["process"]["rlimits"] = json!([
                {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            ]);
            spec["process"]["oomScoreAdj"] = json!(500);
        },
    );
    let (_, output) = host.run(&spec, Root::busybox());
    let words: Vec<&str> = output.split_whitespace().collect();
    assert!(
        words.windows(2).any(|pair| pair == ["100", "200"]) && words.contains(&"500"),
        "{output}"
    );
}

#[test]
#[ignore = "needs root"]
fn the_cgroup_view_is_read_only_and_begins_at_the_container() {
    let host = Host::new();
    let (_, output) = host.shell("cat /proc/self/cgroup; ls /sys/fs/cgroup; touch /sys/fs/cgroup/x; ls -d /sys/fs/cgroup/longshore*");
    assert!(output.contains("Read-only file system"), "{output}");
    assert!(!output.contains(&host.cgroup), "{output}");
}

/// A chroot's directory is no mount point, which pivot_root(2) refuses.
#[test]
#[ignore = "needs root"]
fn an_agent_that_lives_in_a_chroot_runs_containers() {
    support::own_mount_namespace();
    // Kept, and removed one empty directory at a time: with the host's tree bound below it, a recursive
    // removal after a panic would be the end of the host.
    let jail = tempfile::tempdir().unwrap().keep();
    for entry in std::fs::read_dir("/").unwrap().map(Result::unwrap) {
        let place = jail.join(entry.file_name());
        if entry.file_type().unwrap().is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(entry.path()).unwrap(), place).unwrap();
        } else if entry.path().is_dir() {
            std::fs::create_dir(&place).unwrap();
            rustix::mount::mount_bind_recursive(entry.path(), &place).unwrap();
        }
    }
    std::os::unix::fs::chroot(&jail).unwrap();
    std::env::set_current_dir("/").unwrap();
    {
        let host = Host::here();
        let data = tempfile::tempdir().unwrap();
        std::fs::write(data.path().join("file"), "inside the jail\n").unwrap();
        let spec = host.spec(&["/bin/cat", "/data/file"], |spec| {
            let mounts = spec["mounts"].as_array_mut().unwrap();
            mounts
                .push(json!({"destination": "/data", "source": data.path(), "options": ["bind"]}));
        });
        let (exit, output) = host.run(&spec, Root::busybox());
        assert_eq!((exit.code, output.as_str()), (0, "inside the jail\n"));
    }
    // Out of the jail again, its mounts detached, so that its directories can be removed.
    let own = std::fs::File::open("/proc/thread-self/ns/mnt").unwrap();
    nix::sched::setns(own, nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let entries: Vec<_> = std::fs::read_dir(&jail)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let (links, places): (Vec<_>, Vec<_>) = entries
        .iter()
        .partition(|entry| entry.file_type().unwrap().is_symlink());
    // All of them first: the bind of /tmp holds copies of what was bound before it.
    for place in &places {
        rustix::mount::unmount(place.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    }
    for place in &places {
        std::fs::remove_dir(place.path()).unwrap();
    }
    for link in links {
        std::fs::remove_file(link.path()).unwrap();
    }
    std::fs::remove_dir(&jail).unwrap();
}
