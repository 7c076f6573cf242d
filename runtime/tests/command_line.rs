//! The command line of `longshore-runtime`.

use std::process::{Command, Output, Stdio};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_longshore-runtime"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn help_teaches_and_version_is_what_callers_parse() {
    for args in [&["--help"][..], &["-h"], &["help"], &[]] {
        let help = run(args);
        assert!(help.status.success() && help.stderr.is_empty());
        let text = String::from_utf8(help.stdout).unwrap();
        for word in ["Usage:", "  run ", "  delete ", "--root DIR", "monitor"] {
            assert!(text.contains(word), "{text} lacks {word}");
        }
    }
    let version = run(&["--version"]);
    let text = String::from_utf8(version.stdout).unwrap();
    let first = concat!(
        "longshore-runtime version ",
        env!("CARGO_PKG_VERSION"),
        "\n"
    );
    assert!(
        text.starts_with(first) && text.contains("\nspec: 1.3.0\n"),
        "{text}"
    );
}

#[test]
fn every_command_has_help_and_it_does_nothing_else() {
    for command in [
        "create", "start", "run", "state", "kill", "delete", "list", "ps", "pause", "resume",
        "exec", "update", "events", "spec", "features",
    ] {
        let help = run(&[command, "--help"]);
        let text = String::from_utf8(help.stdout).unwrap();
        assert!(help.status.success() && help.stderr.is_empty(), "{command}");
        assert!(text.starts_with(&format!(
            "Usage: longshore-runtime [GLOBAL OPTION...] {command}"
        )));
    }
}

#[test]
fn misuse_is_an_error_in_words() {
    for (args, status, words) in [
        (&["frobnicate"][..], 1, "`frobnicate`"),
        (&["monitor", "group", "now"], 1, "too many arguments"),
        (&["monitor"], 2, "not the agent's socket"),
        (&["--frobnicate", "list"], 1, "--frobnicate"),
        (&["run"], 1, "missing: ID"),
        (&["run", "a", "b"], 1, "one argument too many"),
        (
            &["create", "--frobnicate", "a"],
            1,
            "longshore-runtime create --help",
        ),
        (&["checkpoint", "a"], 1, "`checkpoint` is not supported"),
        (&["restore", "a"], 1, "`restore` is not supported"),
        (
            &["--criu", "/bin/criu", "list"],
            1,
            "checkpoint and restore",
        ),
        (&["--log-format", "xml", "list"], 1, "none of text and json"),
        (
            &["--rootless", "maybe", "list"],
            1,
            "none of true, false and auto",
        ),
        (
            &["--cgroup-manager", "me", "list"],
            1,
            "none of cgroupfs, systemd and disabled",
        ),
        (&["--log", "/nowhere/log", "list"], 1, "/nowhere/log"),
        (&["list", "--format", "xml"], 1, "none of table and json"),
    ] {
        let output = run(args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{args:?}");
        assert!(
            text.starts_with("error: ") && text.contains(words),
            "{text} lacks {words}"
        );
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(output.stdout.is_empty());
    }
}

/// A user whose login left no run directory: what holds no state needs none.
#[test]
fn only_what_needs_a_root_asks_for_one() {
    let user = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longshore-runtime"));
        command.args(args).env_remove("XDG_RUNTIME_DIR");
        if rustix::process::geteuid().is_root() {
            std::os::unix::process::CommandExt::uid(&mut command, 54_321);
        }
        command.stdin(Stdio::null()).output().unwrap()
    };
    assert!(user(&["features"]).status.success());
    let bundle = tempfile::tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(bundle.path(), open).unwrap();
    let path = bundle.path().to_str().unwrap();
    let written = user(&["spec", "--rootless", "--bundle", path]);
    assert!(written.status.success(), "{written:?}");
    for args in [&["list"][..], &["state", "a"], &["delete", "--force", "a"]] {
        let refused = user(args);
        assert_eq!(refused.status.code(), Some(1), "{args:?}");
        let text = String::from_utf8(refused.stderr).unwrap();
        assert!(text.contains("set it or give --root"), "{text}");
    }
}

#[test]
fn what_is_missing_is_said_with_a_remedy() {
    let root = tempfile::tempdir().unwrap();
    let bundle = root.path().join("bundle");
    let [root, path] = [root.path(), &bundle].map(|path| path.to_str().unwrap());
    for _ in 0..2 {
        let output = run(&["--root", root, "create", "--bundle", path, "a"]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("longshore-runtime spec"), "{text}");
        std::fs::create_dir_all(&bundle).unwrap();
    }
}
