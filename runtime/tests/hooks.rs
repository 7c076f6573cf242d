//! Hooks through the command line: when each runs, where, what it hears, and what its failure does.

mod support;

use serde_json::{Value, json};
use support::bundle::Bundle;
use support::eventually;

/// A hook of the host's file system that runs a script.
fn hook(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]})
}

#[test]
#[ignore = "needs root"]
fn every_hook_runs_at_its_time_and_hears_the_state() {
    let bundle = Bundle::new();
    let log = bundle.path().join("log");
    let tell = |name: &str| {
        let script = format!(
            "echo {name} >> {}; cat > {}/{name}",
            log.display(),
            bundle.path().display()
        );
        json!([hook(&script)])
    };
    bundle.configure(&["/bin/sh", "-c", "echo program >> /log; sleep 1000"], |spec| {
        spec["annotations"] = json!({"a.b": "c"});
        spec["hooks"] = json!({
            "prestart": tell("prestart"), "createRuntime": tell("createRuntime"),
            "createContainer": tell("createContainer"),
            "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "echo startContainer >> /log; cat > /startContainer"]}],
            "poststart": tell("poststart"), "poststop": tell("poststop"),
        });
    });
    bundle.succeed(&["create", "c1"]);
    assert_eq!(
        bundle.read("log"),
        "prestart\ncreateRuntime\ncreateContainer\n"
    );
    let state: Value = serde_json::from_str(&bundle.succeed(&["state", "c1"])).unwrap();
    bundle.succeed(&["start", "c1"]);
    assert_eq!(
        bundle.read("log"),
        "prestart\ncreateRuntime\ncreateContainer\npoststart\n"
    );
    support::eventually("the program wrote", || {
        bundle.read("rootfs/log") == "startContainer\nprogram\n"
    });
    bundle.succeed(&["delete", "--force", "c1"]);
    assert!(
        bundle.read("log").ends_with("poststart\npoststop\n"),
        "{}",
        bundle.read("log")
    );
    let real = bundle.path().canonicalize().unwrap();
    for (name, status, pid) in [
        ("prestart", "created", Some(state["pid"].clone())),
        ("createRuntime", "creating", Some(state["pid"].clone())),
        // In the container's namespaces: its pid there.
        ("createContainer", "creating", Some(json!(1))),
        ("rootfs/startContainer", "created", Some(json!(1))),
        ("poststart", "running", Some(state["pid"].clone())),
        ("poststop", "stopped", None),
    ] {
        let heard: Value = serde_json::from_str(&bundle.read(name)).unwrap();
        assert_eq!(heard["status"], status, "{name}");
        assert_eq!(heard.get("pid"), pid.as_ref(), "{name}");
        assert_eq!(
            (&heard["id"], &heard["bundle"]),
            (&json!("c1"), &json!(real)),
            "{name}"
        );
        assert_eq!(heard["annotations"], json!({"a.b": "c"}), "{name}");
    }
}

#[test]
#[ignore = "needs root"]
fn each_hook_runs_in_its_namespaces() {
    let bundle = Bundle::new();
    let names = |file: &str| {
        hook(&format!(
            "for n in mnt net; do readlink /proc/self/ns/$n; done > {}/{file}; pwd >> {}/{file}",
            bundle.path().display(),
            bundle.path().display()
        ))
    };
    bundle.configure(&["/bin/sh", "-c", "for n in mnt net; do readlink /proc/self/ns/$n; done > /program"], |spec| {
        spec["process"]["cwd"] = json!("/tmp");
        spec["hooks"] = json!({
            "createRuntime": [names("runtime")], "createContainer": [names("container")],
            "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "for n in mnt net; do readlink /proc/self/ns/$n; done > /start; pwd >> /start"]}],
        });
    });
    bundle.succeed(&["run", "c1"]);
    let own = |name: &str| {
        std::fs::read_link(format!("/proc/thread-self/ns/{name}"))
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    let real = bundle.path().canonicalize().unwrap();
    let host = format!("{}\n{}\n", own("mnt"), own("net"));
    let inside = bundle.read("rootfs/program");
    assert_ne!(inside, host);
    assert_eq!(
        bundle.read("runtime"),
        format!("{host}{}\n", real.display())
    );
    assert_eq!(
        bundle.read("container"),
        format!("{inside}{}\n", real.display())
    );
    assert_eq!(bundle.read("rootfs/start"), format!("{inside}/tmp\n"));
}

/// The OCI text: these hooks run when the mounts are made, and before the root is changed.
#[test]
#[ignore = "needs root"]
fn hooks_of_the_creation_find_the_root_furnished() {
    let bundle = Bundle::new();
    bundle.configure(&["/bin/cat", "/tmp/file"], |spec| {
        let look = "test -e rootfs/proc/self && test -c rootfs/dev/null && umask > umask && mount -t tmpfs x rootfs/tmp \
                    && echo 'from the hook' > rootfs/tmp/file";
        let enter = "pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); \
                     nsenter -t $pid -m test -c $PWD/rootfs/dev/null";
        spec["hooks"] = json!({"createRuntime": [hook(enter)], "createContainer": [hook(look)]});
    });
    assert_eq!(bundle.succeed(&["run", "c1"]), "from the hook\n");
    assert_eq!(bundle.read("umask"), "0022\n");
    assert!(
        !bundle.rootfs().join("tmp/file").exists(),
        "the mount was the container's"
    );
    let error = bundle.fail(&["run", "--no-pivot", "c1"]);
    assert!(error.contains("--no-pivot"), "{error}");
}

#[test]
#[ignore = "needs root"]
fn a_failing_hook_of_the_creation_leaves_nothing_but_its_words() {
    let bundle = Bundle::new();
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let after = bundle.path().join("after");
        bundle.configure(&["/bin/true"], |spec| {
            spec["hooks"] = json!({
                kind: [hook("echo no luck >&2; exit 7"), hook(&format!("touch {}", after.display()))],
                "startContainer": [{"path": "/bin/touch", "args": ["touch", "/after"]}],
                "poststop": [hook(&format!("echo {kind} >> {}/log", bundle.path().display()))],
            });
        });
        for command in ["create", "run"] {
            let error = bundle.fail(&[command, "c1"]);
            assert_eq!(
                error,
                format!("error: run hook /bin/sh: {kind} hook failed with exit code 7: no luck\n")
            );
            bundle.assert_nothing_left();
        }
        assert!(!after.exists() && !bundle.rootfs().join("after").exists());
        assert!(
            bundle.read("log").ends_with(&format!("{kind}\n{kind}\n")),
            "poststop hooks run"
        );
    }
}

#[test]
#[ignore = "needs root"]
fn a_failing_hook_of_the_start_ends_and_removes_the_container() {
    let bundle = Bundle::new();
    for (kind, hooks) in [
        (
            "startContainer",
            json!([{"path": "/bin/sh", "args": ["sh", "-c", "exit 3"]}]),
        ),
        ("poststart", json!([hook("exit 3")])),
    ] {
        bundle.configure(&["/bin/sleep", "1000"], |spec| {
            spec["hooks"] = json!({
                kind: hooks,
                "poststop": [hook(&format!("echo {kind} >> {}/log", bundle.path().display()))],
            });
        });
        bundle.succeed(&["create", "c1"]);
        let error = bundle.fail(&["start", "c1"]);
        assert!(
            error.contains(&format!("{kind} hook failed with exit code 3")),
            "{error}"
        );
        bundle.assert_nothing_left();
        let error = bundle.fail(&["run", "c1"]);
        assert!(
            error.contains(&format!("{kind} hook failed with exit code 3")),
            "{error}"
        );
        bundle.assert_nothing_left();
        assert!(
            bundle.read("log").ends_with(&format!("{kind}\n{kind}\n")),
            "poststop hooks run"
        );
    }
}

#[test]
#[ignore = "needs root"]
fn failing_poststop_hooks_are_warnings() {
    let bundle = Bundle::new();
    bundle.configure(&["/bin/true"], |spec| {
        let last = hook(&format!("echo last >> {}/log", bundle.path().display()));
        spec["hooks"] = json!({"poststop": [hook("exit 1"), hook("exit 2"), last]});
    });
    let output = bundle.runtime(&["run", "c1"]);
    assert!(output.status.success(), "{output:?}");
    let heard = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        heard
            .matches("warning: run hook /bin/sh: poststop hook failed with exit code")
            .count(),
        2,
        "{heard}"
    );
    assert_eq!(bundle.read("log"), "last\n");
    let output = bundle.runtime(&["--log", "warnings", "--log-format", "json", "run", "c1"]);
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    let lines = bundle.read("warnings");
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(first["level"], "warning");
}

#[test]
#[ignore = "needs root"]
fn a_hook_that_hangs_is_ended_by_its_timeout_or_by_a_forced_delete() {
    let bundle = Bundle::new();
    bundle.configure(&["/bin/true"], |spec| {
        let mut hanging = hook("sleep 1000");
        hanging["timeout"] = json!(1);
        spec["hooks"] = json!({"createRuntime": [hanging]});
    });
    let error = bundle.fail(&["create", "c1"]);
    assert!(
        error.contains("took longer than 1 s and was killed"),
        "{error}"
    );
    bundle.assert_nothing_left();
    // It, and what it has started.
    let (hanging, mut creating) = hang(&bundle, "createRuntime", &["create", "c1"]);
    bundle.succeed(&["delete", "--force", "c1"]);
    creating.wait().unwrap();
    bundle.assert_nothing_left();
    eventually("the hook has ended", || has_ended(hanging.leader));
    eventually("so has what it started", || has_ended(hanging.started));
}

/// A hook that waits for ever, and a process that it has started. The test ends both, if nobody else has.
struct Hanging {
    leader: u32,
    started: u32,
}

impl Drop for Hanging {
    fn drop(&mut self) {
        // The group is the hook's as long as one of both is there.
        if !has_ended(self.leader) || !has_ended(self.started) {
            let group = nix::unistd::Pid::from_raw(self.leader as i32);
            nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).ok();
        }
    }
}

/// Starts a command that waits for a hook, which hangs.
fn hang(bundle: &Bundle, kind: &str, command: &[&str]) -> (Hanging, std::process::Child) {
    let fifo = bundle.path().join(format!("fifo-{kind}"));
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let script = format!("sleep 1000 & echo $$ $! > {}; wait", fifo.display());
    bundle.configure(&["/bin/true"], |spec| {
        spec["hooks"] = json!({kind: [hook(&script)]});
    });
    if kind == "poststop" {
        bundle.succeed(&["create", "c1"]);
    }
    let mut command = bundle.command(command);
    let waiting = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    let pids = std::fs::read_to_string(&fifo).unwrap();
    let pids: Vec<u32> = pids
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect();
    let (leader, started) = (pids[0], pids[1]);
    (Hanging { leader, started }, waiting)
}

fn has_ended(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z"))
}

/// Whatever ends the runtime: what hangs on the host for its sake does not outlive it.
#[test]
#[ignore = "needs root"]
fn a_hook_of_the_host_ends_with_the_runtime_that_waits_for_it() {
    for (kind, command, signal) in [
        ("createRuntime", &["create", "c1"][..], libc::SIGKILL),
        ("poststop", &["delete", "--force", "c1"], libc::SIGTERM),
        ("poststop", &["delete", "c1"], libc::SIGKILL),
    ] {
        let bundle = Bundle::new();
        let (hanging, mut waiting) = hang(&bundle, kind, command);
        let signal = nix::sys::signal::Signal::try_from(signal).unwrap();
        let runtime = nix::unistd::Pid::from_raw(waiting.id() as i32);
        nix::sys::signal::kill(runtime, signal).unwrap();
        waiting.wait().unwrap();
        // What it has started is its own affair, as it would be after the hook.
        eventually("the hook has ended", || has_ended(hanging.leader));
        bundle.configure(&["/bin/true"], |_| {});
        if kind == "poststop" {
            forget_hooks(&bundle);
        }
    }
}

/// Else the bundle's end would wait for them.
fn forget_hooks(bundle: &Bundle) {
    let file = bundle.state_root().join("c1/state.json");
    let mut record: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    record.as_object_mut().unwrap().remove("poststop").unwrap();
    std::fs::write(file, record.to_string()).unwrap();
}

/// A startContainer hook is a program of the image: it gets nothing that the container's own program has not.
#[test]
#[ignore = "needs root"]
fn a_hook_in_the_container_is_as_confined_as_its_program() {
    let bundle = Bundle::new();
    let script = "grep -E '^(Uid|Cap...|NoNewPrivs|Seccomp):' /proc/self/status; ls /proc/self/fd | wc -l; umask";
    for no_new_privileges in [false, true] {
        bundle.configure(&["/bin/sh", "-c", &format!("{{ {script}; }} > /tmp/program")], |spec| {
            spec["process"]["user"] = json!({"uid": 33, "gid": 33, "umask": 0o27});
            spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
            spec["linux"]["seccomp"] = serde_json::to_value(longshore_runtime::seccomp::default_profile(&[])).unwrap();
            spec["hooks"] = json!({"startContainer": [
                {"path": "/bin/sh", "args": ["sh", "-c", format!("{{ {script}; }} > /tmp/hook")]},
            ]});
        });
        let world = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(bundle.rootfs().join("tmp"), world).unwrap();
        bundle.succeed(&["run", "c1"]);
        let (hook, program) = (
            bundle.read("rootfs/tmp/hook"),
            bundle.read("rootfs/tmp/program"),
        );
        assert!(program.contains("Seccomp:\t2"), "{program}");
        assert_eq!(hook, program);
        for file in ["hook", "program"] {
            std::fs::remove_file(bundle.rootfs().join("tmp").join(file)).unwrap();
        }
    }
}

/// What it does not read breaks a pipe, whose signal must end nobody: in a container without a pid namespace init has no
/// protection from signals, and with a filter the hook is run by a child of init, which has none either.
#[test]
#[ignore = "needs root"]
fn a_hook_that_does_not_read_its_state_harms_nobody() {
    let unprotected: [fn(&mut Value); 2] = [
        |spec| spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"}),
        |spec| {
            let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != "pid");
        },
    ];
    for unprotected in unprotected {
        let bundle = Bundle::new();
        bundle.configure(&["/bin/true"], |spec| {
            // More than a pipe holds, so that writing it never ends before the hook does.
            spec["annotations"] = json!({"long": "x".repeat(1 << 20)});
            spec["hooks"] = json!({"startContainer": [{"path": "/bin/true"}]});
            unprotected(spec);
        });
        bundle.succeed(&["run", "c1"]);
    }
}
