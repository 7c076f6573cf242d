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
    for args in [&["--help"][..], &["-h"], &["help"]] {
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
        (&[][..], 1, "no command given"),
        (&["frobnicate"], 1, "`frobnicate`"),
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
