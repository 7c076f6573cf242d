//! `exec`: one more process in a running container, and what it must not bring along.

mod support;

use serde_json::json;
use support::cli::{Bundle, ID};
use support::eventually;

#[test]
#[ignore = "needs root"]
fn it_runs_where_the_container_is() {
    let bundle = Bundle::running(|_| {});
    assert_eq!(bundle.exec(&[ID, "echo", "one", "-d"]), "one -d\n");
    assert_eq!(bundle.exec(&[ID, "hostname"]), "box\n");
    let own = format!("/proc/{}/ns", bundle.pid());
    for name in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let of_exec = bundle.exec(&[ID, "readlink", &format!("/proc/self/ns/{name}")]);
        let of_init = std::fs::read_link(format!("{own}/{name}")).unwrap();
        assert_eq!(of_exec.trim(), of_init.to_str().unwrap());
    }
    // Its cgroups are the root of the container's view: of every hierarchy.
    let groups = bundle.exec(&[ID, "cat", "/proc/self/cgroup"]);
    let outside = |line: &&str| !line.ends_with(":/") && !line.starts_with("0::");
    let outside: Vec<&str> = groups.lines().filter(outside).collect();
    assert!(outside.is_empty(), "{groups}");
}

#[test]
#[ignore = "needs root"]
fn its_exit_status_is_the_processs() {
    let bundle = Bundle::running(|_| {});
    let status = |script: &str| bundle.run(&["exec", ID, "sh", "-c", script]).status.code();
    assert_eq!(status("exit 42"), Some(42));
    assert_eq!(status("kill -9 $$"), Some(137));
    assert_eq!(status("exit 1"), Some(1));
    for (args, words) in [
        (&["exec", ID, "no-such-binary"][..], "no-such-binary"),
        (&["exec", "-d", ID, "/not.here"], "/not.here"),
        (&["exec", "nobody", "true"], "nobody"),
        (
            &["exec", "--pid-file", "/no/such/pid", ID, "true"],
            "/no/such/pid",
        ),
        (&["exec", "--cwd", "/missing", ID, "true"], "/missing"),
        (&["exec", "--user", "web", ID, "true"], "web"),
        (&["exec", ID], "no program to run"),
    ] {
        let (status, refusal) = bundle.refusal(args);
        assert_eq!(status, 255, "{refusal}");
        assert!(refusal.contains(words), "{refusal} lacks {words}");
    }
    eventually("nothing of the failures is left", || {
        bundle.group().processes().unwrap() == [bundle.pid()]
    });
}

#[test]
#[ignore = "needs root"]
fn each_option_has_its_effect() {
    let bundle = Bundle::running(|spec| {
        spec["process"]["user"] = json!({"uid": 0, "gid": 0, "additionalGids": [7], "umask": 0o27});
    });
    let exec = |args: &[&str]| bundle.exec(args).trim().to_owned();
    assert_eq!(exec(&["--cwd", "/tmp", ID, "pwd"]), "/tmp");
    assert_eq!(
        exec(&["-e", "A=1", "--env=A=2", ID, "sh", "-c", "echo $A $PATH"]),
        "2 /bin"
    );
    assert_eq!(
        exec(&["--user", "33", ID, "sh", "-c", "echo $HOME"]),
        "/srv/web"
    );
    assert_eq!(
        exec(&[
            "-u",
            "1000:1001",
            "-g",
            "100",
            "--additional-gids",
            "65534",
            ID,
            "id",
            "-G"
        ]),
        "1001 100 65534"
    );
    assert_eq!(
        exec(&[ID, "sh", "-c", "id -u; id -G; umask"]),
        "0\n0 7\n0027"
    );
    let status = |args: &[&str], field: &str| {
        let text = bundle.exec(&[args, &[ID, "cat", "/proc/self/status"]].concat());
        let line = text.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(
        (
            status(&[], "NoNewPrivs"),
            status(&["--no-new-privs"], "NoNewPrivs")
        ),
        ("0".into(), "1".into())
    );
    let raw = 1 << 13;
    let has = |field: &str| {
        let set = status(&["--cap", "CAP_NET_RAW", "-c", "CAP_SYS_CHROOT"], field);
        u64::from_str_radix(&set, 16).unwrap() & raw != 0
    };
    assert!(has("CapEff:") && has("CapPrm:") && has("CapBnd:"));
    let unknown = bundle.run(&["exec", "--cap", "CAP_TELEPORT", ID, "true"]);
    let said = String::from_utf8(unknown.stderr).unwrap();
    assert!(unknown.status.success());
    assert_eq!(said, "warning: CAP_TELEPORT is not a capability: ignored\n");
    // CVE-2022-24769, CVE-2022-29162
    for args in [&[][..], &["--cap", "CAP_NET_RAW"]] {
        assert_eq!(status(args, "CapInh:"), "0000000000000000");
        assert_eq!(status(args, "CapAmb:"), "0000000000000000");
    }
    let process = json!({"user": {"uid": 5, "gid": 6}, "args": ["sh", "-c", "id -u; echo $A; echo $TOKEN"],
        "cwd": "/tmp", "env": ["PATH=/bin", "A=b"]});
    let file = bundle.write("process.json", &process.to_string());
    assert_eq!(exec(&["--process", file.to_str().unwrap(), ID]), "5\nb");
    bundle.exec(&["--pid-file", "pid", ID, "true"]);
    assert!(
        std::fs::read_to_string(bundle.path("pid"))
            .unwrap()
            .parse::<u32>()
            .is_ok()
    );
}

#[test]
#[ignore = "needs root"]
fn a_detached_process_stays_and_keeps_its_standard_output() {
    let bundle = Bundle::running(|_| {});
    let said = bundle.run(&[
        "exec",
        "-d",
        "--pid-file",
        "pid",
        ID,
        "sh",
        "-c",
        "echo here; exec sleep 1000",
    ]);
    assert!(said.status.success() && said.stderr.is_empty());
    let pid: u32 = std::fs::read_to_string(bundle.path("pid"))
        .unwrap()
        .parse()
        .unwrap();
    assert!(bundle.group().processes().unwrap().contains(&pid));
    eventually("its output is in the file that was standard output", || {
        std::fs::read_to_string(bundle.path("stdout")).unwrap() == "here\n"
    });
}

#[test]
#[ignore = "needs root"]
fn only_a_container_that_runs_can_be_joined() {
    let bundle = Bundle::new(|_| {});
    bundle.ok(&["create", ID]);
    assert_eq!(bundle.exec(&[ID, "echo", "created"]), "created\n");
    bundle.ok(&["start", ID]);
    bundle.ok(&["pause", ID]);
    let (_, refusal) = bundle.refusal(&["exec", ID, "true"]);
    assert!(refusal.contains("--ignore-paused"), "{refusal}");
    let mut waits = bundle
        .command(&["exec", "--ignore-paused", ID, "true"])
        .spawn()
        .unwrap();
    eventually("it waits in the frozen group", || {
        bundle.group().processes().unwrap().len() == 2
    });
    bundle.ok(&["resume", ID]);
    assert!(waits.wait().unwrap().success());
    bundle.ok(&["kill", ID, "KILL"]);
    eventually("it has stopped", || {
        bundle.ok(&["state", ID]).contains("\"stopped\"")
    });
    let (_, refusal) = bundle.refusal(&["exec", ID, "true"]);
    assert!(refusal.contains("stopped"), "{refusal}");
}

/// CVE-2019-5736: what a container can reach of this program is a file in a mount that nobody can write to. (A file that
/// is being executed cannot be written to either, but only so long.)
#[test]
#[ignore = "needs root"]
fn the_runtime_binary_cannot_be_overwritten_from_a_container() {
    let sealed = |pid: u32| {
        let mount = rustix::fs::statvfs(format!("/proc/{pid}/exe")).unwrap();
        mount.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY)
    };
    let bundle = Bundle::new(|_| {});
    bundle.ok(&["create", ID]);
    let init = bundle.pid();
    assert!(sealed(init));
    bundle.ok(&["start", ID]);
    bundle.ok(&["pause", ID]);
    let mut waits = bundle
        .command(&["exec", "--ignore-paused", ID, "true"])
        .spawn()
        .unwrap();
    let other = || {
        bundle
            .group()
            .processes()
            .unwrap()
            .into_iter()
            .find(|pid| *pid != init)
    };
    eventually("it waits in the frozen group", || other().is_some());
    assert!(sealed(other().unwrap()));
    bundle.ok(&["resume", ID]);
    assert!(waits.wait().unwrap().success());
}

/// CVE-2024-21626: no descriptor of ours is left that the process could enter or reach out through.
#[test]
#[ignore = "needs root"]
fn no_descriptor_of_the_host_is_left_to_leave_by() {
    let bundle = Bundle::running(|_| {});
    for number in 3..=20 {
        let cwd = format!("/proc/self/fd/{number}");
        let (status, _) = bundle.refusal(&["exec", "--cwd", &cwd, ID, "pwd"]);
        assert_eq!(status, 255);
        let program = format!("/proc/self/fd/{number}");
        let (status, _) = bundle.refusal(&["exec", ID, &program]);
        assert_eq!(status, 255);
    }
    // `ls` itself opens the directory, as 3.
    assert_eq!(bundle.exec(&[ID, "ls", "/proc/self/fd"]), "0\n1\n2\n3\n");
    // What the caller has open and does not give away.
    let exec = bundle.command(&["exec", ID, "ls", "/proc/self/fd"]);
    // Opened by the caller's own shell: what this process had open, other tests would inherit.
    let output = std::process::Command::new("sh")
        .args(["-c", "exec 9<\"$1\"; shift; exec \"$@\"", "sh"])
        .arg(bundle.path("config.json"))
        .arg(exec.get_program())
        .args(exec.get_args())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n1\n2\n3\n");
}

#[test]
#[ignore = "needs root"]
fn a_process_runs_on_the_processors_that_it_is_given() {
    let bundle = Bundle::running(|_| {});
    let process = json!({
        "user": {"uid": 0, "gid": 0},
        "args": ["grep", "Cpus_allowed_list", "/proc/self/status"],
        "cwd": "/",
        "env": ["PATH=/bin"],
        "execCPUAffinity": {"initial": "0", "final": "0"},
    });
    let file = bundle.path("process.json");
    std::fs::write(&file, process.to_string()).unwrap();
    let said = bundle.exec(&["--process", file.to_str().unwrap(), ID]);
    assert_eq!(said, "Cpus_allowed_list:\t0\n");
}

/// CVE-2016-9962: while it is in the container and still this program, nobody there can look into it.
#[test]
#[ignore = "needs root"]
fn nobody_in_the_container_can_look_into_it_before_it_is_theirs() {
    // Root of the container has all that the runtime has here, so that only dumpability is in its way (ptrace(2)): neither
    // has CAP_SYS_PTRACE.
    let bundle = Bundle::running(|spec| {
        let mut all = caps::read(None, caps::CapSet::Bounding).unwrap();
        all.remove(&caps::Capability::CAP_SYS_PTRACE);
        let all: Vec<String> = all.iter().map(ToString::to_string).collect();
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set] = json!(all);
        }
    });
    let exec = || {
        let of_runtime = bundle.command(&["exec", ID, "true"]);
        let mut exec = std::process::Command::new("setpriv");
        exec.arg("--bounding-set=-sys_ptrace")
            .arg(of_runtime.get_program())
            .args(of_runtime.get_args());
        assert!(exec.status().unwrap().success());
    };
    // A process of the container that looks at every other, again and again, for where it leads, and tells which of them it
    // has met while they still had this program's arguments.
    let look = "while :; do for at in /proc/[0-9]*; do case $at in /proc/1|/proc/$$) continue;; esac; \
                read -r line <$at/cmdline; case $line in *longshore-runtime*) echo met $at;; esac; \
                for link in $at/fd/* $at/cwd $at/root; do case $link in */fd/[012]) ;; \
                *) to=$(readlink $link) && case $to in /*) echo $link $to;; esac;; esac; done; done; done 2>/dev/null";
    bundle.ok(&[
        "exec",
        "-d",
        ID,
        "sh",
        "-c",
        &format!("exec > /tmp/seen; {look}"),
    ]);
    let seen = || std::fs::read_to_string(bundle.image("tmp/seen")).unwrap();
    let met = |seen: &str| seen.lines().filter(|line| line.starts_with("met ")).count();
    eventually("it has met 50", || {
        exec();
        met(&seen()) >= 50
    });
    let seen = seen();
    // Of `true`, and of the looker's own children.
    let own = ["cwd /", "root /", "/bin/busybox", " /tmp/seen"];
    let ours =
        |line: &&str| !line.starts_with("met ") && !own.iter().any(|end| line.ends_with(end));
    let ours: Vec<&str> = seen.lines().filter(ours).collect();
    assert!(ours.is_empty(), "{ours:?}");
}

#[test]
#[ignore = "needs root"]
fn only_descriptors_that_are_given_are_kept() {
    let bundle = Bundle::running(|_| {});
    bundle.write("given", "hello\n");
    let program = env!("CARGO_BIN_EXE_longshore-runtime");
    let state = bundle.path("state");
    let shell = |script: &str| {
        let output = std::process::Command::new("/bin/sh")
            .args(["-c", script])
            .env("RUNTIME", program)
            .env("STATE", &state)
            .current_dir(bundle.path(""))
            .output()
            .unwrap();
        (
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let exec = "exec 3</dev/null 4<given 5<given; $RUNTIME --root $STATE exec";
    let (out, err) = shell(&format!("{exec} --preserve-fds 2 c1 cat /proc/self/fd/4"));
    assert_eq!((out.as_str(), err.as_str()), ("hello\n", ""));
    let (out, _) = shell(&format!("{exec} --preserve-fds=2 c1 ls /proc/self/fd"));
    assert_eq!(
        out, "0\n1\n2\n3\n4\n5\n",
        "5 is the directory that ls reads"
    );
    // What is not open leaves its number free, and is said where warnings are.
    let exec = "exec 9<given; $RUNTIME --log log --root $STATE exec";
    let (out, err) = shell(&format!("{exec} --preserve-fds 7 c1 cat /proc/self/fd/9"));
    assert_eq!((out.as_str(), err.as_str()), ("hello\n", ""));
    let (out, _) = shell(&format!("{exec} --preserve-fds 7 c1 ls /proc/self/fd"));
    assert_eq!(out, "0\n1\n2\n3\n9\n", "3 is the directory that ls reads");
    let log = std::fs::read_to_string(bundle.path("log")).unwrap();
    assert!(log.contains("6 of them are not open"), "{log}");
}

/// podman's `--group-add keep-groups`.
#[test]
#[ignore = "needs root"]
fn groups_of_the_caller_come_along_only_if_the_spec_asks_for_it() {
    for (keep, mapped, seen) in [
        ("0", false, ""),
        ("1", false, "7 8 "),
        ("0", true, ""),
        // Nobody's, in there; and yet they open what they open outside.
        ("1", true, "65534 65534 "),
    ] {
        let bundle = Bundle::new(|spec| {
            spec["annotations"] = json!({"run.oci.keep_original_groups": keep});
            if mapped {
                let all = spec["linux"]["namespaces"].as_array_mut().unwrap();
                all.push(json!({"type": "user"}));
                let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
                spec["linux"]["uidMappings"] = ids.clone();
                spec["linux"]["gidMappings"] = ids;
            }
        });
        std::os::unix::fs::chown(bundle.path("rootfs"), Some(100_000), Some(100_000)).unwrap();
        let of_caller = |args: &[&str]| {
            let of_runtime = bundle.command(args);
            let mut caller = std::process::Command::new("setpriv");
            caller.arg("--groups=7,8").arg(of_runtime.get_program());
            let output = caller
                .args(of_runtime.get_args())
                .current_dir(bundle.path(""));
            let output = output.stdin(std::process::Stdio::null()).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let quiet = "exec >/dev/null 2>&1; exec \"$@\"";
        let mut run = std::process::Command::new("setpriv");
        let of_runtime = bundle.command(&["run", "--detach", ID]);
        run.args(["--groups=7,8", "sh", "-c", quiet, "sh"])
            .arg(of_runtime.get_program());
        let run = run
            .args(of_runtime.get_args())
            .current_dir(bundle.path(""))
            .status();
        assert!(run.unwrap().success());
        let groups = |text: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix("Groups:\t"));
            line.unwrap().trim_start().to_owned()
        };
        let first = std::fs::read_to_string(format!("/proc/{}/status", bundle.pid())).unwrap();
        let of_host = if keep == "1" { "7 8 " } else { "" };
        assert_eq!(groups(&first), of_host, "{keep} {mapped}");
        let joined = of_caller(&["exec", ID, "cat", "/proc/self/status"]);
        assert_eq!(groups(&joined), seen, "{keep} {mapped}");
    }
}

#[test]
#[ignore = "needs root"]
fn a_group_below_the_containers_can_be_named_and_none_outside() {
    let bundle = Bundle::running(|_| {});
    let unknown = match bundle.group().is_v2() {
        true => "v2 has one hierarchy",
        false => "unknown controller",
    };
    for (outside, words) in [
        ("..", "nowhere but down"),
        ("a/../../b", "nowhere but down"),
        ("nonexistent", "no such group"),
        ("whaaat:/", unknown),
    ] {
        let (status, refusal) = bundle.refusal(&["exec", "--cgroup", outside, ID, "true"]);
        assert_eq!(status, 255);
        assert!(refusal.contains(words), "{refusal} lacks {words}");
    }
    bundle.exec(&["--cgroup", "/", ID, "true"]);
    if bundle.group().is_v2() {
        let below = format!("/sys/fs/cgroup/{}/sub", bundle.group().path());
        std::fs::create_dir(below).unwrap();
        let groups = bundle.exec(&["--cgroup", "sub", ID, "cat", "/proc/self/cgroup"]);
        assert_eq!(groups, "0::/sub\n");
    } else {
        let below = format!("/sys/fs/cgroup/memory/{}/sub", bundle.group().path());
        std::fs::create_dir(below).unwrap();
        let groups = bundle.exec(&["--cgroup", "memory:sub", ID, "cat", "/proc/self/cgroup"]);
        assert!(groups.contains(":memory:/sub\n"), "{groups}");
        assert!(groups.contains(":pids:/\n"), "{groups}");
    }
}

/// A limit that only the v2 mount of a hybrid host can keep puts the container's processes there, also later ones.
#[test]
#[ignore = "needs root"]
fn on_a_hybrid_host_it_enters_the_group_on_the_v2_mount_too() {
    let root = std::path::Path::new("/sys/fs/cgroup/unified");
    let controllers = std::fs::read_to_string(root.join("cgroup.controllers"));
    if !controllers.is_ok_and(|names| names.contains("hugetlb")) {
        return support::skip::skip("no hybrid host with hugetlb on its v2 mount");
    }
    let bundle = Bundle::running(|spec| {
        spec["linux"]["resources"] = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]});
    });
    let groups = bundle.exec(&[ID, "cat", "/proc/self/cgroup"]);
    assert!(groups.lines().any(|line| line == "0::/"), "{groups}");
}

#[test]
#[ignore = "needs root"]
fn it_is_root_of_the_containers_user_namespace_and_of_nothing_else() {
    let bundle = Bundle::running(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "user"}));
        let map = json!([{"containerID": 0, "hostID": 100000, "size": 65536}]);
        spec["linux"]["uidMappings"] = map.clone();
        spec["linux"]["gidMappings"] = map;
    });
    assert_eq!(bundle.exec(&[ID, "id", "-u"]), "0\n");
    assert_eq!(bundle.exec(&["--user", "33:34", ID, "id", "-G"]), "34\n");
    let of_init = std::fs::read_link(format!("/proc/{}/ns/user", bundle.pid())).unwrap();
    let of_exec = bundle.exec(&[ID, "readlink", "/proc/self/ns/user"]);
    assert_eq!(of_exec.trim(), of_init.to_str().unwrap());
    let map = bundle.exec(&[ID, "sh", "-c", "test -t 0; cat /proc/self/uid_map"]);
    assert_eq!(
        map.split_whitespace().collect::<Vec<_>>(),
        ["0", "100000", "65536"]
    );
    assert_eq!(
        bundle.exec(&["--tty", ID, "sh", "-c", "test -t 0 && echo yes"]),
        "yes\r\n"
    );
}

/// Where setgroups(2) is forbidden, what the caller has of groups would stay, and count as the container's nobody.
#[test]
#[ignore = "needs root"]
fn no_group_of_the_caller_comes_along_where_none_can_be_set() {
    let mut holder = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "/bin/busybox", "sh", "-c"])
        .arg("echo ready; read end")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0; 6]).unwrap();
    let path = format!("/proc/{}/ns/user", holder.id());
    let bundle = Bundle::running(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "user", "path": path}));
        spec["mounts"].as_array_mut().unwrap().truncate(1);
        spec["linux"]["maskedPaths"] = json!([]);
    });
    drop(holder.stdin.take());
    holder.wait().unwrap();
    let exec = bundle.command(&["exec", ID, "grep", "Groups", "/proc/self/status"]);
    let said = std::process::Command::new("setpriv")
        .args(["--groups", "54321"])
        .arg(exec.get_program())
        .args(exec.get_args())
        .output()
        .unwrap();
    let groups = String::from_utf8_lossy(&said.stdout);
    assert_eq!(groups.trim(), "Groups:", "{said:?}");
}

#[test]
#[ignore = "needs root"]
fn an_exec_that_the_pids_limit_refuses_names_it() {
    let bundle = Bundle::running(|spec| {
        spec["linux"]["resources"] = json!({"pids": {"limit": 1}});
    });
    let (status, said) = bundle.refusal(&["exec", ID, "true"]);
    assert_eq!(status, 255);
    assert!(said.contains("`update --pids-limit`"), "{said}");
}
