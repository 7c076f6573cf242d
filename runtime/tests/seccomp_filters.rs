//! Filters in force. SCMP_ACT_NOTIFY: the descriptor reaches whoever answers, whatever calls the profile asks about.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use support::cli::{Bundle, ID};
use support::lines::Lines;
use support::{Host, Root};

/// Accepts, prints the state as a line, then answers: mkdir with ENOSPC, everything else with "go on".
const AGENT: &str = r#"
import array, fcntl, json, os, select, socket, struct, sys, threading
RECEIVE, SEND, CONTINUE = 0xc0502100, 0xc0182101, 1
def answer(fd):
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while not any(event & select.POLLHUP for _, event in poll.poll()):
        asked = bytearray(80)
        try:
            fcntl.ioctl(fd, RECEIVE, asked)
            id, _, _, number = struct.unpack_from("=QIIi", asked)
            refuse = number in MKDIR
            fcntl.ioctl(fd, SEND, struct.pack("=QqiI", id, 0, -28 if refuse else 0, 0 if refuse else CONTINUE))
        except OSError:
            pass
MKDIR = [83, 258] if os.uname().machine == "x86_64" else [34]
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
print("ready", flush=True)
while True:
    connection, _ = server.accept()
    text, fds, _, _ = socket.recv_fds(connection, 1 << 20, 1)
    while part := connection.recv(1 << 20):
        text += part
    state = json.loads(text)
    state["link"] = os.readlink(f"/proc/self/fd/{fds[0]}")
    print(json.dumps(state), flush=True)
    threading.Thread(target=answer, args=(fds[0],), daemon=True).start()
"#;

/// Whoever answers.
struct Agent {
    process: Child,
    lines: Lines,
    path: PathBuf,
}

impl Agent {
    fn at(path: &Path) -> Agent {
        let mut process = Command::new("python3")
            .args(["-c", AGENT])
            .arg(path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let lines = Lines::of(&mut process);
        let path = path.to_owned();
        let agent = Agent {
            process,
            lines,
            path,
        };
        assert_eq!(agent.lines.next(), "ready");
        agent
    }

    /// What the next connection brought.
    fn state(&self) -> Value {
        serde_json::from_str(&self.lines.next()).unwrap()
    }

    fn profile(&self, default: &str, names: &[&str]) -> Value {
        json!({
            "defaultAction": default,
            "listenerPath": self.path,
            "listenerMetadata": "who=test",
            "flags": [],
            "syscalls": [{ "names": names, "action": "SCMP_ACT_NOTIFY" }],
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

const MKDIR: [&str; 2] = ["mkdir", "mkdirat"];

fn root() -> Root {
    let root = Root::busybox();
    std::os::unix::fs::symlink("busybox", root.path("bin/mkdir")).unwrap();
    root
}

#[test]
#[ignore = "needs root"]
fn a_container_of_the_monitor_is_answered() {
    let host = Host::new();
    let agent = Agent::at(&host.directory.path().join("agent.sock"));
    let profile = agent.profile("SCMP_ACT_ALLOW", &MKDIR);
    let spec = host.spec(&["/bin/mkdir", "/tmp/x"], |spec| {
        spec["linux"]["seccomp"] = profile;
    });
    let (exit, output) = host.run(&spec, root());
    assert_eq!(exit.code, 1);
    assert!(output.contains("No space left on device"), "{output}");
    let state = agent.state();
    assert_eq!(state["link"], "anon_inode:seccomp notify");
    assert_eq!(state["fds"], json!(["seccompFd"]));
    assert_eq!(state["metadata"], "who=test");
    assert_eq!(state["state"]["id"], "c1");
    assert_eq!(state["state"]["status"], "creating");
    assert_eq!(state["state"]["pid"], state["pid"]);
    let bundle = state["state"]["bundle"].as_str().unwrap();
    assert_eq!(Path::new(bundle), host.run_dir());
}

/// Whatever init does between the loading of the filter and execve may be asked about.
#[test]
#[ignore = "needs root"]
fn no_set_of_calls_makes_init_wait_for_ever() {
    let host = Host::new();
    let agent = Agent::at(&host.directory.path().join("agent.sock"));
    let talking = [
        "close", "sendto", "recvfrom", "recvmsg", "read", "write", "brk", "mmap", "munmap",
        "capset",
    ];
    let sets = [
        ("SCMP_ACT_ALLOW", &talking[..]),
        (
            "SCMP_ACT_ALLOW",
            &["sendmsg", "execve", "close_range", "dup3"],
        ),
        ("SCMP_ACT_ALLOW", &["sendmsg", "sendmmsg"]),
        ("SCMP_ACT_NOTIFY", &[]),
    ];
    let mut runs = 0;
    for (default, names) in sets {
        for no_new_privileges in [true, false] {
            let profile = agent.profile(default, names);
            let spec = host.spec(&["/bin/echo", "through"], |spec| {
                spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
                spec["linux"]["seccomp"] = profile;
            });
            let (exit, output) = host.run(&spec, Root::busybox());
            runs += 1;
            assert_eq!(exit.code, 0, "{default} {names:?}");
            assert_eq!(output, "through\n".repeat(runs), "{default} {names:?}");
            assert_eq!(agent.state()["link"], "anon_inode:seccomp notify");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn without_anybody_there_nothing_is_made() {
    let host = Host::new();
    let spec = host.spec(&["/bin/true"], |spec| {
        spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": host.directory.path().join("nobody.sock"),
            "syscalls": [{ "names": MKDIR, "action": "SCMP_ACT_NOTIFY" }],
        });
    });
    let refusal = host.create(&spec, root()).unwrap_err().to_string();
    assert!(refusal.contains("hand seccomp listener to"), "{refusal}");
    assert!(refusal.contains("nobody.sock"), "{refusal}");
    host.assert_nothing_left();
}

#[test]
#[ignore = "needs root"]
fn the_commands_hand_over_too_and_exec_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::at(&directory.path().join("agent.sock"));
    let profile = agent.profile("SCMP_ACT_ALLOW", &MKDIR);
    let bundle = Bundle::running(|spec| {
        spec["annotations"] = json!({"org.test": "yes"});
        spec["linux"]["seccomp"] = profile;
    });
    let created = agent.state();
    assert_eq!(created["pid"], bundle.pid());
    assert_eq!(created["state"]["status"], "creating");
    assert_eq!(created["state"]["annotations"]["org.test"], "yes");
    let refused = bundle.run(&["exec", ID, "busybox", "mkdir", "/tmp/x"]);
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("No space left on device"), "{text}");
    let executed = agent.state();
    assert_eq!(executed["state"]["status"], "running");
    assert_eq!(executed["state"]["pid"], bundle.pid());
    assert_ne!(executed["pid"], created["pid"]);
}

#[test]
#[ignore = "needs root"]
fn a_hook_that_is_a_program_of_the_image_is_filtered_too() {
    let script = "grep -E '^(Seccomp|CapPrm):' /proc/self/status > /tmp/hook";
    let bundle = Bundle::running(|spec| {
        spec["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW" });
        spec["hooks"] = json!({"startContainer": [
            {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"]},
        ]});
    });
    let seen = std::fs::read_to_string(bundle.image("tmp/hook")).unwrap();
    let own = bundle.exec(&[ID, "grep", "-E", "^(Seccomp|CapPrm):", "/proc/1/status"]);
    assert_eq!(seen, own);
    assert!(seen.contains("Seccomp:\t2"), "{seen}");
}
