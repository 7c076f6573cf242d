//! What a damaged record and an interrupted command leave behind, and the command that mends it.

mod support;

use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};

use longshore_runtime::cgroup::Freeze;
use support::commands::{Cli, Said};
use support::{driver, eventually};

/// What is left of the record counts, and not what config.json lets guess.
#[test]
#[ignore = "needs root"]
fn a_record_that_was_cut_short_still_tells_the_cgroup() {
    let cli = Cli::new();
    cli.run_detached("c", &["sleep", "1000"]);
    let file = cli.root().join("c/state.json");
    let record = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, &record[..record.len() - 1]).unwrap();
    std::fs::remove_file(cli.root().join("c/config.json")).unwrap();
    cli.does(&["delete", "--force", "c"]);
    cli.assert_gone("c");
}

/// The caller may say the other driver than the one that made the container.
#[test]
#[ignore = "needs root"]
fn a_container_without_a_record_is_found_under_either_driver() {
    let cli = Cli::new();
    cli.run_detached("c", &["sleep", "1000"]);
    std::fs::write(cli.root().join("c/state.json"), "").unwrap();
    let other = match driver::is_systemd() {
        true => "cgroupfs",
        false => "systemd",
    };
    let mut delete = Command::new(env!("CARGO_BIN_EXE_longshore-runtime"));
    delete.arg("--root").arg(cli.root());
    let said = Said::of(delete.args(["--cgroup-manager", other, "delete", "--force", "c"]));
    assert_eq!((said.status, &*said.stderr), (0, ""));
    cli.assert_gone("c");
}

/// A process that waits for a file system that never answers can be killed, but not frozen.
#[test]
#[ignore = "needs root"]
fn a_pause_that_hangs_is_taken_back_by_resume() {
    support::own_mount_namespace();
    let cli = Cli::new();
    let point = cli.directory.path().join("mute");
    std::fs::create_dir(&point).unwrap();
    let server = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse");
    let Ok(server) = server else {
        return support::skip::skip("the kernel has no FUSE");
    };
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0",
        server.as_raw_fd()
    );
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("mute"), &point, Some("fuse"), flags, Some(&*options)).unwrap();
    cli.run_detached("c", &["sleep", "1000"]);
    let group = cli.group("c");
    let mut stuck = Command::new(support::BUSYBOX)
        .arg("stat")
        .arg(point.join("file"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    group.add(stuck.id()).unwrap();
    let stat = format!("/proc/{}/stat", stuck.id());
    eventually("it waits for the file system", || {
        std::fs::read_to_string(&stat).unwrap().contains(") D")
    });
    // Half a pause: what an interrupted command leaves behind.
    let order = match group.is_v2() {
        true => ("/sys/fs/cgroup", "cgroup.freeze", "1"),
        false => ("/sys/fs/cgroup/freezer", "freezer.state", "FROZEN"),
    };
    let lever = Path::new(order.0).join(group.path()).join(order.1);
    std::fs::write(&lever, order.2).unwrap();
    if group.freeze_state().unwrap() == Freeze::Frozen {
        support::skip::skip("this kernel freezes even those who wait for a file system");
    }
    cli.does(&["resume", "c"]);
    assert_eq!(group.freeze_state().unwrap(), Freeze::Thawed);
    stuck.kill().unwrap();
    stuck.wait().unwrap();
    nix::mount::umount2(&point, nix::mount::MntFlags::MNT_DETACH).unwrap();
}

/// Whoever copies a state directory has no second container; what is done to the copy does not reach the first.
#[test]
#[ignore = "needs root"]
fn a_copied_record_is_no_container() {
    let cli = Cli::new();
    cli.run_detached("c", &["sleep", "1000"]);
    let copy = cli.root().join("copy");
    std::fs::create_dir(&copy).unwrap();
    for name in ["state.json", "config.json"] {
        std::fs::copy(cli.root().join("c").join(name), copy.join(name)).unwrap();
    }
    for args in [
        &["kill", "copy", "KILL"][..],
        &["state", "copy"],
        &["pause", "copy"],
    ] {
        cli.refuses(args, "record of container \"c\"");
    }
    assert_eq!(cli.says(&["list"]).stdout.lines().count(), 2);
    cli.does(&["delete", "--force", "copy"]);
    assert_eq!(cli.status("c"), "running");
    // Renamed, it is the container still, as far as removing it goes.
    std::fs::rename(cli.root().join("c"), &copy).unwrap();
    cli.does(&["delete", "--force", "copy"]);
    cli.assert_gone("c");
}

/// kill(2): 0 asks, and changes nothing.
#[test]
#[ignore = "needs root"]
fn a_signal_of_number_0_only_asks() {
    let cli = Cli::new();
    cli.run_detached("c", &["sleep", "1000"]);
    cli.does(&["kill", "c", "0"]);
    cli.does(&["kill", "--all", "c", "0"]);
    assert_eq!(cli.status("c"), "running");
    cli.does(&["kill", "c", "KILL"]);
    eventually("it ends", || cli.status("c") == "stopped");
    cli.refuses(&["kill", "c", "0"], "not running");
}
