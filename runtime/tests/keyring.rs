//! The session keyring of whoever calls: what its keys open is nothing for a container, unless it is asked for.

mod support;

use std::process::{Command, Stdio};

use serde_json::json;
use support::cli::{Bundle, ID};

/// A caller with a session keyring of its own, and in it a key that only those see who hold the keyring (keyrings(7)).
const CALLER: &str = r#"
import ctypes, os, sys
keyctl, add_key, name, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode(), sys.argv[4:]
call = ctypes.CDLL(None, use_errno=True).syscall
def call_or_fail(*words):
    if (said := call(*words)) < 0:
        raise OSError(ctypes.get_errno(), "keys")
    return said
JOIN_SESSION_KEYRING, SETPERM, SESSION, POSSESSOR_ALL = 1, 5, -3, 0x3f000000
call_or_fail(keyctl, JOIN_SESSION_KEYRING, None)
key = call_or_fail(add_key, b"user", name, b"secret", 6, SESSION)
call_or_fail(keyctl, SETPERM, key, POSSESSOR_ALL)
os.execv(program[0], program)
"#;

/// Whether the key is in what the command says.
fn sees_the_key(bundle: &Bundle, args: &[&str]) -> bool {
    let name = format!("longshore-test-{}", std::process::id());
    let runtime = bundle.command(args);
    let said = Command::new("python3")
        .args(["-c", CALLER])
        .args([libc::SYS_keyctl, libc::SYS_add_key].map(|number| number.to_string()))
        .arg(&name)
        .arg(runtime.get_program())
        .args(runtime.get_args())
        .current_dir(bundle.path(""))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(said.status.success(), "{said:?}");
    let keys = String::from_utf8(said.stdout).unwrap();
    assert!(keys.ends_with("end\n"), "{keys}");
    keys.contains(&name)
}

const LOOK: [&str; 3] = ["/bin/sh", "-c", "cat /proc/keys && echo end"];

#[test]
#[ignore = "needs root"]
fn a_container_has_the_caller_s_only_if_it_is_asked_for() {
    let bundle = Bundle::new(|spec| {
        spec["process"]["args"] = json!(LOOK);
        spec["linux"]["maskedPaths"] = json!([]);
    });
    assert!(sees_the_key(&bundle, &["run", "--no-new-keyring", ID]));
    assert!(!sees_the_key(&bundle, &["run", ID]));
}

/// Whoever calls `exec` is not whoever has called `run`, and has been asked for nothing.
#[test]
#[ignore = "needs root"]
fn an_exec_never_has_its_caller_s() {
    for option in [&["--no-new-keyring"][..], &[]] {
        let bundle = Bundle::new(|spec| spec["linux"]["maskedPaths"] = json!([]));
        bundle.ok(&[&["run", "--detach"], option, &[ID]].concat());
        let exec = [&["exec", ID], &LOOK[..]].concat();
        assert!(!sees_the_key(&bundle, &exec), "{option:?}");
    }
}
