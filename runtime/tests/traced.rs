//! What others see, and what is refused, at a moment that is too short to be met by chance: ptrace(2) makes a command stand
//! still there, or lets the kernel answer what it never should.

#![cfg(target_arch = "x86_64")] // Registers.

mod support;
#[path = "support/trace.rs"]
mod trace;

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::sys::ptrace;
use nix::unistd::Pid;
use serde_json::json;
use support::cli::{Bundle, ID};
use trace::Side;

const PROGRAM: &str = env!("CARGO_BIN_EXE_longshore-runtime");

/// The tracer waits for any child, so there is one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn arguments(bundle: &Bundle, args: &[&str]) -> Vec<String> {
    let state = bundle.path("state");
    let directory = bundle.path("");
    let mut all = vec!["--root", state.to_str().unwrap()];
    all.extend(support::driver::flags());
    all.extend(args);
    if args[0] == "create" {
        all.extend(["--bundle", directory.to_str().unwrap()]);
    }
    all.push(ID);
    all.into_iter().map(str::to_owned).collect()
}

fn number(pid: Pid) -> i64 {
    ptrace::getregs(pid).unwrap().orig_rax as i64
}

/// CVE-2016-9962: init has just been born into the pid and user namespace of another container, whose root has every right
/// in that user namespace, and is no other user yet.
#[test]
#[ignore = "needs root"]
fn nobody_can_look_into_an_init_that_was_just_born_into_their_namespaces() {
    let _alone = ALONE.lock().unwrap_or_else(|broken| broken.into_inner());
    let first = Bundle::running(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "user"}));
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        spec["linux"]["uidMappings"] = map.clone();
        spec["linux"]["gidMappings"] = map;
        let all: Vec<String> = caps::all().iter().map(ToString::to_string).collect();
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set] = json!(all);
        }
    });
    let holder = first.pid();
    let second = Bundle::new(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces[0] = json!({"type": "pid", "path": format!("/proc/{holder}/ns/pid")});
        namespaces.push(json!({"type": "user", "path": format!("/proc/{holder}/ns/user")}));
    });
    let look = "for at in /proc/[0-9]*; do case $at in /proc/1|/proc/$$) ;; *) echo there; readlink $at/exe; readlink $at/cwd; \
                readlink $at/root; readlink $at/fd/0; readlink $at/fd/9; ls $at/root/ ;; esac; done";
    let mut seen = String::new();
    let mut main = None;
    trace::interfere(
        PROGRAM,
        &arguments(&second, &["create"]),
        &mut |pid, side| {
            // Whoever calls first is the command itself. It waits for the stage, which has cloned init.
            let main = *main.get_or_insert(pid);
            let waits = side == Side::Entry && number(pid) == libc::SYS_waitid;
            if pid == main && waits && seen.is_empty() {
                let output = first.run(&["exec", ID, "sh", "-c", look]);
                seen = String::from_utf8(output.stdout).unwrap();
            }
        },
    );
    assert_eq!(seen, "there\n");
    assert!(second.ok(&["state", ID]).contains("created"));
}

/// CVE-2025-52565: a slave that is none. The kernel would not give one; the test lets it give the master.
#[test]
#[ignore = "needs root"]
fn a_slave_is_proven_by_its_device_number() {
    let _alone = ALONE.lock().unwrap_or_else(|broken| broken.into_inner());
    let bundle = Bundle::running(|_| {});
    let exec = |swap: bool| {
        let mut swapped = 0;
        let log = bundle.path("log");
        let log = log.to_str().unwrap();
        let mut args = arguments(&bundle, &["--log", log, "exec", "--tty"]);
        args.push("true".to_owned());
        let status = trace::interfere(PROGRAM, &args, &mut |pid, side| {
            if !swap || side == Side::Exit || number(pid) != libc::SYS_ioctl {
                return;
            }
            let mut registers = ptrace::getregs(pid).unwrap();
            if registers.rsi == u64::from(libc::TIOCGPTPEER as u32) {
                // The same first argument.
                registers.orig_rax = libc::SYS_dup as u64;
                ptrace::setregs(pid, registers).unwrap();
                swapped += 1;
            }
        });
        (status, swapped)
    };
    assert_eq!(exec(false), (Some(0), 0));
    assert_eq!(exec(true), (Some(255), 1));
}

/// The program as it is installed: linked statically to a fixed address, as it must be to change its seat.
fn installed() -> String {
    let stage = std::env::var_os("LONGSHORE_STAGE").map(PathBuf::from);
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/stage/dev");
    let program = stage.unwrap_or(ours).join("longshore-runtime");
    assert!(program.exists(), "run scripts/build dev first");
    program.to_str().unwrap().to_owned()
}

/// CVE-2019-5736: sealed by the way that executes nothing, and by the one that does.
#[test]
#[ignore = "needs root"]
fn the_program_is_sealed_also_where_the_kernel_does_not_exchange_its_file() {
    let _alone = ALONE.lock().unwrap_or_else(|broken| broken.into_inner());
    let program = installed();
    let executed = |refuse: bool| {
        let bundle = Bundle::new(|_| {});
        let args = arguments(&bundle, &["create"]);
        let (mut main, mut executed) = (None, 0);
        let status = trace::interfere(&program, &args, &mut |pid, side| {
            let main = *main.get_or_insert(pid);
            if pid != main || side == Side::Exit {
                return;
            }
            let mut registers = ptrace::getregs(pid).unwrap();
            match registers.orig_rax as i64 {
                libc::SYS_execveat => executed += 1,
                libc::SYS_prctl if refuse && registers.rdi == libc::PR_SET_MM as u64 => {
                    // No call of any name: ENOSYS.
                    registers.orig_rax = u64::MAX;
                    ptrace::setregs(pid, registers).unwrap();
                }
                _ => {}
            }
        });
        assert_eq!(status, Some(0));
        // All that leads to it: the link to the program, and those to what is mapped of it.
        let process = format!("/proc/{}", bundle.pid());
        let mapped = std::fs::read_dir(format!("{process}/map_files")).unwrap();
        let mapped = mapped.map(|entry| entry.unwrap().path());
        let ways: Vec<_> = mapped.chain([format!("{process}/exe").into()]).collect();
        assert!(ways.len() > 2, "{ways:?}");
        for way in ways {
            let mount = rustix::fs::statvfs(&way).unwrap();
            let sealed = rustix::fs::StatVfsMountFlags::RDONLY;
            assert!(mount.f_flag.contains(sealed), "{way:?}");
        }
        executed
    };
    assert_eq!(executed(false), 0);
    assert_eq!(executed(true), 1);
}
