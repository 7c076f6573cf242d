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
fn help_teaches_and_version_is_one_line() {
    let help = run(&["--help"]);
    assert!(help.status.success() && help.stderr.is_empty());
    assert!(
        String::from_utf8(help.stdout)
            .unwrap()
            .contains("longshore-runtime monitor")
    );
    let version = run(&["--version"]);
    assert_eq!(
        String::from_utf8(version.stdout).unwrap(),
        concat!("longshore-runtime ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn misuse_is_an_error_in_words() {
    for (args, words) in [
        (&[][..], "no command given"),
        (&["frobnicate"], "`frobnicate`"),
        (&["monitor", "now"], "too many arguments"),
        (&["monitor"], "not the agent's socket"),
    ] {
        let output = run(args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(
            text.starts_with("error: ") && text.contains(words),
            "{text}"
        );
        assert!(output.stdout.is_empty());
    }
}
