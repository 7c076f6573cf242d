//! A container's terminal: whose it is, what it is, and that nothing of the image can put another in its place.

mod support;

use std::os::unix::fs::symlink;

use serde_json::{Value, json};
use support::{Host, Root};

fn terminal(spec: &mut Value) {
    spec["process"]["terminal"] = json!(true);
    spec["process"]["consoleSize"] = json!({"height": 10, "width": 110});
}

#[test]
#[ignore = "needs root"]
fn the_program_has_a_terminal_of_its_own() {
    let host = Host::new();
    let script = "test -t 0 && test -t 1 && test -t 2 && echo all; readlink /proc/self/fd/0; \
                  stat -c '%u %g %a' /dev/pts/0; stat -c '%t:%T' /dev/console; stty size; \
                  cut -d' ' -f7 /proc/self/stat; echo loud > /dev/tty";
    let spec = host.spec(&["/bin/sh", "-c", script], |spec| {
        terminal(spec);
        spec["process"]["user"] = json!({"uid": 33, "gid": 33});
    });
    let root = Root::busybox();
    symlink("busybox", root.path("bin/stty")).unwrap();
    symlink("busybox", root.path("bin/cut")).unwrap();
    let (exit, output) = host.run(&spec, root);
    // 34816 is the device number 136:0, the controlling terminal.
    let expected = "all\r\n/dev/pts/0\r\n33 5 620\r\n88:0\r\n10 110\r\n34816\r\nloud\r\n";
    assert_eq!(output, expected);
    assert_eq!(exit.code, 0);
}

#[test]
#[ignore = "needs root"]
fn a_console_that_is_a_link_is_refused() {
    // No /dev of the spec's: the image's own directory is used, and it is hostile.
    for link in ["/victim", "../victim", "/dev/pts/0"] {
        let host = Host::new();
        let root = Root::busybox();
        std::fs::create_dir(root.path("dev")).unwrap();
        std::fs::write(root.path("victim"), "").unwrap();
        symlink(link, root.path("dev/console")).unwrap();
        let spec = host.spec(&["/bin/true"], |spec| {
            terminal(spec);
            let mounts = spec["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| {
                let at = mount["destination"].as_str().unwrap();
                !at.starts_with("/dev") || at == "/dev/pts"
            });
        });
        let refusal = host.create(&spec, root).unwrap_err().to_string();
        assert!(
            refusal.contains("bind console /dev/console"),
            "{link}: {refusal}"
        );
    }
}

#[test]
#[ignore = "needs root"]
fn a_terminal_comes_from_a_devpts_and_nothing_else() {
    let refused = |prepare: fn(&Root), mount: Value| {
        let host = Host::new();
        let root = Root::busybox();
        prepare(&root);
        let spec = host.spec(&["/bin/true"], |spec| {
            terminal(spec);
            let mounts = spec["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
            mounts.push(mount);
        });
        host.create(&spec, root).unwrap_err().to_string()
    };
    let nothing = json!({"destination": "/tmp", "type": "tmpfs"});
    let missing = refused(|_| {}, nothing.clone());
    assert!(missing.contains("no devpts is mounted there"), "{missing}");
    let fake = |root: &Root| {
        std::fs::create_dir_all(root.path("dev/pts")).unwrap();
        std::fs::write(root.path("dev/pts/ptmx"), "").unwrap();
    };
    let faked = refused(fake, nothing);
    assert!(faked.contains("no devpts is mounted there"), "{faked}");
    let linked = |root: &Root| {
        std::fs::create_dir_all(root.path("dev")).unwrap();
        symlink("/elsewhere", root.path("dev/pts")).unwrap();
    };
    let elsewhere =
        json!({"destination": "/elsewhere", "type": "devpts", "options": ["newinstance"]});
    let linked = refused(linked, elsewhere);
    assert!(linked.contains("a link or another mount"), "{linked}");
}

#[test]
#[ignore = "needs root"]
fn only_a_null_device_is_replaced_by_the_containers_own() {
    let host = Host::new();
    let (_, output) =
        host.shell("stat -Lc %d:%i /proc/self/fd/0 /dev/null; stat -Lc %F /proc/self/fd/1");
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!((lines[0], lines[2]), (lines[1], "fifo"), "{output}");
}

#[test]
#[ignore = "needs root"]
fn whoever_attaches_sees_the_terminal_and_types_there() {
    use std::io::{Read, Write};
    let host = Host::new();
    let script = "read -r line; echo got $line; stty size; read -r line";
    let spec = host.spec(&["/bin/sh", "-c", script], terminal);
    let root = Root::busybox();
    symlink("busybox", root.path("bin/stty")).unwrap();
    let container = host.create(&spec, root).unwrap();
    let mut attached = container.attach().unwrap();
    let mut other = container.attach().unwrap();
    container.resize(7, 9).unwrap();
    container.start().unwrap();
    attached.write_all(b"keys\n").unwrap();
    // What was typed is echoed.
    let expected = "keys\r\ngot keys\r\n7 9\r\n";
    for stream in [&mut attached, &mut other] {
        let mut seen = vec![0; expected.len()];
        stream.read_exact(&mut seen).unwrap();
        assert_eq!(String::from_utf8_lossy(&seen), expected);
    }
    // Leaving ends nothing.
    drop(attached);
    other.write_all(b"\n").unwrap();
    assert_eq!(support::wait(&container).code, 0);
    assert!(host.output().contains("got keys"), "the log has it too");
    container.delete().unwrap();
}

#[test]
#[ignore = "needs root"]
fn nobody_attaches_to_what_is_no_terminal() {
    let host = Host::new();
    let spec = host.spec(&["/bin/sleep", "1000"], |_| {});
    let container = host.create(&spec, Root::busybox()).unwrap();
    let refusal = container.attach().unwrap_err().to_string();
    assert!(refusal.contains("no terminal"), "{refusal}");
    assert!(container.resize(1, 1).is_err());
    container.start().unwrap();
    container.delete().unwrap();
}
