//! Whoever writes the small files, the tree is the same.

use proptest::prelude::*;

use super::*;
use crate::unpack::crew::with_spare;

#[derive(Clone, Debug)]
enum Op {
    File(usize, u8),
    Dir(usize),
    Symlink(usize),
    Link(usize, usize),
    Whiteout(usize),
}

/// `s` may become a link to `d`, so that some of these are one.
const NAMES: [&str; 9] = ["a", "b", "d", "s", "d/a", "d/b", "s/a", "s/b", "d/e/f"];

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let name = || 0..NAMES.len();
    let op = prop_oneof![
        4 => (name(), any::<u8>()).prop_map(|(name, byte)| Op::File(name, byte)),
        1 => name().prop_map(Op::Dir),
        1 => name().prop_map(Op::Symlink),
        2 => (name(), name()).prop_map(|(name, to)| Op::Link(name, to)),
        1 => name().prop_map(Op::Whiteout),
    ];
    proptest::collection::vec(op, 0..24)
}

fn archive(ops: &[Op]) -> Vec<u8> {
    let all = ops.iter().fold(Layer::new(), |layer, op| match op {
        Op::File(name, byte) => layer.file(NAMES[*name], &[*byte; 3]),
        Op::Dir(name) => layer.dir(NAMES[*name]),
        Op::Symlink(name) => layer.symlink(NAMES[*name], "d"),
        Op::Link(name, to) => layer.link(NAMES[*name], NAMES[*to]),
        Op::Whiteout(name) => {
            let (above, last) = NAMES[*name].rsplit_once('/').unwrap_or(("", NAMES[*name]));
            layer.file(format!("{above}/.wh.{last}").trim_start_matches('/'), b"")
        }
    });
    all.bytes()
}

/// Every name with what it is, how many names it has, and its bytes.
fn seen(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_file() {
                std::fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            let links = if meta.is_dir() { 0 } else { meta.nlink() };
            found.push(format!(
                "{} {:o} {links} {} {content:?}",
                path.strip_prefix(root).unwrap().display(),
                meta.mode(),
                meta.mtime() == 1_000_000_000
            ));
            if meta.is_dir() {
                folders.push(path);
            }
        }
    }
    found.sort();
    found
}

proptest! {
    #[test]
    fn a_layer_is_the_same_with_writers_and_without(ops in ops()) {
        let bytes = archive(&ops);
        let unpacked = [0, 2].map(|spare| {
            let dir = tempfile::tempdir().unwrap();
            let result = with_spare(spare, || unpack_to(&bytes, dir.path()));
            let result = result.map(|unpacked| (unpacked.diff_id, unpacked.outline));
            (result.is_ok().then(|| seen(dir.path())), result)
        });
        prop_assert_eq!(&unpacked[0], &unpacked[1]);
    }
}

#[test]
fn thousands_of_small_files_and_links_between_them_come_out_whole() {
    let mut layer = Layer::new();
    for number in 0..3000 {
        layer = layer.file(
            &format!("{}/{number}", number % 7),
            format!("{number}").as_bytes(),
        );
        if number % 50 == 0 {
            layer = layer.link(
                &format!("link-{number}"),
                &format!("{}/{number}", number % 7),
            );
        }
    }
    let dir = tempfile::tempdir().unwrap();
    with_spare(2, || unpack_to(&layer.bytes(), dir.path())).unwrap();
    for number in 0..3000 {
        let path = dir.path().join(format!("{}/{number}", number % 7));
        assert_eq!(std::fs::read(path).unwrap(), format!("{number}").as_bytes());
    }
    let linked = std::fs::metadata(dir.path().join("link-50")).unwrap();
    assert_eq!(linked.nlink(), 2);
}
