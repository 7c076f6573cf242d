//! Root file systems that are full of symlinks, and programs that try to steer what the runtime writes.
//!
//! Each case ends in one of two ways: the container runs, and what the link led to lies inside its root; or its
//! creation fails with an error that names step and subject. The canaries on the host stay as they are either way.

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::bundle::Bundle;
use support::{Host, Root};

/// Files and directories of the host that links lead to.
struct Canaries {
    directory: tempfile::TempDir,
    before: BTreeMap<PathBuf, String>,
}

impl Canaries {
    fn new() -> Canaries {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir_all(at("directory/below")).unwrap();
        for name in ["file", "null", "directory/file"] {
            std::fs::write(at(name), "of the host\n").unwrap();
            std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(0o640)).unwrap();
        }
        let program = format!("#!/bin/sh\ntouch {}\n", at("executed").display());
        support::write(at("program"), &program, 0o755);
        let before = look(directory.path());
        Canaries { directory, before }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn assert_unharmed(&self, case: &str) {
        assert_eq!(look(self.directory.path()), self.before, "{case}");
    }
}

/// All that a change could leave a trace in.
fn look(directory: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let stat = std::fs::symlink_metadata(&path).unwrap();
        if stat.is_dir() {
            found.extend(look(&path));
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let told = format!(
            "{:o} {}:{} {}.{} {text}",
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.ctime(),
            stat.ctime_nsec()
        );
        found.insert(path, told);
    }
    found
}

/// What each place is in turn.
fn targets(canaries: &Canaries, own: &str) -> Vec<String> {
    let directory = canaries.path("directory");
    vec![
        directory.clone(),
        canaries.path("file"),
        format!("../../../../../../../../..{directory}"),
        canaries.path("missing/deep"),
        own.to_owned(),
        "loop".into(),
        "/proc/self/root".into(),
        format!("/proc/self/root{directory}"),
        format!("/proc/1/root{directory}"),
        "/proc/self/cwd".into(),
        "/proc/self/fd/0".into(),
        "/proc/self/attr".into(),
        "/proc/sys/kernel".into(),
        "/etc".into(),
        "/dev/pts".into(),
    ]
}

const PLACES: [&str; 25] = [
    "dev",
    "proc",
    "sys",
    "etc",
    "tmp",
    "mounted",
    "mounted-file",
    "etc/mtab",
    "etc/passwd",
    "dev/pts",
    "dev/shm",
    "dev/mqueue",
    "dev/net",
    "dev/null",
    "dev/console",
    "dev/ptmx",
    "dev/fd",
    "sys/fs",
    "sys/fs/cgroup",
    "masked",
    "protected",
    "cwd",
    "over",
    "copied",
    "node",
];

/// All of a root becomes the property of whom a user namespace calls root.
fn give(directory: &Path) {
    std::os::unix::fs::lchown(directory, Some(100_000), Some(100_000)).unwrap();
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            give(&entry.path());
        }
    }
}

fn hostile(place: &str, target: &str) -> Root {
    let root = Root::busybox();
    let at = root.path(place);
    if place == "etc" {
        std::fs::remove_dir_all(&at).unwrap();
    }
    for name in [
        "dev/net", "proc", "sys/fs", "masked", "cwd", "over", "copied",
    ] {
        if !Path::new(name).starts_with(place) {
            std::fs::create_dir_all(root.path(name)).unwrap();
        }
    }
    let replaced = |at: &Path| std::fs::remove_dir(at).or_else(|_| std::fs::remove_file(at));
    replaced(&at).ok();
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    symlink(target, &at).unwrap();
    symlink("loop", root.path("loop")).unwrap();
    root
}

fn furnish(spec: &mut Value, volume: &Path, own_dev: bool, user: bool) {
    spec["process"]["cwd"] = json!("/cwd");
    spec["process"]["terminal"] = json!(true);
    spec["linux"]["maskedPaths"] = json!(["/masked", "/proc/keys", "/etc/mtab"]);
    spec["linux"]["readonlyPaths"] = json!(["/protected", "/proc/sys", "/etc"]);
    spec["linux"]["devices"] = json!([
        {"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200},
        {"path": "/node/fifo", "type": "p"},
    ]);
    if user {
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        spec["linux"]["uidMappings"] = map.clone();
        spec["linux"]["gidMappings"] = map;
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "user"}));
    }
    let mounts = spec["mounts"].as_array_mut().unwrap();
    if !own_dev {
        mounts.retain(|mount| mount["destination"] != "/dev");
    }
    let at = |name: &str| volume.join(name);
    mounts.extend([
        json!({"destination": "/mounted/deep", "source": volume, "options": ["rbind"]}),
        json!({"destination": "/mounted-file", "source": at("file"), "options": ["bind", "ro"]}),
        json!({"destination": "/etc/resolv.conf", "source": at("file"), "options": ["bind"]}),
        json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}),
        json!({"destination": "/over", "source": volume, "options": ["rbind", "dest-nofollow"]}),
        json!({"destination": "/copied", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}),
    ]);
}

/// Every well-known path of the root in turn is a link of every kind.
fn every_place_is_every_link(own_dev: bool, user: bool) {
    let host = Host::new();
    let world = |path: &Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap()
    };
    world(host.directory.path());
    let volume = host.directory.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "of a volume\n").unwrap();
    if user {
        give(&volume);
    }
    let of_volume = look(&volume);
    let canaries = Canaries::new();
    let (mut ran, mut refused, mut last) = (0, 0, String::new());
    for place in PLACES {
        // Much is the same there, and each takes its time.
        let every = if user { 3 } else { 1 };
        for target in targets(&canaries, place).into_iter().step_by(every) {
            let case = format!("/{place} -> {target} (own /dev: {own_dev}, user: {user})");
            let spec = host.spec(&["/bin/busybox", "echo", "ran"], |spec| {
                furnish(spec, &volume, own_dev, user)
            });
            let root = hostile(place, &target);
            if user {
                give(&root.path(""));
            }
            let run = host
                .create(&spec, root)
                .and_then(|container| container.start().map(|()| container));
            match run {
                Ok(container) => {
                    assert_eq!(support::wait(&container).code, 0, "{case}");
                    assert_eq!(host.output(), "ran\r\n", "{case}");
                    ran += 1;
                }
                Err(error) => {
                    let named = [&error.step, &error.subject, &error.cause];
                    assert!(named.iter().all(|text| !text.is_empty()), "{case}: {error}");
                    assert!(!error.cause.contains("defect"), "{case}: {error}");
                    refused += 1;
                    last = error.to_string();
                }
            }
            host.container().delete().unwrap();
            std::fs::remove_dir_all(host.log_dir()).ok();
            canaries.assert_unharmed(&case);
            let left = look(&volume);
            assert_eq!(
                left.keys().collect::<Vec<_>>(),
                of_volume.keys().collect::<Vec<_>>(),
                "{case}"
            );
        }
    }
    assert!(
        ran > 40 && refused > 40,
        "{ran} ran, {refused} refused, the last: {last}"
    );
}

#[test]
#[ignore = "needs root"]
fn a_root_full_of_links_leads_nowhere() {
    every_place_is_every_link(true, false);
}

#[test]
#[ignore = "needs root"]
fn a_root_full_of_links_leads_nowhere_where_dev_is_the_image_s() {
    every_place_is_every_link(false, false);
}

#[test]
#[ignore = "needs root"]
fn a_root_full_of_links_leads_nowhere_in_a_user_namespace() {
    every_place_is_every_link(true, true);
    every_place_is_every_link(false, true);
}

/// The root itself is the host's affair: its path is followed as the host has it.
#[test]
#[ignore = "needs root"]
fn a_root_that_is_a_link_is_where_the_host_s_link_leads() {
    let bundle = Bundle::new();
    let real = bundle.path().join("real");
    std::fs::rename(bundle.rootfs(), &real).unwrap();
    symlink("real", bundle.rootfs()).unwrap();
    let hooks = |early: bool| {
        bundle.configure(
            &["/bin/sh", "-c", "ls -d /bin /real; touch /here"],
            |spec| {
                if early {
                    let hook = json!([{"path": "/bin/true"}]);
                    spec["hooks"] = json!({"createContainer": hook});
                }
            },
        );
    };
    for early in [false, true] {
        hooks(early);
        let said = bundle.runtime(&["run", "c1"]);
        assert!(said.stdout.starts_with(b"/bin\n"), "{said:?}");
        std::fs::remove_file(real.join("here")).unwrap();
    }
    std::fs::remove_file(bundle.rootfs()).unwrap();
    for target in ["loop", "missing", "config.json"] {
        symlink(target, bundle.rootfs()).unwrap();
        symlink("loop", bundle.path().join("loop")).ok();
        let said = bundle.fail(&["run", "c1"]);
        assert!(said.contains("root"), "{said}");
        std::fs::remove_file(bundle.rootfs()).unwrap();
    }
    std::fs::rename(&real, bundle.rootfs()).unwrap();
}

/// Hooks of the runtime and of createContainer are the host's files, those of startContainer the image's: neither
/// is ever the other's, whatever links the image has at the same path.
#[test]
#[ignore = "needs root"]
fn a_hook_s_path_is_never_another_s() {
    let canaries = Canaries::new();
    let program = canaries.path("program");
    let ran = |canaries: &Canaries| Path::new(&canaries.path("executed")).exists();
    // The image has other files, and links, at the paths of the host's hooks.
    for target in ["/bin/false", "/proc/self/root/bin/false", "/missing"] {
        let bundle = Bundle::new();
        let inside = bundle.rootfs().join(program.trim_start_matches('/'));
        std::fs::create_dir_all(inside.parent().unwrap()).unwrap();
        symlink(target, &inside).unwrap();
        for kind in [
            "prestart",
            "createRuntime",
            "createContainer",
            "poststart",
            "poststop",
        ] {
            bundle.configure(&["/bin/true"], |spec| {
                spec["hooks"] = json!({kind: [{"path": program, "env": ["PATH=/bin:/usr/bin"]}]});
            });
            bundle.succeed(&["run", "c1"]);
            assert!(ran(&canaries), "{kind} over {target}");
            std::fs::remove_file(canaries.path("executed")).unwrap();
        }
        // And the other way round: the host's file is not the image's.
        std::fs::remove_file(&inside).unwrap();
        let escape = format!("/proc/self/root{program}");
        for link in [
            None,
            Some(escape.as_str()),
            Some("../../../../../../etc/passwd"),
        ] {
            if let Some(link) = link {
                symlink(link, &inside).unwrap();
            }
            bundle.configure(&["/bin/true"], |spec| {
                spec["hooks"] = json!({"startContainer": [{"path": program}]});
            });
            let said = bundle.fail(&["run", "c1"]);
            assert!(said.contains(&program), "{said}");
            assert!(!ran(&canaries), "{link:?}");
            std::fs::remove_file(&inside).ok();
        }
    }
}

/// No descriptor of the runtime's reaches a hook in the container, nor one on the host but its own three.
#[test]
#[ignore = "needs root"]
fn a_hook_has_three_descriptors() {
    let bundle = Bundle::new();
    let seen = bundle.path().join("seen");
    let script = |to: &str| format!("cat > /dev/null; ls /proc/self/fd | tr '\\n' ' ' >> {to}");
    let of_host = script(seen.to_str().unwrap());
    let of_host =
        json!([{"path": "/bin/sh", "args": ["sh", "-c", of_host], "env": ["PATH=/bin:/usr/bin"]}]);
    bundle.configure(&["/bin/sh", "-c", "ls /proc/self/fd | tr '\\n' ' ' >> /seen"], |spec| {
        let inside = json!([{"path": "/bin/sh", "args": ["sh", "-c", script("/seen")], "env": ["PATH=/bin"]}]);
        spec["hooks"] = json!({
            "prestart": of_host, "createRuntime": of_host, "createContainer": of_host,
            "startContainer": inside, "poststart": of_host, "poststop": of_host,
        });
    });
    symlink("busybox", bundle.rootfs().join("bin/tr")).unwrap();
    bundle.succeed(&["run", "c1"]);
    // `ls` has the directory open as the fourth.
    assert_eq!(bundle.read("seen"), "0 1 2 3 ".repeat(5));
    assert_eq!(bundle.read("rootfs/seen"), "0 1 2 3 ".repeat(2));
}

/// A program writes what it wants to its output, and its names say what they want: entries stay one to a line.
#[test]
#[ignore = "needs root"]
fn logs_are_not_steered_from_inside() {
    let host = Host::new();
    let forged = "{\"log\":\"forged\",\"stream\":\"stderr\",\"time\":\"1970-01-01T00:00:00Z\"}";
    let text = format!("\"}}\n{forged}\n\\n\\\"\\u0000\u{1b}[2J\u{7f}");
    let (_, _) = host.run(
        &host.spec(&["/bin/busybox", "printf", "%s\\n", &text], |_| {}),
        Root::busybox(),
    );
    assert_eq!(host.output(), format!("{text}\n"));
    let log = std::fs::read_to_string(host.log_dir().join("log.jsonl")).unwrap();
    for line in log.lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        assert_eq!(entry["stream"], "stdout", "{line}");
        assert_ne!(entry["time"], "1970-01-01T00:00:00Z", "{line}");
    }
}

/// What an image or a spec calls something begins no line of its own in the runtime's log, nor steers a terminal.
#[test]
#[ignore = "needs root"]
fn the_runtime_s_own_log_is_not_steered_by_names() {
    let bundle = Bundle::new();
    let name = "missing\n{\"level\":\"error\",\"msg\":\"forged\",\"time\":\"\"}\u{1b}[2J";
    bundle.configure(&[name], |_| {});
    let log = bundle.path().join("log");
    let log = log.to_str().unwrap();
    bundle.fail(&["--log", log, "--log-format", "json", "run", "c1"]);
    let text = bundle.read("log");
    assert_eq!(text.lines().count(), 1, "{text}");
    let line: Value = serde_json::from_str(&text).unwrap();
    assert!(line["msg"].as_str().unwrap().contains("missing"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
    // As text, too.
    std::fs::remove_file(log).unwrap();
    let said = bundle.fail(&["--log", log, "run", "c1"]);
    for text in [said, bundle.read("log")] {
        assert!(
            !text.contains('\u{1b}') && text.lines().count() == 1,
            "{text:?}"
        );
    }
}
