//! Containers of a user who has no privilege on the host.

mod support;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use support::{APPLETS, BUSYBOX, own_mount_namespace};

const USER: u32 = 54_321;

/// A user's bundle and state directory.
struct Home {
    directory: tempfile::TempDir,
    /// The v2 group that the user's commands are started in.
    within: Option<PathBuf>,
}

impl Home {
    /// With the specification that `spec --rootless` writes for this user, changed.
    fn new(args: &[&str], change: impl FnOnce(&mut Value)) -> Home {
        own_mount_namespace();
        let home = Home {
            directory: tempfile::tempdir().unwrap(),
            within: None,
        };
        let bin = home.path("bundle/rootfs/bin");
        std::fs::create_dir_all(&bin).unwrap();
        support::program::install(BUSYBOX, bin.join("busybox"));
        for applet in APPLETS {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
        }
        for path in ["", "bundle", "bundle/rootfs", "bundle/rootfs/bin"] {
            std::os::unix::fs::chown(home.path(path), Some(USER), Some(USER)).unwrap();
        }
        home.succeed(&["spec", "--rootless"]);
        let config = home.path("bundle/config.json");
        let mut spec: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
        spec["process"]["args"] = json!(args);
        spec["process"]["terminal"] = json!(false);
        change(&mut spec);
        std::fs::write(config, spec.to_string()).unwrap();
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The runtime as the user. Only root moves it from the test's group into the user's.
    fn program(&self) -> Command {
        const PROGRAM: &str = env!("CARGO_BIN_EXE_longshore-runtime");
        let Some(group) = &self.within else {
            let mut command = Command::new(PROGRAM);
            command.uid(USER).gid(USER);
            return command;
        };
        let mut command = Command::new("/bin/sh");
        let script = format!(
            "echo $$ > {}/cgroup.procs && exec setpriv --reuid {USER} --regid {USER} --clear-groups {PROGRAM} \"$@\"",
            group.display()
        );
        command.args(["-c", &script, "sh"]);
        command
    }

    fn runtime(&self, args: &[&str]) -> Output {
        let file = |name: &str| std::fs::File::create(self.path(name)).unwrap();
        let status = self
            .program()
            .arg("--root")
            .arg(self.path("state"))
            .args(args)
            .current_dir(self.path("bundle"))
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .status()
            .unwrap();
        Output {
            status,
            stdout: std::fs::read(self.path("stdout")).unwrap(),
            stderr: std::fs::read(self.path("stderr")).unwrap(),
        }
    }

    #[track_caller]
    fn succeed(&self, args: &[&str]) -> String {
        let output = self.runtime(args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*errors), (Some(0), ""), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn fail(&self, args: &[&str], words: &str) {
        let output = self.runtime(args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {errors}");
        assert!(errors.contains(words), "{args:?}: {errors}");
        assert!(
            !self.path("state/c1").exists(),
            "{args:?}: a record is left"
        );
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let deleted = self.runtime(&["delete", "--force", "c1"]);
        if !std::thread::panicking() {
            assert!(deleted.status.success(), "{deleted:?}");
            assert!(!self.path("state/c1").exists());
        }
    }
}

const LOOK: &str = "id -u; cat /proc/self/uid_map; grep -c . /proc/1/comm; echo x > /tmp/made; \
                    echo lost > /dev/null; cat /dev/null";

#[test]
#[ignore = "needs root"]
fn a_user_runs_a_container_as_its_root() {
    let home = Home::new(&["/bin/sh", "-c", LOOK], |spec| {
        spec["root"]["readonly"] = json!(false);
    });
    std::fs::create_dir(home.path("bundle/rootfs/tmp")).unwrap();
    std::os::unix::fs::chown(home.path("bundle/rootfs/tmp"), Some(USER), Some(USER)).unwrap();
    let output = home.succeed(&["run", "c1"]);
    let words: Vec<&str> = output.split_whitespace().collect();
    assert_eq!(words, ["0", "0", &USER.to_string(), "1", "1"]);
    use std::os::unix::fs::MetadataExt;
    let made = std::fs::metadata(home.path("bundle/rootfs/tmp/made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (USER, USER));
}

#[test]
#[ignore = "needs root"]
fn a_user_creates_starts_enters_and_deletes_a_container() {
    let home = Home::new(&["/bin/sleep", "1000"], |_| {});
    home.succeed(&["create", "c1"]);
    home.succeed(&["start", "c1"]);
    let state: Value = serde_json::from_str(&home.succeed(&["state", "c1"])).unwrap();
    assert_eq!(state["status"], "running");
    let pid = state["pid"].as_u64().unwrap();
    assert_eq!(home.succeed(&["exec", "c1", "/bin/id", "-u"]), "0\n");
    home.succeed(&["kill", "c1", "KILL"]);
    support::eventually("it has ended", || {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .map_or(true, |stat| stat.contains(") Z"))
    });
    home.succeed(&["delete", "c1"]);
    assert!(!home.path("state/c1").exists());
}

#[test]
#[ignore = "needs root"]
fn a_user_joins_a_time_namespace_of_their_own() {
    let home = Home::new(&["/bin/cat", "/proc/uptime"], |spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "time"}));
        spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000_000}});
    });
    let uptime = home.succeed(&["run", "c1"]);
    let seconds: f64 = uptime.split('.').next().unwrap().parse().unwrap();
    assert!(seconds >= 1e9, "{uptime}");
}

/// Through newuidmap and newgidmap, with an /etc/subuid of the test's own.
#[test]
#[ignore = "needs root"]
fn a_user_with_subordinate_ids_maps_a_range() {
    let args = ["/bin/sh", "-c", "id -u; id -G; cat /proc/self/uid_map"];
    let home = Home::new(&args, |spec| {
        for name in ["uidMappings", "gidMappings"] {
            spec["linux"][name] = json!([
                {"containerID": 0, "hostID": USER, "size": 1},
                {"containerID": 1, "hostID": 700_000, "size": 100},
            ]);
        }
        spec["process"]["user"] = json!({"uid": 7, "gid": 8, "additionalGids": [9]});
    });
    // newuidmap knows users by name.
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let ours = format!("rootless:x:{USER}:{USER}::/:/bin/sh\n");
    lay_over("/etc/passwd", &(passwd + &ours), &home);
    for file in ["/etc/subuid", "/etc/subgid"] {
        if !Path::new(file).exists() {
            return support::skip::skip("Debian's uidmap is not installed");
        }
        lay_over(file, "rootless:700000:100\n", &home);
    }
    let output = home.succeed(&["run", "c1"]);
    let words: Vec<&str> = output.split_whitespace().collect();
    let user = USER.to_string();
    assert_eq!(
        words,
        ["7", "8", "9", "0", &user, "1", "1", "700000", "100"]
    );
}

/// In the thread's own mount namespace.
fn lay_over(file: &str, text: &str, home: &Home) {
    let copy = home.path(Path::new(file).file_name().unwrap().to_str().unwrap());
    std::fs::write(&copy, text).unwrap();
    let flags = nix::mount::MsFlags::MS_BIND;
    nix::mount::mount(Some(&copy), file, None::<&str>, flags, None::<&str>).unwrap();
}

/// Words of a refusal, and the change of the spec that earns it.
type Case = (&'static str, fn(&mut Value));

#[test]
#[ignore = "needs root"]
fn what_the_host_does_not_allow_a_user_is_refused_in_words() {
    let cases: [Case; 5] = [
        ("needs a user namespace", |spec| {
            let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != "user");
            for name in ["uidMappings", "gidMappings"] {
                spec["linux"].as_object_mut().unwrap().remove(name);
            }
        }),
        ("newuidmap", |spec| {
            spec["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 1, "size": 1}]);
        }),
        ("groups cannot be set", |spec| {
            spec["process"]["user"]["additionalGids"] = json!([0]);
        }),
        ("no mapping", |spec| {
            spec["process"]["user"]["uid"] = json!(5)
        }),
        ("cgroup", |spec| {
            spec["linux"]["resources"] = json!({"memory": {"limit": 100_000_000}});
        }),
    ];
    for (words, change) in cases {
        Home::new(&["/bin/true"], change).fail(&["run", "c1"], words);
    }
}

#[test]
#[ignore = "needs root"]
fn lowering_the_oom_score_is_refused_and_raising_it_is_not() {
    let args = ["/bin/cat", "/proc/self/oom_score_adj"];
    let home = Home::new(&args, |spec| spec["process"]["oomScoreAdj"] = json!(500));
    assert_eq!(home.succeed(&["run", "c1"]), "500\n");
    let home = Home::new(&args, |spec| spec["process"]["oomScoreAdj"] = json!(-500));
    home.fail(&["run", "c1"], "CAP_SYS_RESOURCE");
}

#[test]
#[ignore = "needs root"]
fn a_container_whose_processes_nobody_could_find_is_refused() {
    let home = Home::new(&["/bin/sleep", "1000"], |spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| mount["destination"] != "/proc");
        for paths in ["maskedPaths", "readonlyPaths"] {
            spec["linux"].as_object_mut().unwrap().remove(paths);
        }
    });
    let words = "neither a cgroup nor a new pid namespace";
    home.fail(&["run", "--detach", "c1"], words);
    home.fail(&["create", "c1"], words);
    // Whoever asks for no cgroup gets the same answer.
    let disabled = ["--cgroup-manager", "disabled", "create", "c1"];
    home.fail(&disabled, words);
}

#[test]
#[ignore = "needs root"]
fn without_a_cgroup_processes_are_found_by_their_pid_namespace_and_the_rest_is_refused() {
    let script = "exec 2>/dev/null; trap 'touch /dev/shm/told' USR1; \
                  sh -c 'trap \"touch /dev/shm/too\" USR1; touch /dev/shm/ready; while :; do sleep 0.1; done' & \
                  while :; do wait; done";
    let home = Home::new(&["/bin/sh", "-c", script], |_| {});
    home.succeed(&["run", "--detach", "c1"]);
    let there = |file: &str| {
        let args = ["exec", "c1", "/bin/ls", "/dev/shm/"];
        home.succeed(&args).lines().any(|line| line == file)
    };
    support::eventually("it is ready", || there("ready"));
    let state: Value = serde_json::from_str(&home.succeed(&["state", "c1"])).unwrap();
    let pids: Vec<u64> = serde_json::from_str(&home.succeed(&["ps", "-f", "json", "c1"])).unwrap();
    assert!(pids.len() >= 2, "{pids:?}");
    assert!(pids.contains(&state["pid"].as_u64().unwrap()), "{pids:?}");
    assert!(home.succeed(&["ps", "c1"]).lines().count() > 2);
    home.succeed(&["kill", "--all", "c1", "USR1"]);
    support::eventually("all are told", || there("told") && there("too"));
    for args in [
        &["pause", "c1"][..],
        &["update", "--memory", "30m", "c1"],
        &["events", "--stats", "c1"],
    ] {
        let output = home.runtime(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(
            said.contains("let its user make no cgroup"),
            "{args:?}: {said}"
        );
    }
    home.succeed(&["kill", "--all", "c1", "KILL"]);
    support::eventually("all have ended", || {
        pids.iter().all(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            stat.map_or(true, |stat| stat.contains(") Z"))
        })
    });
}

/// It tells how much the caller could give.
#[test]
#[ignore = "needs root"]
fn a_limit_above_the_caller_s_own_is_refused_with_a_remedy() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let Some(limit) = limit else {
        return support::skip::skip("the test has no limit on open files");
    };
    let home = Home::new(&["/bin/true"], |spec| {
        spec["process"]["rlimits"] =
            json!([{"type": "RLIMIT_NOFILE", "soft": limit + 1, "hard": limit + 1}]);
    });
    home.fail(&["run", "c1"], &format!("ask for at most {limit}"));
}

/// Below a group that was given to the user, a limit holds.
#[test]
#[ignore = "needs root"]
fn a_user_limits_a_container_in_a_group_that_was_delegated() {
    let name = format!("longshore-test-{}-delegated", std::process::id());
    let hierarchy = longshore_runtime::cgroup::Hierarchy::of_host().unwrap();
    let group = hierarchy.group(&name).unwrap();
    group.create().unwrap();
    // v2 lets a user move processes only within what is theirs, so the commands are started there.
    let leaf = format!("{name}/commands");
    hierarchy.group(&leaf).unwrap().create().unwrap();
    let points = std::fs::read_dir("/sys/fs/cgroup").unwrap();
    let points = points.map(|entry| entry.unwrap().path());
    let all = points.flat_map(|point| [point.join(&name), point.join(&leaf)]);
    let v2 = [&name, &leaf].map(|name| Path::new("/sys/fs/cgroup").join(name));
    for directory in all.chain(v2.clone()) {
        let files = [
            "",
            "cgroup.procs",
            "cgroup.subtree_control",
            "cgroup.threads",
        ];
        for file in files.map(|file| directory.join(file)) {
            if file.exists() {
                std::os::unix::fs::chown(file, Some(USER), Some(USER)).unwrap();
            }
        }
    }
    let mut home = Home::new(&["/bin/sleep", "1000"], |spec| {
        spec["linux"]["cgroupsPath"] = json!(format!("/{name}/c1"));
        spec["linux"]["resources"] = json!({"pids": {"limit": 7}});
    });
    home.within = hierarchy.is_v2().then(|| v2[1].clone());
    home.succeed(&["run", "--detach", "c1"]);
    let inner = hierarchy.group(&format!("{name}/c1")).unwrap();
    assert_eq!(inner.processes().unwrap().len(), 1);
    drop(home);
    assert!(!inner.exists());
    group.remove().unwrap();
}

/// A user whose systemd runs (`loginctl enable-linger`) gets limits from it, also when they come from a session that it
/// does not govern: from there only systemd may move a process in.
#[test]
#[ignore = "needs root"]
fn a_user_s_own_systemd_limits_the_container_and_moves_exec_into_it() {
    if !Path::new(&format!("/run/user/{USER}/bus")).exists() {
        return support::skip::skip("the user has no systemd of their own");
    }
    let home = Home::new(&["/bin/sleep", "1000"], |spec| {
        spec["linux"]["resources"] = json!({"pids": {"limit": 20}, "memory": {"limit": 64 << 20}});
    });
    let systemd = |words: &[&str]| home.succeed(&[&["--systemd-cgroup"], words].concat());
    systemd(&["run", "--detach", "c1"]);
    let service = format!("user.slice/user-{USER}.slice/user@{USER}.service");
    let scope = Path::new("/sys/fs/cgroup")
        .join(service)
        .join("user.slice/longshore-c1.scope");
    let limit = |name: &str| std::fs::read_to_string(scope.join(name)).unwrap_or_default();
    assert_eq!(
        (limit("pids.max").trim(), limit("memory.max").trim()),
        ("20", "67108864")
    );
    systemd(&[
        "exec",
        "--detach",
        "--pid-file",
        "pid",
        "c1",
        "/bin/sleep",
        "1000",
    ]);
    let pid = std::fs::read_to_string(home.path("bundle/pid")).unwrap();
    assert!(
        limit("cgroup.procs").lines().any(|line| line == pid.trim()),
        "{pid}"
    );
    systemd(&["update", "--pids-limit", "30", "c1"]);
    assert_eq!(limit("pids.max").trim(), "30");
    systemd(&["pause", "c1"]);
    systemd(&["resume", "c1"]);
    systemd(&["delete", "--force", "c1"]);
    assert!(!scope.exists());
}
