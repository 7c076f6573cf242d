//! Who can look into an init that has come into another container's pid namespace.
//!
//! What is absent: the moment before init is another user, which `traced` holds fast. fs.suid_dumpable is left as it is, for
//! it is the whole host's; where it is 1 the test asks for more.

mod support;

use serde_json::{Value, json};
use support::cli::{Bundle, ID};

/// The pid of a process in its innermost pid namespace.
fn innermost(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("NSpid:"));
    line.unwrap().split_whitespace().last().unwrap().to_owned()
}

/// A container of the same user in the same pid namespace sees init before it is bound. Neither has a capability that the
/// other lacks, which would be in the way by itself.
#[test]
#[ignore = "needs root"]
fn nobody_in_a_shared_pid_namespace_can_look_into_a_waiting_init() {
    for own in [33, 0] {
        let user = json!({"uid": own, "gid": own});
        let of_user = |spec: &mut Value| {
            spec["process"]["user"] = user.clone();
            spec["process"]["capabilities"] = json!({});
        };
        let first = Bundle::running(of_user);
        let path = format!("/proc/{}/ns/pid", first.pid());
        let second = Bundle::new(|spec| {
            of_user(spec);
            spec["linux"]["namespaces"][0]["path"] = json!(path);
        });
        second.ok(&["create", ID]);
        let inside = innermost(second.pid());
        // Root may list the numbers; where they lead is what counts.
        let look = format!(
            "for link in fd/0 fd/1 fd/2 fd/9 root cwd exe; do readlink /proc/{inside}/$link; done; \
             ls /proc/{inside}/root /proc/{inside}/cwd/; test -e /proc/{inside}/status && echo end"
        );
        for user in ["33", "0"] {
            let seen = first.run(&["exec", "--user", user, ID, "sh", "-c", &look]);
            let seen = String::from_utf8_lossy(&seen.stdout);
            assert_eq!(seen, "end\n", "{user} into {own}");
        }
    }
}
