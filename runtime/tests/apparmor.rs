//! AppArmor, where the kernel has it: the profile that a spec names is in force, and one that nobody has loaded is an error.

mod support;

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::json;
use support::cli::{Bundle, ID};

/// A loaded profile, which forbids but one file; removed when the test ends.
struct Profile(String);

impl Profile {
    fn load(name: &str) -> Profile {
        let profile = Profile(format!("longshore-test-{}-{name}", std::process::id()));
        profile.parser("--replace");
        profile
    }

    fn parser(&self, order: &str) {
        let text = format!(
            "profile {} flags=(attach_disconnected,mediate_deleted) {{ file, capability, network, mount, umount, \
             signal, ptrace, unix, deny /etc/secret r, }}\n",
            self.0
        );
        let mut parser = Command::new("apparmor_parser")
            .args(["--quiet", "--skip-cache", order])
            .stdin(Stdio::piped())
            .spawn()
            .expect("Debian's apparmor");
        let mut input = parser.stdin.take().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        drop(input);
        assert!(parser.wait().unwrap().success(), "{order} {}", self.0);
    }

    /// What one of its processes says of itself and of the file.
    fn says(&self) -> String {
        format!(
            "{} (enforce)\ncat: can't open '/etc/secret': Permission denied\n",
            self.0
        )
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        self.parser("--remove");
    }
}

fn is_enforced() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|enabled| enabled.starts_with('Y'))
}

const LOOK: [&str; 3] = [
    "/bin/sh",
    "-c",
    "cat /proc/self/attr/current /etc/secret 2>&1; true",
];

#[test]
#[ignore = "needs root"]
fn a_container_and_its_execs_are_confined_by_the_profiles_that_are_named() {
    if !is_enforced() {
        return support::skip::skip("this kernel has no AppArmor");
    }
    let (first, second) = (Profile::load("first"), Profile::load("second"));
    let confined = |args: &[&str]| {
        let bundle = Bundle::new(|spec| {
            spec["process"]["args"] = json!(args);
            spec["process"]["apparmorProfile"] = json!(first.0);
        });
        std::fs::write(bundle.image("etc/secret"), "secret\n").unwrap();
        bundle
    };
    assert_eq!(confined(&LOOK).ok(&["run", ID]), first.says());
    let bundle = confined(&["/bin/sleep", "1000"]);
    bundle.ok(&["run", "--detach", ID]);
    assert_eq!(bundle.exec(&[&[ID], &LOOK[..]].concat()), first.says());
    let other = [&["--apparmor", &*second.0, ID], &LOOK[..]].concat();
    assert_eq!(bundle.exec(&other), second.says());
}

#[test]
#[ignore = "needs root"]
fn a_profile_that_is_not_loaded_is_refused_by_name() {
    if !is_enforced() {
        return support::skip::skip("this kernel has no AppArmor");
    }
    let refused = |bundle: &Bundle, args: &[&str]| {
        let (_, said) = bundle.refusal(args);
        for words in ["nobody-has-loaded-it", "apparmor_parser"] {
            assert!(said.contains(words), "{said}");
        }
    };
    let bundle = Bundle::new(|spec| {
        // Were it started, it would end.
        spec["process"]["args"] = json!(["/bin/true"]);
        spec["process"]["apparmorProfile"] = json!("nobody-has-loaded-it");
    });
    refused(&bundle, &["run", ID]);
    let bundle = Bundle::running(|_| {});
    refused(
        &bundle,
        &["exec", "--apparmor", "nobody-has-loaded-it", ID, "true"],
    );
}
