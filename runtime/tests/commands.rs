//! The commands in every state of a container, right and wrong.

mod support;

use std::io::{Read, Write};
use std::os::fd::AsRawFd;

use serde_json::{Value, json};
use support::commands::{Cli, Said, text};
use support::lines::Lines;
use support::{driver, eventually};

/// Words of a refusal, and the change of the spec that earns it.
type Broken = (&'static str, fn(&mut Value));

#[test]
#[ignore = "needs root"]
fn a_life_in_all_its_states() {
    let cli = Cli::new();
    cli.create("c", &["sleep", "1000"]);
    let state = cli.state("c");
    let bundle = cli.directory.path().join("bundles/c");
    assert_eq!(state["status"], "created");
    assert_eq!(
        (&state["id"], &state["ociVersion"]),
        (&json!("c"), &json!("1.3.0"))
    );
    assert_eq!(
        state["bundle"].as_str(),
        bundle.canonicalize().unwrap().to_str()
    );
    assert!(state["pid"].as_u64().unwrap() > 1);
    cli.does(&["start", "c"]);
    assert_eq!(cli.status("c"), "running");
    assert_eq!(cli.state("c")["pid"], state["pid"]);
    cli.refuses(&["start", "c"], "running already");
    cli.refuses(&["delete", "c"], "it is running");
    assert_eq!(cli.status("c"), "running", "refusals change nothing");
    cli.does(&["kill", "c", "KILL"]);
    eventually("it ends", || cli.status("c") == "stopped");
    assert_eq!(cli.state("c")["pid"], 0);
    cli.refuses(&["kill", "c"], "it is stopped");
    cli.refuses(&["start", "c"], "it has stopped");
    cli.refuses(&["pause", "c"], "it is stopped");
    cli.does(&["delete", "c"]);
    cli.assert_gone("c");
    for command in ["state", "start", "kill", "delete", "pause", "resume", "ps"] {
        cli.refuses(&[command, "c"], "it does not exist");
    }
    cli.does(&["delete", "--force", "c"]);
}

#[test]
#[ignore = "needs root"]
fn an_exit_status_is_the_program_s() {
    let cli = Cli::new();
    for (command, status) in [("true", 0), ("exit 7", 7), ("exit 255", 255)] {
        let bundle = cli.bundle("c", &["sh", "-c", command]);
        let said = cli.says(&["run", "--bundle", text(&bundle), "c"]);
        assert_eq!((said.status, said.stderr.as_str()), (status, ""));
        cli.assert_gone("c");
    }
    // From outside, as a first process ignores its own.
    let bundle = cli.bundle("c", &["sh", "-c", "echo up; sleep 1000"]);
    let mut child = cli.start(&mut cli.command(&["run", "-b", text(&bundle), "c"]));
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut [0; 3])
        .unwrap();
    cli.does(&["kill", "c", "9"]);
    assert_eq!(child.wait().unwrap().code(), Some(137));
    cli.assert_gone("c");
}

#[test]
#[ignore = "needs root"]
fn what_ends_at_once_is_not_missed() {
    let cli = Cli::new();
    let bundle = cli.bundle("c", &["true"]);
    // Each of systemd's scopes is two of its jobs.
    let times = if driver::is_systemd() { 20 } else { 100 };
    for _ in 0..times {
        cli.does(&["run", "--bundle", text(&bundle), "c"]);
    }
}

#[test]
#[ignore = "needs root"]
fn without_a_process_it_can_be_made_and_not_started() {
    let cli = Cli::new();
    let bundle = cli.changed_bundle("c", &[], |spec| {
        drop(spec.as_object_mut().unwrap().remove("process"));
    });
    cli.does(&["create", "--bundle", text(&bundle), "c"]);
    assert_eq!(cli.status("c"), "created");
    cli.refuses(&["start", "c"], "no process");
    assert_eq!(cli.status("c"), "created");
    cli.does(&["delete", "c"]);
    cli.refuses(&["run", "--bundle", text(&bundle), "c"], "no process");
    cli.assert_gone("c");
}

#[test]
#[ignore = "needs root"]
fn who_deletes_a_container_in_the_foreground_ends_it() {
    let cli = Cli::new();
    let bundle = cli.bundle("c", &["sh", "-c", "echo up; sleep 1000"]);
    // Both remove it, in an order that differs from time to time.
    for _ in 0..20 {
        let mut child = cli.start(&mut cli.command(&["run", "-b", text(&bundle), "c"]));
        let mut up = [0; 3];
        child.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
        cli.does(&["delete", "--force", "c"]);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(137));
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    }
}

#[test]
#[ignore = "needs root"]
fn paths_count_from_the_bundle_and_the_root_can_be_moved() {
    let cli = Cli::new();
    let bundle = cli.changed_bundle("c", &["cat", "/tmp/file"], |spec| {
        let mount = json!({"destination": "/tmp/file", "type": "bind", "source": "file", "options": ["bind"]});
        spec["mounts"].as_array_mut().unwrap().push(mount);
    });
    std::fs::write(bundle.join("file"), "mine").unwrap();
    for options in [
        &[][..],
        &["--no-pivot"],
        &["--no-new-keyring", "--no-subreaper"],
    ] {
        let mut args = vec!["run", "--bundle", text(&bundle)];
        args.extend(options);
        args.push("c");
        assert_eq!(cli.does(&args), "mine");
    }
}

#[test]
#[ignore = "needs root"]
fn an_id_is_taken_once_and_is_never_a_path() {
    let cli = Cli::new();
    cli.create("c", &["sleep", "1000"]);
    let bundle = cli.bundle("c", &["true"]);
    for command in ["create", "run"] {
        cli.refuses(
            &[command, "-b", text(&bundle), "c"],
            "a container of this id exists",
        );
    }
    assert_eq!(cli.status("c"), "created", "the first is as it was");
    for id in ["../c", ".", "..", "a/b", ".c", "a b"] {
        for command in ["create", "state", "start", "kill", "delete"] {
            cli.refuses(&[command, id], "an id is");
        }
        cli.refuses(&["delete", "--force", id], "an id is");
    }
}

#[test]
#[ignore = "needs root"]
fn config_json_is_read_once() {
    let cli = Cli::new();
    cli.create("c", &["sh", "-c", "echo first >/tmp/said; sleep 1000"]);
    let said = cli.directory.path().join("bundles/c/rootfs/tmp/said");
    cli.bundle("c", &["sh", "-c", "echo second >/tmp/said"]);
    cli.does(&["start", "c"]);
    eventually("it speaks", || {
        std::fs::read_to_string(&said).is_ok_and(|said| said == "first\n")
    });
    std::fs::remove_file(cli.directory.path().join("bundles/c/config.json")).unwrap();
    cli.does(&["delete", "--force", "c"]);
}

#[test]
#[ignore = "needs root"]
fn one_that_was_never_started_can_be_deleted() {
    let cli = Cli::new();
    cli.create("c", &["true"]);
    cli.does(&["delete", "c"]);
    cli.assert_gone("c");
    cli.create("c", &["true"]);
    cli.does(&["kill", "c", "KILL"]);
    eventually("it ends", || cli.status("c") == "stopped");
    cli.refuses(&["start", "c"], "it has stopped");
    cli.does(&["delete", "c"]);
}

#[test]
#[ignore = "needs root"]
fn paused_is_neither_running_nor_stopped() {
    let cli = Cli::new();
    cli.run_detached("c", &["sleep", "1000"]);
    cli.refuses(&["resume", "c"], "it is running");
    cli.does(&["pause", "c"]);
    assert_eq!(cli.status("c"), "paused");
    cli.refuses(&["pause", "c"], "it is paused");
    cli.refuses(&["delete", "c"], "it is paused");
    cli.does(&["resume", "c"]);
    assert_eq!(cli.status("c"), "running");
    cli.does(&["pause", "c"]);
    cli.does(&["kill", "c", "KILL"]);
    eventually("even a frozen one ends", || cli.status("c") == "stopped");
    cli.does(&["delete", "c"]);
    cli.run_detached("c", &["sleep", "1000"]);
    cli.does(&["pause", "c"]);
    cli.does(&["delete", "--force", "c"]);
    cli.assert_gone("c");
}

#[test]
#[ignore = "needs root"]
fn kill_all_reaches_what_the_first_process_left() {
    let cli = Cli::new();
    let bundle = cli.changed_bundle("c", &["sh", "-c", "sleep 1000 & exit 0"], |spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
    });
    cli.does(&["run", "--detach", "--bundle", text(&bundle), "c"]);
    eventually("its first process ends", || cli.status("c") == "stopped");
    let pids = cli.does(&["ps", "--format", "json", "c"]);
    let pids: Vec<u32> = serde_json::from_str(&pids).unwrap();
    assert_eq!(pids.len(), 1, "one is left behind");
    cli.refuses(&["kill", "c", "TERM"], "it is stopped");
    cli.does(&["kill", "--all", "c", "TERM"]);
    eventually("nobody is left", || {
        cli.does(&["ps", "-f", "json", "c"]) == "[]\n"
    });
    cli.refuses(&["kill", "c", "KILL"], "it is stopped");
    cli.does(&["delete", "c"]);
    // And delete itself leaves nobody behind.
    cli.does(&["run", "--detach", "--bundle", text(&bundle), "c"]);
    eventually("its first process ends", || cli.status("c") == "stopped");
    cli.does(&["delete", "c"]);
    cli.assert_gone("c");
}

#[test]
#[ignore = "needs root"]
fn ps_shows_what_the_host_sees() {
    let cli = Cli::new();
    cli.run_detached("c", &["sleep", "1000"]);
    let pid = cli.state("c")["pid"].to_string();
    let table = cli.does(&["ps", "c"]);
    assert!(table.lines().next().unwrap().contains("PID"));
    assert_eq!(table.lines().count(), 2, "{table}");
    assert!(table.lines().nth(1).unwrap().contains("sleep 1000"));
    let own = cli.does(&["ps", "c", "-o", "pid,comm"]);
    assert!(
        own.lines().nth(1).unwrap().trim().starts_with(&pid),
        "{own}"
    );
    cli.refuses(&["ps", "c", "-o", "comm"], "no column PID");
    assert_eq!(
        cli.does(&["ps", "--format=json", "c"]),
        format!("[{pid}]\n")
    );
}

#[test]
#[ignore = "needs root"]
fn list_shows_all_and_bears_garbage() {
    let cli = Cli::new();
    cli.refuses(&["list"], "root");
    assert!(!cli.root().exists(), "asking makes nothing");
    cli.create("b", &["true"]);
    cli.run_detached("a", &["sleep", "1000"]);
    std::fs::write(cli.root().join("file"), "").unwrap();
    std::fs::create_dir(cli.root().join("empty")).unwrap();
    std::fs::create_dir(cli.root().join("garbage")).unwrap();
    std::fs::write(cli.root().join("garbage/state.json"), "}").unwrap();
    let list: Vec<Value> = serde_json::from_str(&cli.does(&["list", "--format", "json"])).unwrap();
    let found: Vec<_> = list
        .iter()
        .map(|one| (one["id"].as_str(), one["status"].as_str()))
        .collect();
    assert_eq!(
        found,
        [(Some("a"), Some("running")), (Some("b"), Some("created"))]
    );
    let table = cli.does(&["list"]);
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|row| row.split_whitespace().collect())
        .collect();
    assert_eq!(
        rows[0],
        ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    );
    assert_eq!(
        (rows[1][0], rows[1][2], rows[1][5]),
        ("a", "running", "root")
    );
    assert_eq!(rows.len(), 3);
    assert_eq!(cli.does(&["list", "-q"]), "a\nb\nempty\ngarbage\n");
    cli.refuses(&["state", "garbage"], "damaged record");
    cli.refuses(&["state", "empty"], "delete --force");
    cli.refuses(&["state", "file"], "no directory");
    for id in ["garbage", "empty"] {
        cli.does(&["delete", "--force", id]);
        cli.assert_gone(id);
    }
    std::fs::remove_file(cli.root().join("file")).unwrap();
}

#[test]
#[ignore = "needs root"]
fn a_damaged_record_does_not_hide_the_container() {
    let cli = Cli::new();
    cli.run_detached("c", &["sleep", "1000"]);
    std::fs::write(cli.root().join("c/state.json"), "{\"version\":").unwrap();
    cli.refuses(&["kill", "c", "KILL"], "damaged record");
    cli.does(&["delete", "--force", "c"]);
    cli.assert_gone("c");
}

#[test]
#[ignore = "needs root"]
fn a_creation_that_fails_leaves_nothing() {
    let cli = Cli::new();
    let broken: [Broken; 6] = [
        ("nowhere", |spec| {
            spec["process"]["args"] = json!(["/bin/nowhere"])
        }),
        ("root.path", |spec| spec["root"]["path"] = json!("")),
        ("missing", |spec| spec["root"]["path"] = json!("missing")),
        ("ociVersion", |spec| spec["ociVersion"] = json!("2.0.0")),
        ("nothing", |spec| {
            spec["mounts"][0] = json!({"destination": "/mnt", "type": "bind", "source": "/nothing", "options": ["bind"]});
        }),
        ("process.args[0]", |spec| {
            spec["process"]["args"] = json!([1])
        }),
    ];
    for (words, change) in broken {
        let bundle = cli.changed_bundle("c", &["true"], change);
        for command in ["create", "run"] {
            cli.refuses(&[command, "--bundle", text(&bundle), "c"], words);
            cli.assert_gone("c");
        }
    }
    cli.refuses(&["create", "--bundle", "/nowhere", "c"], "/nowhere");
    let bundle = cli.bundle("c", &["true"]);
    cli.refuses(
        &[
            "create",
            "-b",
            text(&bundle),
            "--pid-file",
            "/nowhere/pid",
            "c",
        ],
        "/nowhere/pid",
    );
    cli.assert_gone("c");
}

#[test]
#[ignore = "needs root"]
fn a_pid_file_is_there_when_create_returns() {
    let cli = Cli::new();
    let bundle = cli.bundle("c", &["sleep", "1000"]);
    let file = cli.directory.path().join("pid");
    cli.does(&[
        "create",
        "c",
        "--bundle",
        text(&bundle),
        "--pid-file",
        text(&file),
    ]);
    let pid = std::fs::read_to_string(&file).unwrap();
    assert_eq!(pid, cli.state("c")["pid"].to_string());
}

#[test]
#[ignore = "needs root"]
fn run_keeps_what_it_is_told_to_keep() {
    let cli = Cli::new();
    let bundle = cli.bundle("c", &["sh", "-c", "exit 3"]);
    let said = cli.says(&["run", "--keep", "--bundle", text(&bundle), "c"]);
    assert_eq!(said.status, 3);
    assert_eq!(cli.status("c"), "stopped");
    cli.does(&["delete", "c"]);
    let config = bundle.join("other.json");
    std::fs::rename(bundle.join("config.json"), config).unwrap();
    let said = cli.says(&["run", "--config", "other.json", "-b", text(&bundle), "c"]);
    assert_eq!(said.status, 3);
}

#[test]
#[ignore = "needs root"]
fn an_error_is_said_once_and_logged_as_callers_read_it() {
    let cli = Cli::new();
    let log = cli.directory.path().join("log");
    let global = ["--log", text(&log), "--log-format", "json"];
    let mut command = cli.command(&global);
    let said = Said::of(command.args(["state", "nobody"]));
    assert_eq!(said.status, 1);
    let line: Value = serde_json::from_str(&std::fs::read_to_string(&log).unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    assert_eq!(
        said.stderr,
        format!("error: {}\n", line["msg"].as_str().unwrap())
    );
    assert!(line["time"].is_string());
    // A warning is logged, and a success is silent all the same.
    let bundle = cli.changed_bundle("c", &["true"], |spec| {
        spec["process"]["capabilities"]["bounding"] = json!(["CAP_TIME_TRAVEL"]);
    });
    let mut command = cli.command(&global);
    let said = Said::of(command.args(["run", "-b", text(&bundle), "c"]));
    assert_eq!(
        (said.status, said.stderr.as_str(), said.stdout.as_str()),
        (0, "", "")
    );
    let logged = std::fs::read_to_string(&log).unwrap();
    assert!(
        logged.lines().last().unwrap().contains("CAP_TIME_TRAVEL"),
        "{logged}"
    );
    // Without a log the caller hears of it.
    let said = cli.says(&["run", "-b", text(&bundle), "c"]);
    assert_eq!((said.status, said.stderr.lines().count()), (0, 1));
    assert!(
        said.stderr.starts_with("warning: ") && said.stderr.contains("CAP_TIME_TRAVEL"),
        "{said:?}"
    );
}

#[test]
#[ignore = "needs root"]
fn a_spec_that_was_generated_runs() {
    let cli = Cli::new();
    let bundle = cli.bundle("c", &[]);
    std::fs::remove_file(bundle.join("config.json")).unwrap();
    cli.does(&["spec", "--bundle", text(&bundle)]);
    cli.refuses(&["spec", "--bundle", text(&bundle)], "exists already");
    let file = bundle.join("config.json");
    let mut spec: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!(["sh", "-c", "id -u; hostname"]);
    spec["linux"]["cgroupsPath"] = json!(cli.place("c").spec);
    std::fs::write(&file, spec.to_string()).unwrap();
    let output = cli.does(&["run", "--bundle", text(&bundle), "c"]);
    assert_eq!(output, "0\nlongshore\n");
}

#[test]
#[ignore = "needs root"]
fn the_program_s_file_cannot_be_written_by_who_holds_it() {
    let cli = Cli::new();
    // A copy that no other test executes: a file that runs cannot be written to, sealed or not.
    let program = cli.directory.path().join("program");
    support::program::install(env!("CARGO_BIN_EXE_longshore-runtime"), &program);
    let bundle = cli.bundle("c", &["sleep", "1000"]);
    let mut command = std::process::Command::new(&program);
    command.arg("--root").arg(cli.root());
    let said = Said::of(command.args(["create", "-b", text(&bundle), "c"]));
    assert_eq!(said.status, 0, "{said:?}");
    let pid = cli.state("c")["pid"].clone();
    let held = std::fs::File::open(format!("/proc/{pid}/exe")).unwrap();
    cli.does(&["delete", "--force", "c"]);
    let opened = std::fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/self/fd/{}", held.as_raw_fd()));
    assert_eq!(opened.unwrap_err().raw_os_error(), Some(libc::EROFS));
    assert!(
        std::fs::OpenOptions::new()
            .write(true)
            .open(&program)
            .is_ok()
    );
}

#[test]
#[ignore = "needs root"]
fn nobody_of_ours_stays() {
    let cli = Cli::new();
    cli.create("a", &["sleep", "1000"]);
    cli.run_detached("b", &["sleep", "1000"]);
    for id in ["a", "b"] {
        let pids = cli.does(&["ps", "-f", "json", id]);
        assert_eq!(
            pids,
            format!("[{}]\n", cli.state(id)["pid"]),
            "only its own"
        );
    }
    let ours = |path: &std::path::Path| {
        std::fs::read(path.join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(text(&cli.root())))
    };
    let left = std::fs::read_dir("/proc")
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let left: Vec<_> = left.filter(|path| ours(path)).collect();
    // The one of `a` waits for start and is the container's.
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0].ends_with(cli.state("a")["pid"].to_string()));
}

#[test]
#[ignore = "needs root"]
fn limits_change_while_it_runs() {
    let cli = Cli::new();
    cli.run_detached("c", &["sleep", "1000"]);
    let limit = || {
        let stats: Value = serde_json::from_str(&cli.does(&["events", "--stats", "c"])).unwrap();
        assert_eq!(
            (&stats["type"], &stats["id"]),
            (&json!("stats"), &json!("c"))
        );
        let data = &stats["data"];
        (
            data["memory"]["usage"]["limit"].as_u64().unwrap(),
            data["pids"]["limit"].as_u64(),
        )
    };
    cli.does(&["update", "--memory", "64m", "--pids-limit", "20", "c"]);
    assert_eq!(limit(), (64 << 20, Some(20)));
    let file = cli.directory.path().join("resources");
    std::fs::write(&file, json!({"memory": {"limit": 33554432}}).to_string()).unwrap();
    cli.does(&[
        "update",
        "c",
        "--resources",
        text(&file),
        "--pids-limit",
        "9",
    ]);
    assert_eq!(
        limit(),
        (32 << 20, Some(20)),
        "a file stands for all options"
    );
    std::fs::write(&file, json!({"memory": {"limit": "much"}}).to_string()).unwrap();
    cli.refuses(&["update", "-r", text(&file), "c"], "memory.limit");
    cli.refuses(&["update", "--memory", "much", "c"], "no number of bytes");
    let class = [
        "update",
        "--memory",
        "1g",
        "--l3-cache-schema",
        "L3:0=f",
        "c",
    ];
    cli.refuses(&class, "no class of service");
    let line = ["update", "--memory", "1g", "--mem-bw-schema", "L3:0=f", "c"];
    cli.refuses(&line, "begins with `MB:`");
    assert_eq!(limit(), (32 << 20, Some(20)), "refusals change nothing");
    cli.does(&["kill", "c", "KILL"]);
    eventually("it ends", || cli.status("c") == "stopped");
    cli.refuses(&["update", "--memory", "1g", "c"], "it has stopped");
    cli.refuses(&["events", "--stats", "c"], "it has stopped");
}

#[test]
#[ignore = "needs root"]
fn an_oom_kill_is_an_event_and_the_end_ends_them() {
    let cli = Cli::new();
    let command = "read go; tail /dev/zero; read go";
    let bundle = cli.changed_bundle("c", &["sh", "-c", command], |spec| {
        spec["linux"]["resources"] = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
    });
    let mut command = cli.command(&["run", "--bundle", text(&bundle), "c"]);
    let mut container = cli.start(command.stdin(std::process::Stdio::piped()));
    eventually("it runs", || {
        cli.says(&["state", "c"]).stdout.contains("\"running\"")
    });
    let mut events = cli.start(&mut cli.command(&["events", "--interval", "20ms", "c"]));
    let lines = Lines::of(&mut events);
    let next = || serde_json::from_str::<Value>(&lines.next()).unwrap();
    assert_eq!(next()["type"], "stats");
    let mut input = container.stdin.take().unwrap();
    input.write_all(b"go\n").unwrap();
    while next() != json!({"type": "oom", "id": "c"}) {}
    drop(input);
    let events = events.wait_with_output().unwrap();
    assert!(events.status.success(), "{events:?}");
    container.wait().unwrap();
}
