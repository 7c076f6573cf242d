use super::*;
use proptest::prelude::*;
use std::os::fd::AsFd;

const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
    # a comment:x:7:7::/:\n\
    app:x:1000:1001::/home/app:/bin/sh\r\n\
    1000:x:2000:2000::/odd:\n\
    broken:x:12a:1::/b:\n\
    huge:x:4294967296:1::/h:\n\
    short:x:5\n\
    rel:x:6:6::not/absolute:\n";
const GROUP: &[u8] = b"root:x:0:\nstaff:x:50:other,app\naudio:x:29:app\nbad:x:-1:app\nweb:x:33\n";

fn find(spec: &str) -> Result<User, String> {
    resolve(spec, PASSWD, GROUP)
}

fn user(uid: u32, gid: u32, additional_gids: &[u32], home: &str) -> User {
    User {
        uid,
        gid,
        additional_gids: additional_gids.to_vec(),
        home: home.into(),
    }
}

#[test]
fn names_and_numbers_find_their_account() {
    assert_eq!(find("").unwrap(), user(0, 0, &[], "/root"));
    assert_eq!(find("root").unwrap(), user(0, 0, &[], "/root"));
    assert_eq!(
        find("app").unwrap(),
        user(1000, 1001, &[29, 50], "/home/app")
    );
    assert_eq!(
        find("1000").unwrap(),
        user(1000, 1001, &[29, 50], "/home/app")
    );
    assert_eq!(find("4242").unwrap(), user(4242, 0, &[], "/"));
    assert_eq!(find("app:web").unwrap(), user(1000, 33, &[], "/home/app"));
    assert_eq!(find("app:77").unwrap(), user(1000, 77, &[], "/home/app"));
    assert_eq!(find(":web").unwrap(), user(0, 33, &[], "/root"));
    assert_eq!(find("rel").unwrap().home, "/");
}

#[test]
fn a_number_is_itself_or_an_error_and_never_root() {
    assert_eq!(find("1").unwrap().uid, 1);
    assert_eq!(find("0001").unwrap().uid, 1);
    for bad in [
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "1:4294967295",
        "1:99999999999999999999",
    ] {
        assert!(find(bad).unwrap_err().contains("out of range"), "{bad}");
    }
    for bad in [
        "-1",
        "+1",
        " 1",
        "1 ",
        "0x1",
        "1.0",
        "broken",
        "huge",
        "short",
        "nobody",
        "app:nogroup",
        "app:bad",
    ] {
        assert!(find(bad).unwrap_err().contains("unknown"), "{bad}");
    }
    assert!(find("app:").is_err());
}

#[test]
fn files_of_the_image_are_read_inside_it() {
    let dir = tempfile::tempdir().unwrap();
    let root = rustix::fs::open(dir.path(), OFlags::PATH, Mode::empty()).unwrap();
    let ask = |spec: &str| resolve_user(root.as_fd(), spec);
    assert_eq!(ask("12:34").unwrap(), user(12, 34, &[], "/"));
    assert_eq!(
        ask("app").unwrap_err().to_string(),
        "resolve user app: unknown user `app`: the image's /etc/passwd has no such line; name one it has, or a number"
    );
    let etc = dir.path().join("etc");
    std::fs::create_dir(&etc).unwrap();
    std::fs::write(dir.path().join("real"), PASSWD).unwrap();
    std::os::unix::fs::symlink("/../../../real", etc.join("passwd")).unwrap();
    assert_eq!(ask("app").unwrap().uid, 1000);
}

#[test]
fn what_is_no_regular_file_neither_hangs_nor_opens() {
    let dir = tempfile::tempdir().unwrap();
    let root = rustix::fs::open(dir.path(), OFlags::PATH, Mode::empty()).unwrap();
    std::fs::create_dir(dir.path().join("etc")).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(
        &root,
        "etc/passwd",
        fifo,
        Mode::from_bits_truncate(0o600),
        0,
    )
    .unwrap();
    let error = resolve_user(root.as_fd(), "0").unwrap_err().to_string();
    assert!(error.contains("not a regular file"), "{error}");
    std::fs::remove_file(dir.path().join("etc/passwd")).unwrap();
    std::fs::write(dir.path().join("etc/passwd"), vec![b'\n'; 1024 * 1024 + 1]).unwrap();
    let error = resolve_user(root.as_fd(), "0").unwrap_err().to_string();
    assert!(error.contains("longer than"), "{error}");
}

proptest! {
    #[test]
    fn no_text_makes_a_nonzero_number_root(spec in "[1-9][0-9]{0,25}", passwd in proptest::collection::vec(any::<u8>(), 0..100)) {
        if let Ok(user) = resolve(&spec, &passwd, b"") {
            prop_assert_eq!(user.uid.to_string(), spec);
        }
    }

    #[test]
    fn no_files_panic(spec in "\\PC{0,20}", file in "([a-z0-9]{0,3}[:,\\n#]){0,40}") {
        let found = resolve(&spec, file.as_bytes(), file.as_bytes());
        if let Ok(user) = found {
            prop_assert!(user.home.starts_with('/') && user.uid != u32::MAX && user.gid != u32::MAX);
        }
    }
}
