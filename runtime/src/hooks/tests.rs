//! Real programs as hooks.

use serde_json::json;

use super::*;
use crate::plan::Environment;

fn run(kind: HookKind, hooks: &[Hook], state: &Value, pid: Option<u32>) -> Result<(), StepError> {
    super::run(kind, hooks, state, pid, None)
}

fn hook(script: &str) -> Hook {
    Hook {
        path: "/bin/sh".into(),
        args: ["sh", "-c", script].map(str::to_owned).into(),
        environment: Environment(vec!["PATH=/usr/bin:/bin".into()]),
        timeout: None,
    }
}

/// A directory as the bundle, and its state.
fn bundle() -> (tempfile::TempDir, Value) {
    let bundle = tempfile::tempdir().unwrap();
    let state =
        json!({"ociVersion": "1.3.0", "id": "c", "status": "x", "pid": 1, "bundle": bundle.path()});
    (bundle, state)
}

fn read(bundle: &tempfile::TempDir, name: &str) -> String {
    std::fs::read_to_string(bundle.path().join(name)).unwrap()
}

#[test]
fn a_hook_reads_the_state_of_its_time_in_the_bundle() {
    let (bundle, state) = bundle();
    for (kind, status) in [
        (HookKind::Prestart, "created"),
        (HookKind::CreateRuntime, "creating"),
        (HookKind::CreateContainer, "creating"),
        (HookKind::Poststart, "running"),
    ] {
        run(
            kind,
            &[hook("cat > state; pwd > directory")],
            &state,
            Some(77),
        )
        .unwrap();
        let heard: Value = serde_json::from_str(&read(&bundle, "state")).unwrap();
        assert_eq!(
            (&heard["status"], &heard["pid"], &heard["id"]),
            (&json!(status), &json!(77), &json!("c"))
        );
        let real = bundle.path().canonicalize().unwrap();
        assert_eq!(read(&bundle, "directory").trim(), real.to_str().unwrap());
    }
    assert!(run_all(HookKind::Poststop, &[hook("cat > state")], &state).is_empty());
    let heard: Value = serde_json::from_str(&read(&bundle, "state")).unwrap();
    assert_eq!(
        (&heard["status"], heard.get("pid")),
        (&json!("stopped"), None)
    );
}

#[test]
fn a_hook_gets_its_arguments_its_environment_and_no_descriptor() {
    let (bundle, state) = bundle();
    let open = std::fs::File::open("/").unwrap();
    rustix::io::fcntl_setfd(&open, rustix::io::FdFlags::empty()).unwrap();
    let mut shell = hook("echo \"$0\" > out; env >> out");
    shell.args[0] = "zero".into();
    shell.args.push("one".into());
    shell.environment.0.push("K=first".into());
    shell.environment.0.push("K=last".into());
    run(HookKind::Prestart, &[shell], &state, None).unwrap();
    let out = read(&bundle, "out");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "one");
    // dash and bash add PWD, SHLVL and `_` of their own.
    let own = |line: &&str| {
        !["PWD=", "SHLVL=", "_=", "OLDPWD="]
            .iter()
            .any(|name| line.starts_with(name))
    };
    let mut env: Vec<&str> = lines
        .iter()
        .copied()
        .filter(|line| line.contains('='))
        .filter(own)
        .collect();
    env.sort_unstable();
    assert_eq!(env, ["K=last", "PATH=/usr/bin:/bin"]);
    // 3 is the directory itself, which ls has open; it fails, so that its output is quoted.
    let listing = Hook {
        path: "/bin/ls".into(),
        args: ["ls", "/proc/self/fd", "/missing"]
            .map(str::to_owned)
            .into(),
        ..hook("")
    };
    let error = run(HookKind::Prestart, &[listing], &state, None).unwrap_err();
    assert!(error.cause.ends_with(r"0\n1\n2\n3"), "{error}");
    let argv0 = Hook {
        path: "/bin/cat".into(),
        args: vec!["other-name".into(), "/proc/self/cmdline".into()],
        ..hook("")
    };
    let failing = Hook {
        args: vec![
            "other-name".into(),
            "/proc/self/cmdline".into(),
            "/missing".into(),
        ],
        ..argv0.clone()
    };
    run(HookKind::Prestart, &[argv0], &state, None).unwrap();
    let error = run(HookKind::Prestart, &[failing], &state, None).unwrap_err();
    assert!(
        error.cause.contains("other-name\\u{0}/proc/self/cmdline"),
        "{error}"
    );
}

#[test]
fn hooks_run_in_order_and_the_first_failure_is_the_last() {
    let (bundle, state) = bundle();
    let hooks = [
        "echo 1 >> log",
        "echo 2 >> log; echo why >&2; exit 3",
        "echo 3 >> log",
    ]
    .map(hook);
    let error = run(HookKind::CreateRuntime, &hooks, &state, Some(1)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "run hook /bin/sh: createRuntime hook failed with exit code 3: why"
    );
    assert_eq!(read(&bundle, "log"), "1\n2\n");
}

#[test]
fn failing_poststop_hooks_are_warnings_and_stop_nothing() {
    let (bundle, state) = bundle();
    let hooks = ["exit 1", "kill -9 $$", "echo ran > log"].map(hook);
    let warnings = run_all(HookKind::Poststop, &hooks, &state);
    let causes: Vec<&str> = warnings
        .iter()
        .map(|warning| warning.cause.as_str())
        .collect();
    assert_eq!(
        causes,
        [
            "poststop hook failed with exit code 1",
            "poststop hook failed with signal 9"
        ]
    );
    assert_eq!(read(&bundle, "log"), "ran\n");
}

#[test]
fn a_hook_that_hangs_is_killed_with_its_children() {
    let (bundle, state) = bundle();
    let hanging = Hook {
        timeout: Some(1),
        ..hook("sleep 1000 & echo $! > child; echo partly; wait")
    };
    let error = run(HookKind::Prestart, &[hanging], &state, None).unwrap_err();
    assert_eq!(
        error.cause,
        "prestart hook took longer than 1 s and was killed: partly"
    );
    let child = read(&bundle, "child");
    let gone = || {
        std::fs::read_to_string(format!("/proc/{}/stat", child.trim()))
            .map_or(true, |stat| stat.contains(") Z "))
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while !gone() {
        assert!(Instant::now() < deadline, "the child lives");
        std::thread::yield_now();
    }
}

#[test]
fn a_hook_that_does_not_read_or_leaves_others_behind_is_no_failure() {
    let (bundle, mut state) = bundle();
    // More than a pipe holds.
    state["annotations"] = json!({"big": "x".repeat(1 << 20)});
    run(
        HookKind::Prestart,
        &[hook("exec 0<&-; exit 0"), hook("exit 0")],
        &state,
        None,
    )
    .unwrap();
    let all = hook("wc -c > length");
    run(HookKind::Prestart, &[all], &state, None).unwrap();
    assert!(read(&bundle, "length").trim().parse::<usize>().unwrap() > 1 << 20);
    // What it leaves holds the pipe, and is still there when the hook counts as done.
    run(
        HookKind::Prestart,
        &[hook("sleep 600 & echo $! > left; exit 0")],
        &state,
        None,
    )
    .unwrap();
    let left: i32 = read(&bundle, "left").trim().parse().unwrap();
    rustix::process::kill_process(Pid::from_raw(left).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn what_a_hook_wrote_is_bounded_and_harmless() {
    let (_bundle, state) = bundle();
    let noisy = hook("seq 1 200000; printf '\\033[2J\\nerror: forged\\r' >&2; exit 1");
    let error = run(HookKind::Prestart, &[noisy], &state, None).unwrap_err();
    assert!(
        error.cause.len() < 2 * QUOTE && !error.cause.contains(['\x1b', '\n', '\r']),
        "{error}"
    );
    assert!(
        error.cause.ends_with("\\u{1b}[2J\\nerror: forged"),
        "{error}"
    );
}

#[test]
fn a_hook_that_is_not_there_is_named_with_its_errno() {
    let (_bundle, state) = bundle();
    let missing = Hook {
        path: "/no/such/hook".into(),
        ..hook("")
    };
    let error = run(HookKind::Prestart, &[missing], &state, None).unwrap_err();
    assert_eq!(error.errno, Some(libc::ENOENT));
    assert!(
        error
            .to_string()
            .starts_with("run hook /no/such/hook: prestart hook could not be run: No such file"),
        "{error}"
    );
}

#[test]
fn an_interrupt_ends_a_hook_that_hangs() {
    let (_bundle, state) = bundle();
    let interrupt = Interrupt::new().unwrap();
    // To this thread.
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).unwrap();
    let hooks = [hook("echo waiting; sleep 600")];
    let error = super::run(HookKind::Prestart, &hooks, &state, None, Some(&interrupt)).unwrap_err();
    let cause = "prestart hook was interrupted by SIGTERM and was killed";
    assert!(error.cause.starts_with(cause), "{error}");
}
