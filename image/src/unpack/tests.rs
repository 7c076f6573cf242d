use super::*;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::fs::{Mode, OFlags};
use stream::{Piece, channel};

mod alone_or_not;

/// A layer in the making: each call is one entry of the archive.
struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    fn new() -> Layer {
        Layer(tar::Builder::new(Vec::new()))
    }

    fn entry(
        mut self,
        kind: tar::EntryType,
        name: &str,
        link: &str,
        data: &[u8],
        mode: u32,
    ) -> Layer {
        let mut h = tar::Header::new_ustar();
        h.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        h.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        h.set_entry_type(kind);
        h.set_size(data.len() as u64);
        h.set_mode(mode);
        h.set_uid(rustix::process::geteuid().as_raw().into());
        h.set_gid(rustix::process::getegid().as_raw().into());
        h.set_mtime(1_000_000_000);
        h.set_cksum();
        self.0.append(&h, data).unwrap();
        self
    }

    fn file(self, name: &str, data: &[u8]) -> Layer {
        self.entry(tar::EntryType::Regular, name, "", data, 0o644)
    }

    fn dir(self, name: &str) -> Layer {
        self.entry(tar::EntryType::Directory, name, "", b"", 0o755)
    }

    fn symlink(self, name: &str, to: &str) -> Layer {
        self.entry(tar::EntryType::Symlink, name, to, b"", 0o777)
    }

    fn link(self, name: &str, to: &str) -> Layer {
        self.entry(tar::EntryType::Link, name, to, b"", 0o644)
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

fn unpack_within(
    bytes: &[u8],
    to: &Path,
    bounds: Bounds,
) -> Result<Unpacked, (Fail, Option<Digest>)> {
    let root = rustix::fs::open(to, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let (sender, pieces) = channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for chunk in bytes.chunks(1000) {
                if sender
                    .blocking_send(Piece::Data(Bytes::copy_from_slice(chunk)))
                    .is_err()
                {
                    return;
                }
            }
            sender.blocking_send(Piece::End).ok();
        });
        unpack(pieces, root, bounds)
    })
}

fn unpack_to(bytes: &[u8], to: &Path) -> Result<Unpacked, String> {
    unpack_within(bytes, to, Bounds::LAYER).map_err(|(fail, _)| fail.to_string())
}

/// Unpacks into a fresh directory beside a file that must not be touched.
#[track_caller]
fn refused(layer: Layer) -> String {
    let outer = tempfile::tempdir().unwrap();
    std::fs::write(outer.path().join("outside"), "kept").unwrap();
    let to = outer.path().join("layer");
    std::fs::create_dir(&to).unwrap();
    let error = unpack_to(&layer.bytes(), &to).expect_err("it should be refused");
    assert_eq!(
        std::fs::read(outer.path().join("outside")).unwrap(),
        b"kept"
    );
    let names: Vec<_> = std::fs::read_dir(outer.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    error
}

#[test]
fn files_links_modes_and_times_come_out_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let layer = Layer::new()
        .dir("./")
        .entry(tar::EntryType::Directory, "closed/", "", b"", 0o555)
        .file("closed/in", b"inside")
        .file("f", &[7; 100_000])
        .link("hard", "./f")
        .symlink("soft", "/absolute/../data")
        .entry(tar::EntryType::Fifo, "pipe", "", b"", 0o620)
        .entry(tar::EntryType::Regular, "run", "", b"x", 0o4755)
        .bytes();
    let unpacked = unpack_to(&gzip(&layer), dir.path()).unwrap();
    assert_eq!(unpacked.diff_id, Digest::of(&layer));
    assert_eq!(unpacked.digest, Digest::of(&gzip(&layer)));
    let o = &unpacked.outline;
    assert_eq!(
        (o.entries, o.bytes, o.has_root, o.implied.len()),
        (8, layer.len() as u64, true, 0)
    );
    let meta = |name: &str| std::fs::symlink_metadata(dir.path().join(name)).unwrap();
    assert_eq!(
        (meta("f").len(), meta("f").ino(), meta("f").nlink()),
        (100_000, meta("hard").ino(), 2)
    );
    assert_eq!(meta("closed").permissions().mode() & 0o7777, 0o555);
    assert_eq!(meta("run").permissions().mode() & 0o7777, 0o4755);
    assert_eq!(meta("pipe").permissions().mode() & 0o7777, 0o620);
    assert!(meta("pipe").file_type().is_fifo());
    for name in ["", "f", "closed", "closed/in", "soft", "pipe"] {
        assert_eq!(meta(name).mtime(), 1_000_000_000, "{name}");
    }
    let target = std::fs::read_link(dir.path().join("soft")).unwrap();
    assert_eq!(target, Path::new("/absolute/../data"));
    std::fs::set_permissions(dir.path().join("closed"), PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn plain_gzip_and_zstd_in_one_piece_or_several_give_the_same_layer() {
    let tar = Layer::new().file("a", b"1").file("b", &[1; 5000]).bytes();
    let (front, back) = tar.split_at(700);
    let members = [gzip(front), gzip(back)].concat();
    let frames = [zstd(front), zstd(back)].concat();
    for bytes in [tar.clone(), gzip(&tar), members, zstd(&tar), frames] {
        let dir = tempfile::tempdir().unwrap();
        let unpacked = unpack_to(&bytes, dir.path()).unwrap();
        assert_eq!(unpacked.diff_id, Digest::of(&tar));
        assert_eq!(unpacked.digest, Digest::of(&bytes));
        assert_eq!(std::fs::read(dir.path().join("b")).unwrap(), [1; 5000]);
    }
}

#[test]
fn entries_that_climb_out_are_refused_by_name() {
    let cases = [
        (
            Layer::new().file("../outside", b"bad"),
            "`../outside` is refused",
        ),
        (
            Layer::new().file("a/../../outside", b"bad"),
            "`a/../../outside` is refused",
        ),
        (
            Layer::new().file("/outside", b"bad"),
            "`/outside` is refused: its name is absolute",
        ),
        (
            Layer::new().symlink("up", "..").file("up/outside", b"bad"),
            "`up/outside` is refused: it climbs out",
        ),
        (
            Layer::new()
                .symlink("abs", "/tmp")
                .file("abs/outside", b"bad"),
            "through a symbolic link in `abs`",
        ),
        (
            Layer::new()
                .dir("d")
                .symlink("d/up", "../..")
                .file("d/up/new/x", b"bad"),
            "`d/up/new/x` is refused: it climbs out",
        ),
        (
            Layer::new().link("h", "../outside"),
            "`h` is refused: as a hard link's target",
        ),
        (
            Layer::new().symlink("up", "..").link("h", "up/outside"),
            "target `up/outside` climbs out",
        ),
        (
            Layer::new().symlink("up", "..").file("up/.wh.outside", b""),
            "climbs out",
        ),
        (Layer::new().file(".wh...", b""), "`.wh...` is refused"),
        (
            Layer::new().file("a/.wh..", b""),
            "is refused: it is a whiteout of nothing",
        ),
        (
            Layer::new().symlink("loop", "loop").file("loop/x", b""),
            "climbs out of the layer through",
        ),
    ];
    for (layer, said) in cases {
        let error = refused(layer);
        assert!(error.contains(said), "{said}: {error}");
    }
}

#[test]
fn a_final_link_is_replaced_and_never_followed() {
    let dir = tempfile::tempdir().unwrap();
    let layer = Layer::new()
        .file("target", b"kept")
        .symlink("link", "target")
        .file("link", b"new")
        .symlink("real", "d")
        .dir("d")
        .file("real/through", b"inside the layer")
        .bytes();
    unpack_to(&layer, dir.path()).unwrap();
    assert_eq!(std::fs::read(dir.path().join("target")).unwrap(), b"kept");
    assert_eq!(std::fs::read(dir.path().join("link")).unwrap(), b"new");
    assert_eq!(
        std::fs::read(dir.path().join("d/through")).unwrap(),
        b"inside the layer"
    );
}

#[test]
fn the_later_entry_of_a_name_counts() {
    let dir = tempfile::tempdir().unwrap();
    let layer = Layer::new()
        .file("a", b"1")
        .file("a", b"2")
        .dir("b")
        .file("b/x", b"1")
        .file("b", b"now a file")
        .file("c", b"1")
        .dir("c")
        .file("c/x", b"2")
        .link("a", "c/x")
        .bytes();
    unpack_to(&layer, dir.path()).unwrap();
    assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), b"2");
    assert_eq!(std::fs::read(dir.path().join("b")).unwrap(), b"now a file");
    assert_eq!(std::fs::read(dir.path().join("c/x")).unwrap(), b"2");
}

#[test]
fn whiteouts_become_marks_and_hide_nothing_of_their_own_layer() {
    let dir = tempfile::tempdir().unwrap();
    let layer = Layer::new()
        .dir("d")
        .file("d/.wh.gone", b"")
        .file("own", b"stays")
        .file(".wh.own", b"")
        .file(".wh.back", b"")
        .file("back", b"came after")
        .bytes();
    unpack_to(&layer, dir.path()).unwrap();
    let gone = std::fs::symlink_metadata(dir.path().join("d/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert_eq!(std::fs::read(dir.path().join("own")).unwrap(), b"stays");
    assert_eq!(
        std::fs::read(dir.path().join("back")).unwrap(),
        b"came after"
    );
    assert!(!dir.path().join("d/.wh.gone").exists());
}

#[test]
fn links_to_what_is_not_in_the_layer_are_told_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let layer = Layer::new()
        .link("h", "below/x")
        .link("second", "h")
        .file("taken", b"1")
        .link("taken", "below/y")
        .link("replaced", "below/z")
        .file("replaced", b"2")
        .bytes();
    let outline = unpack_to(&layer, dir.path()).unwrap().outline;
    let told = |name: &str, target: &str| (hex::encode(name), hex::encode(target));
    let all = [
        told("h", "below/x"),
        told("second", "below/x"),
        told("taken", "below/y"),
    ];
    assert_eq!(outline.links_below, all);
    let names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["replaced"]);
}

#[test]
fn a_link_to_a_directory_that_only_a_layer_below_has_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let layer = Layer::new()
        .symlink("lib", "usr/lib")
        .file("lib/x", b"1")
        .bytes();
    let outline = unpack_to(&layer, dir.path()).unwrap().outline;
    assert_eq!(std::fs::read(dir.path().join("usr/lib/x")).unwrap(), b"1");
    assert_eq!(
        outline.implied,
        [hex::encode("usr"), hex::encode("usr/lib")]
    );
}

#[test]
fn missing_parents_are_made_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let layer = Layer::new()
        .file("a/b/c", b"1")
        .dir("a")
        .file("a/b2/c", b"")
        .bytes();
    let outline = unpack_to(&layer, dir.path()).unwrap().outline;
    assert_eq!(outline.implied, [hex::encode("a/b"), hex::encode("a/b2")]);
    let mode = std::fs::metadata(dir.path().join("a/b"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o755);
    assert!(!outline.has_root && !outline.opaque_root);
    let dir = tempfile::tempdir().unwrap();
    let opaque = Layer::new().file(".wh..wh..opq", b"").bytes();
    assert!(unpack_to(&opaque, dir.path()).unwrap().outline.opaque_root);
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let device = |major: u32, minor: u32| {
        let mut h = tar::Header::new_ustar();
        h.set_path("dev").unwrap();
        h.set_entry_type(tar::EntryType::Char);
        h.set_size(0);
        h.set_mode(0o600);
        h.set_uid(0);
        h.set_gid(0);
        h.set_mtime(0);
        h.set_device_major(major).unwrap();
        h.set_device_minor(minor).unwrap();
        h.set_cksum();
        let mut layer = Layer::new();
        layer.0.append(&h, &b""[..]).unwrap();
        layer
    };
    let cases = [
        (device(0, 0), "overlayfs's mark"),
        (Layer::new().link("h", "h"), "hard link to itself"),
        (Layer::new().dir("d").link("h", "d"), "is a directory"),
        (
            Layer::new().file(".wh.x", b"").link("h", "x"),
            "is removed by this very layer",
        ),
        (
            Layer::new().file("f", b"").file("f/x", b""),
            "its parent `f` is no directory",
        ),
        (
            Layer::new()
                .symlink("l", "m")
                .symlink("m", "l")
                .file("l/x", b""),
            "climbs out of the layer through a symbolic link in `l`",
        ),
        (Layer::new().symlink("l", ""), "link target is empty"),
        (Layer::new().file(".wh..wh.plnk", b""), "AUFS"),
        (
            Layer::new().file("", b"root as a file"),
            "root must be a directory",
        ),
    ];
    for (layer, said) in cases {
        let error = refused(layer);
        assert!(error.contains(said), "{said}: {error}");
    }
}

#[test]
fn bounds_stop_bombs() {
    let dir = tempfile::tempdir().unwrap();
    let small = Bounds {
        bytes: 100_000,
        entries: 3,
        directory_names: 200,
        ..Bounds::LAYER
    };
    let said = |bytes: &[u8]| {
        unpack_within(bytes, dir.path(), small)
            .unwrap_err()
            .0
            .to_string()
    };
    let zeros = Layer::new().file("zeros", &vec![0; 10_000_000]).bytes();
    for bomb in [gzip(&zeros), zstd(&zeros)] {
        assert!(bomb.len() < 100_000);
        assert!(said(&bomb).contains("more than 100000 bytes unpacked"));
    }
    let steep = Bounds {
        ratio: 20,
        small: 50_000,
        ..Bounds::LAYER
    };
    for bomb in [gzip(&zeros), zstd(&zeros)] {
        let (fail, _) = unpack_within(&bomb, dir.path(), steep).unwrap_err();
        assert!(
            fail.to_string().contains("more than 20 times as large"),
            "{fail}"
        );
    }
    let little = Layer::new().file("zeros", &[0; 40_000]).bytes();
    assert!(unpack_within(&gzip(&little), dir.path(), steep).is_ok());
    let many = Layer::new()
        .file("a", b"")
        .file("b", b"")
        .file("c", b"")
        .file("d", b"");
    assert!(said(&many.bytes()).contains("more than 3 entries"));
    let dirs = Layer::new().dir("a").dir("b").dir("c");
    assert!(unpack_within(&dirs.bytes(), dir.path(), small).is_ok());
    let dirs = Layer::new().dir(&"a".repeat(60)).dir(&"b".repeat(60));
    assert!(said(&dirs.bytes()).contains("too many directories"));
}

#[test]
fn damaged_bytes_are_named_and_their_digest_told() {
    let dir = tempfile::tempdir().unwrap();
    let good = gzip(&Layer::new().file("a", &[3; 9000]).bytes());
    let mut damaged = good.clone();
    let middle = good.len() / 2;
    damaged[middle] ^= 0xff;
    let cut = good[..good.len() - 5].to_vec();
    let trailing = [good.clone(), b"junk after the end".to_vec()].concat();
    let zstd = b"\x28\xb5\x2f\xfd....".to_vec();
    for bytes in [damaged, cut, trailing, zstd, b"plain text".to_vec()] {
        let (fail, digest) = unpack_within(&bytes, dir.path(), Bounds::LAYER).unwrap_err();
        assert!(matches!(fail, Fail::Content(_)), "{fail:?}");
        assert_eq!(digest, Some(Digest::of(&bytes)));
    }
}

#[test]
fn a_download_that_stops_is_no_fault_of_the_layer() {
    let dir = tempfile::tempdir().unwrap();
    let root = rustix::fs::open(
        dir.path(),
        OFlags::RDONLY | OFlags::DIRECTORY,
        Mode::empty(),
    )
    .unwrap();
    let (sender, pieces) = channel();
    let start = gzip(&Layer::new().file("a", b"x").bytes())[..20].to_vec();
    sender.blocking_send(Piece::Data(start.into())).unwrap();
    drop(sender);
    let (fail, _) = unpack(pieces, root, Bounds::LAYER).unwrap_err();
    assert!(matches!(fail, Fail::Aborted), "{fail:?}");
}
