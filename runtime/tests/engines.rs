//! podman, containerd and docker, as Debian has them, run containers on this runtime, which they take for runc.
//!
//! The limits on files and processes are given because a host without CAP_SYS_RESOURCE refuses podman's own.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use support::{Host, eventually};

const RUNTIME: &str = env!("CARGO_BIN_EXE_longshore-runtime");

/// The folders that both share with the whole host are this test's own, and empty.
fn hide_folders_of_the_host() {
    for folder in ["/run", "/dev/shm", "/var/lib"] {
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), folder, Some("tmpfs"), flags, None::<&str>).unwrap();
    }
}

/// And are the host's again, as the host of the test counts mounts at its end.
fn show_folders_of_the_host() {
    for folder in ["/run", "/dev/shm", "/var/lib"] {
        nix::mount::umount2(folder, nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
}

/// A root file system in a folder, which is what both take besides an image.
fn busybox(host: &Host) -> PathBuf {
    let root = host.directory.path().join("rootfs");
    for folder in ["bin", "dev", "etc", "proc", "sys", "tmp", "run", "var"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    support::program::install("/bin/busybox", root.join("bin/busybox"));
    for applet in ["sh", "echo", "sleep", "cat", "id"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    root
}

fn words(command: &mut Command) -> (Output, String) {
    let output = command.stdin(Stdio::null()).output().expect("installed");
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output, said)
}

/// Runs a command that must succeed: what it said.
fn succeed(command: &mut Command) -> String {
    let (output, said) = words(command);
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

fn podman(host: &Host) -> Command {
    let folder = |name: &str| host.directory.path().join(name);
    let mut podman = Command::new("podman");
    podman
        .args(["--cgroup-manager", "cgroupfs", "--events-backend", "file"])
        .args(["--runtime", RUNTIME])
        .arg("--root")
        .arg(folder("store"))
        .arg("--runroot")
        .arg(folder("run"))
        .arg("--tmpdir")
        .arg(folder("tmp"));
    podman
}

fn podman_run(host: &Host, root: &Path, flags: &[&str], program: &[&str]) -> Command {
    let mut run = podman(host);
    run.args(["run", "--network", "none"])
        .args([
            "--ulimit",
            "nofile=1000:1000",
            "--ulimit",
            "nproc=1000:1000",
        ])
        .arg(format!("--cgroup-parent=/{}", host.cgroup))
        .args(flags)
        .arg("--rootfs")
        .arg(root)
        .args(program);
    run
}

/// Groups, and the announcement of a socket that is not open, which is no error below crun.
fn podman_hands_on_what_its_caller_has(host: &Host, root: &Path) {
    let script = "echo $LISTEN_FDS $LISTEN_PID; cat /proc/self/status";
    let flags = ["--rm", "--group-add", "keep-groups"];
    let run = podman_run(host, root, &flags, &["/bin/sh", "-c", script]);
    let mut caller = Command::new("setpriv");
    caller.arg("--groups=7,8").arg(run.get_program());
    caller.args(run.get_args());
    caller.envs([("LISTEN_FDS", "1"), ("LISTEN_PID", "100")]);
    let said = succeed(&mut caller);
    assert!(said.starts_with("1 1\n"), "{said}");
    assert!(said.contains("\nGroups:\t7 8"), "{said}");
}

#[test]
#[ignore = "needs root, podman"]
fn podman_runs_executes_pauses_and_removes() {
    let host = Host::new();
    hide_folders_of_the_host();
    let root = busybox(&host);
    let script = ["/bin/sh", "-c", "id -u; exit 7"];
    let (output, said) = words(&mut podman_run(&host, &root, &["--rm"], &script));
    assert_eq!(output.status.code(), Some(7), "{said}");
    assert!(said.starts_with("0\n"), "{said}");

    podman_hands_on_what_its_caller_has(&host, &root);
    let flags = ["--detach", "--name", "stays", "--memory", "64m"];
    succeed(&mut podman_run(
        &host,
        &root,
        &flags,
        &["/bin/sleep", "1000"],
    ));
    let said = succeed(podman(&host).args(["exec", "stays", "/bin/echo", "inside"]));
    assert_eq!(said, "inside\n");
    // podman tells these apart by the runtime's words.
    for (program, status) in [("/etc", 126), ("/nothing", 127), ("nothing", 127)] {
        let (output, said) = words(podman(&host).args(["exec", "stays", program]));
        assert_eq!(output.status.code(), Some(status), "{program}: {said}");
    }
    succeed(podman(&host).args(["pause", "stays"]));
    succeed(podman(&host).args(["unpause", "stays"]));
    let said = succeed(podman(&host).args(["stats", "--no-stream", "stays"]));
    assert!(said.contains("67.11MB"), "{said}");
    let said = succeed(podman(&host).args(["top", "stays"]));
    assert!(said.contains("/bin/sleep 1000"), "{said}");
    succeed(podman(&host).args(["stop", "--time", "1", "stays"]));
    let said = succeed(podman(&host).args(["inspect", "--format", "{{.State.ExitCode}}", "stays"]));
    assert_eq!(said, "137\n");
    succeed(podman(&host).args(["rm", "stays"]));
    show_folders_of_the_host();
}

/// containerd with folders of its own; it ends with the test.
struct Containerd {
    daemon: Child,
    address: PathBuf,
}

impl Containerd {
    fn start(host: &Host) -> Containerd {
        let folder = host.directory.path().join("containerd");
        std::fs::create_dir(&folder).unwrap();
        let address = folder.join("socket");
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let daemon = Command::new("containerd")
            .arg("--root")
            .arg(folder.join("root"))
            .arg("--state")
            .arg(folder.join("state"))
            .arg("--address")
            .arg(&address)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("Debian's containerd");
        let containerd = Containerd { daemon, address };
        eventually("containerd answers", || {
            words(containerd.ctr().arg("version")).0.status.success()
        });
        containerd
    }

    fn ctr(&self) -> Command {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(&self.address);
        ctr
    }

    fn run(&self, host: &Host, root: &Path, flags: &[&str], rest: &[&str]) -> Command {
        let mut run = self.ctr();
        run.args(["run", "--rootfs", "--runc-binary", RUNTIME])
            .arg(format!("--cgroup=/{}/{}", host.cgroup, rest[0]))
            .args(flags)
            .arg(root)
            .args(rest);
        run
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }
}

#[test]
#[ignore = "needs root, containerd"]
fn containerd_runs_executes_pauses_and_removes() {
    let host = Host::new();
    hide_folders_of_the_host();
    let root = busybox(&host);
    let containerd = Containerd::start(&host);
    let script = ["once", "/bin/sh", "-c", "id -u; exit 7"];
    let (output, said) = words(&mut containerd.run(&host, &root, &["--rm"], &script));
    assert_eq!(output.status.code(), Some(7), "{said}");
    assert!(said.starts_with("0\n"), "{said}");

    let stays = ["stays", "/bin/sleep", "1000"];
    succeed(&mut containerd.run(&host, &root, &["--detach"], &stays));
    let exec = [
        "task",
        "exec",
        "--exec-id",
        "one",
        "stays",
        "/bin/echo",
        "inside",
    ];
    assert_eq!(succeed(containerd.ctr().args(exec)), "inside\n");
    succeed(containerd.ctr().args(["task", "pause", "stays"]));
    let said = succeed(containerd.ctr().args(["task", "ls"]));
    assert!(said.contains("PAUSED"), "{said}");
    succeed(containerd.ctr().args(["task", "resume", "stays"]));
    let said = succeed(containerd.ctr().args(["task", "metrics", "stays"]));
    assert!(said.contains("memory.usage_in_bytes"), "{said}");
    succeed(
        containerd
            .ctr()
            .args(["task", "kill", "-s", "KILL", "stays"]),
    );
    eventually("the task has stopped", || {
        succeed(containerd.ctr().args(["task", "ls"])).contains("STOPPED")
    });
    // Its exit status is the task's.
    let (output, said) = words(containerd.ctr().args(["task", "rm", "stays"]));
    assert!(matches!(output.status.code(), Some(0 | 137)), "{said}");
    succeed(containerd.ctr().args(["container", "rm", "stays"]));
    drop(containerd);
    show_folders_of_the_host();
}

/// docker's daemon with folders of its own, and no network but the container's own `lo`; it ends with the test.
struct Docker {
    daemon: Child,
    address: String,
}

impl Docker {
    fn start(host: &Host) -> Docker {
        let folder = host.directory.path().join("docker");
        std::fs::create_dir(&folder).unwrap();
        let address = format!("unix://{}", folder.join("socket").display());
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let daemon = Command::new("dockerd")
            .args(["--host", &address, "--storage-driver", "vfs"])
            .args(["--bridge=none", "--iptables=false", "--ip6tables=false"])
            .args(["--ip-forward=false", "--userland-proxy=false"])
            .args(["--add-runtime", &format!("longshore={RUNTIME}")])
            .args(["--cgroup-parent", &format!("/{}", host.cgroup)])
            .arg("--data-root")
            .arg(folder.join("data"))
            .arg("--exec-root")
            .arg(folder.join("exec"))
            .arg("--pidfile")
            .arg(folder.join("pid"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("Debian's docker.io");
        let docker = Docker { daemon, address };
        eventually("docker answers", || {
            words(docker.client().arg("info")).0.status.success()
        });
        docker
    }

    fn client(&self) -> Command {
        let mut client = Command::new("docker");
        client.args(["--host", &self.address]);
        client
    }

    /// An image of what `busybox` made.
    fn import(&self, root: &Path) {
        let archive = Command::new("tar")
            .arg("--directory")
            .arg(root)
            .args(["--create", "."])
            .stdout(Stdio::piped())
            .spawn();
        let mut archive = archive.unwrap();
        let input = archive.stdout.take().unwrap();
        let import = self
            .client()
            .args(["import", "-", "box"])
            .stdin(input)
            .output();
        assert!(import.unwrap().status.success());
        assert!(archive.wait().unwrap().success());
    }

    fn run(&self, flags: &[&str], program: &[&str]) -> Command {
        let mut run = self.client();
        run.args(["run", "--runtime", "longshore", "--network", "none"])
            .args(flags)
            .arg("box")
            .args(program);
        run
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // It ends its own containerd only if it is asked to end.
        let pid = nix::unistd::Pid::from_raw(self.daemon.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.daemon.wait().unwrap();
    }
}

#[test]
#[ignore = "needs root, docker"]
fn docker_runs_executes_pauses_updates_and_removes() {
    let host = Host::new();
    hide_folders_of_the_host();
    let docker = Docker::start(&host);
    docker.import(&busybox(&host));
    let script = ["/bin/sh", "-c", "id -u; exit 7"];
    let (output, said) = words(&mut docker.run(&["--rm"], &script));
    assert_eq!(output.status.code(), Some(7), "{said}");
    assert!(said.starts_with("0\n"), "{said}");

    let flags = ["--detach", "--name", "stays", "--memory", "64m"];
    succeed(&mut docker.run(&flags, &["/bin/sleep", "1000"]));
    let said = succeed(
        docker
            .client()
            .args(["exec", "stays", "/bin/echo", "inside"]),
    );
    assert_eq!(said, "inside\n");
    succeed(docker.client().args(["pause", "stays"]));
    let said = succeed(docker.client().arg("ps"));
    assert!(said.contains("(Paused)"), "{said}");
    succeed(docker.client().args(["unpause", "stays"]));
    let limits = ["update", "--memory", "32m", "--memory-swap", "32m", "stays"];
    succeed(docker.client().args(limits));
    let said = succeed(docker.client().args(["stats", "--no-stream", "stays"]));
    assert!(said.contains("/ 32MiB"), "{said}");
    let said = succeed(docker.client().args(["top", "stays"]));
    assert!(said.contains("/bin/sleep 1000"), "{said}");
    succeed(docker.client().args(["stop", "--time", "1", "stays"]));
    let of = "{{.State.ExitCode}} {{.HostConfig.Runtime}}";
    let said = succeed(docker.client().args(["inspect", "--format", of, "stays"]));
    assert_eq!(said, "137 longshore\n");
    succeed(docker.client().args(["rm", "stays"]));
    drop(docker);
    show_folders_of_the_host();
}
