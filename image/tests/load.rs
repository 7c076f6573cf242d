//! Images from folders and archives that tell the truth, or do not. No privilege needed.

mod layout;
mod registry;

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use layout::{
    Files, IMAGE_NAME, LAYER, MANIFEST, Member, REF_NAME, append, blob_name, docker, image, index,
    layout, named,
};
use longshore_image::{Format, Image, Load, Origin, Progress, Registries, Store};
use registry::{arch, digest, gzip, noise, tar_of};
use serde_json::{Value, json};

struct House {
    dir: tempfile::TempDir,
    store: Store,
}

fn house() -> House {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), Registries::default()).unwrap();
    House { dir, store }
}

impl House {
    fn load(&self, origin: Origin, wanted: &Load) -> Result<Vec<Image>, String> {
        let loaded = self.store.load(origin, wanted, |_| ());
        loaded.map_err(|e| e.to_string())
    }

    fn file(&self, name: &str, bytes: &[u8]) -> Origin {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        Origin::Path(path)
    }

    fn folder(&self, files: &Files) -> Origin {
        let path = self.dir.path().join("folder");
        files.write(&path);
        Origin::Path(path)
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn content(&self, image: &Image, layer: usize, name: &str) -> Vec<u8> {
        let hex = image.layers[layer].strip_prefix("sha256:").unwrap();
        let path = self.path().join("layers/sha256").join(hex).join("fs");
        std::fs::read(path.join(name)).unwrap()
    }

    /// Nothing half-done, no layer and no image.
    #[track_caller]
    fn holds_nothing(&self) {
        for directory in ["ingest", "layers/sha256", "refs", "manifests", "configs"] {
            assert_eq!(names(&self.path().join(directory)), [""; 0], "{directory}");
        }
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn stream(bytes: Vec<u8>) -> Origin {
    Origin::Stream(Box::new(Cursor::new(bytes)), "a stream".to_owned())
}

fn tagged(tag: &str) -> Load {
    Load {
        tag: Some(tag.to_owned()),
        ..Load::default()
    }
}

fn two_layers() -> Vec<Vec<u8>> {
    vec![tar_of(&[("f", &noise(200_000))]), tar_of(&[("g", b"2")])]
}

#[test]
fn a_layout_is_the_same_image_from_a_folder_an_archive_a_compressed_one_and_a_pipe() {
    let files = layout("registry.example/a:1", &two_layers());
    let tar = files.tar();
    let zstd = zstd::encode_all(tar.as_slice(), 1).unwrap();
    let mut digests = Vec::new();
    for way in 0..5 {
        let house = house();
        let origin = match way {
            0 => house.folder(&files),
            1 => house.file("a.tar", &tar),
            2 => house.file("a.tar.gz", &gzip(&tar)),
            3 => house.file("a.tar.zst", &zstd),
            _ => stream(tar.clone()),
        };
        let loaded = house.load(origin, &Load::default()).unwrap();
        let [image] = loaded.as_slice() else {
            panic!("{loaded:?}");
        };
        assert_eq!(image.reference, "registry.example/a:1");
        assert_eq!(house.content(image, 0, "f"), noise(200_000));
        assert_eq!(house.content(image, 1, "g"), b"2");
        assert_eq!(names(&house.path().join("ingest")), [""; 0]);
        let listed = house.store.list().unwrap();
        assert_eq!(
            (listed.len(), listed[0].layers, listed[0].whole),
            (1, 2, true)
        );
        assert_eq!(listed[0].reference, image.reference);
        digests.push(image.manifest_digest.clone());
    }
    digests.dedup();
    let bytes = files.bytes("index.json");
    let index: Value = serde_json::from_slice(bytes).unwrap();
    assert_eq!(digests, [index["manifests"][0]["digest"].as_str().unwrap()]);
}

#[test]
fn what_was_loaded_serves_a_pull_when_its_registry_is_away() {
    let house = house();
    // Nobody listens at port 1.
    let files = layout("127.0.0.1:1/a:1", &two_layers());
    let loaded = house.load(stream(files.tar()), &Load::default()).unwrap();
    let pulled = tokio::runtime::Runtime::new().unwrap();
    let pulled = pulled
        .block_on(house.store.pull("127.0.0.1:1/a:1", |_| ()))
        .unwrap();
    assert_eq!(pulled.manifest_digest, loaded[0].manifest_digest);
}

#[test]
fn layers_that_are_there_are_not_unpacked_again() {
    let house = house();
    let told = Mutex::new(Vec::new());
    let load = |files: &Files| {
        told.lock().unwrap().clear();
        let tell = |progress| told.lock().unwrap().push(progress);
        house
            .store
            .load(stream(files.tar()), &Load::default(), tell)
            .unwrap();
        let told = told.lock().unwrap();
        let done = told
            .iter()
            .filter(|p| matches!(p, Progress::Layer(l) if l.done));
        (told.len(), done.count())
    };
    let (first, second) = (
        two_layers(),
        [&two_layers()[..], &[tar_of(&[("h", b"3")])]].concat(),
    );
    assert_eq!(load(&layout("a/a:1", &first)).1, 2);
    assert_eq!(load(&layout("a/a:1", &first)), (0, 0));
    assert_eq!(load(&layout("a/a:2", &second)).1, 1);
}

#[test]
fn a_docker_archive_is_loaded_under_all_its_names() {
    let layers = two_layers();
    let mut files = docker(&["a:1", "registry.example/b/c:2"], &layers);
    let house = house();
    let loaded = house
        .load(house.file("d.tar", &files.tar()), &Load::default())
        .unwrap();
    assert_eq!(loaded.len(), 1);
    let listed = house.store.list().unwrap();
    let listed: Vec<_> = listed
        .iter()
        .map(|l| (l.reference.as_str(), l.layers))
        .collect();
    assert_eq!(
        listed,
        [("docker.io/library/a:1", 2), ("registry.example/b/c:2", 2)]
    );
    assert_eq!(house.content(&loaded[0], 0, "f"), noise(200_000));

    // A layer that is compressed, and one that is a link to another, as old Dockers saved it.
    files.add("0/layer.tar", gzip(&layers[0]));
    files.0.insert(
        "link/layer.tar".into(),
        Member::Symlink("../1/layer.tar".into()),
    );
    let text = String::from_utf8(files.bytes("manifest.json").to_vec()).unwrap();
    files.add(
        "manifest.json",
        text.replace("1/layer.tar", "link/layer.tar"),
    );
    let again = house.load(stream(files.tar()), &Load::default()).unwrap();
    assert_eq!(again[0].layers, loaded[0].layers);
    assert_ne!(
        again[0].manifest_digest, loaded[0].manifest_digest,
        "another blob of the same layer"
    );
}

#[test]
fn of_an_archive_that_is_both_the_layout_counts() {
    let mut files = docker(&["a:1"], &two_layers());
    let line = image(&mut files, &two_layers());
    let line = named(
        named(line, REF_NAME, "1"),
        IMAGE_NAME,
        "docker.io/library/a:1",
    );
    index(&mut files, std::slice::from_ref(&line));
    let loaded = house().load(stream(files.tar()), &Load::default()).unwrap();
    assert_eq!(loaded[0].manifest_digest, line["digest"]);
    assert_eq!(loaded[0].reference, "docker.io/library/a:1");
}

#[test]
fn a_root_file_system_is_one_layer_and_always_the_same_image() {
    let house = house();
    let tar = tar_of(&[("etc/os-release", b"ID=x"), ("bin/sh", b"#!")]);
    let wanted = Load {
        rootfs: true,
        ..tagged("base:1")
    };
    let first = house.load(stream(tar.clone()), &wanted).unwrap();
    assert_eq!(first[0].layers, [digest(&tar)]);
    assert_eq!(first[0].reference, "docker.io/library/base:1");
    assert_eq!(house.content(&first[0], 0, "etc/os-release"), b"ID=x");
    let again = house.load(house.file("r.tar", &tar), &wanted).unwrap();
    assert_eq!(again[0].manifest_digest, first[0].manifest_digest);
    let packed = house.load(stream(gzip(&tar)), &wanted).unwrap();
    assert_eq!(packed[0].layers, first[0].layers);
    let details = house.store.details("base:1").unwrap();
    assert_eq!(details.layers[0].digest, digest(&gzip(&tar)));
    assert_eq!(details.layers[0].media_type, LAYER);
}

#[test]
fn a_root_file_system_that_is_none_is_refused_and_leaves_nothing() {
    let wanted = Load {
        rootfs: true,
        ..tagged("base:1")
    };
    let tar = tar_of(&[("f", &noise(100_000))]);
    let cut = gzip(&tar)[..50_000].to_vec();
    let mut climbing = tar::Builder::new(Vec::new());
    append(&mut climbing, "../f", &Member::File(b"x".to_vec()));
    for (bytes, why) in [
        (Vec::new(), "the archive is empty; did the program"),
        (vec![0; 10_240], "the archive is empty"),
        (b"no archive at all, by any means".repeat(30), "check sum"),
        (tar[..60_000].to_vec(), "ends inside an entry"),
        (cut, "base:1"),
        (climbing.into_inner().unwrap(), "climbs out of the layer"),
    ] {
        let house = house();
        let error = house.load(stream(bytes), &wanted).unwrap_err();
        assert!(error.contains(why) || why == "base:1", "{why}: {error}");
        house.holds_nothing();
    }
    let house = house();
    let folder = house.load(Origin::Path(house.dir.path().to_owned()), &wanted);
    assert!(folder.unwrap_err().contains("it is a folder"));
    let unnamed = Load {
        rootfs: true,
        ..Load::default()
    };
    assert!(
        house
            .load(stream(tar), &unnamed)
            .unwrap_err()
            .contains("say --tag")
    );
    house.holds_nothing();
}

#[test]
fn an_image_without_a_whole_name_needs_one_and_of_several_one_is_chosen() {
    let house = house();
    let mut files = Files::default();
    let one = image(&mut files, &[tar_of(&[("f", b"1")])]);
    let two = image(&mut files, &[tar_of(&[("f", b"2")])]);
    let lines = [
        named(one.clone(), REF_NAME, "v1"),
        named(two.clone(), REF_NAME, "v2"),
    ];
    index(&mut files, &lines);
    let load = |wanted: &Load| house.load(stream(files.tar()), wanted);
    assert!(
        load(&Load::default())
            .unwrap_err()
            .contains("say one with --tag")
    );
    assert!(
        load(&tagged("a:1"))
            .unwrap_err()
            .contains("2 images in it and one --tag")
    );
    house.holds_nothing();
    let only = |name: &str| Load {
        only: Some(name.to_owned()),
        ..tagged("a:1")
    };
    assert_eq!(load(&only("v2")).unwrap()[0].manifest_digest, two["digest"]);
    assert!(load(&only("v3")).unwrap_err().contains("no image `v3`"));
    let digest = Load {
        tag: Some(format!("a@{}", one["digest"].as_str().unwrap())),
        ..only("v1")
    };
    assert!(load(&digest).unwrap_err().contains("cannot be given"));
}

#[test]
fn of_several_platforms_this_hosts_is_loaded() {
    let mut files = Files::default();
    let own = image(&mut files, &[tar_of(&[("f", b"own")])]);
    let line = |mut line: Value, architecture: &str| {
        line["platform"] = json!({"os": "linux", "architecture": architecture});
        line
    };
    let absent = json!({"mediaType": MANIFEST, "digest": digest(b"absent"), "size": 7});
    let lines = json!([line(absent.clone(), "s390x"), line(own.clone(), arch())]);
    let nested = json!({"schemaVersion": 2, "manifests": lines.clone()});
    let nested = files.blob(
        "application/vnd.oci.image.index.v1+json",
        nested.to_string(),
    );
    // An index of its own, and lines of one name.
    let of_one_name: Vec<Value> = lines.as_array().unwrap().to_vec();
    let of_one_name: Vec<Value> = of_one_name
        .into_iter()
        .map(|l| named(l, REF_NAME, "r/b:1"))
        .collect();
    index(
        &mut files,
        &[
            &[named(nested.clone(), REF_NAME, "r/a:1")][..],
            &of_one_name,
        ]
        .concat(),
    );
    let house = house();
    let loaded = house.load(stream(files.tar()), &Load::default()).unwrap();
    let found: Vec<_> = loaded
        .iter()
        .map(|i| (i.reference.as_str(), &i.manifest_digest))
        .collect();
    let own = own["digest"].as_str().unwrap().to_owned();
    assert_eq!(
        found,
        [("docker.io/r/a:1", &own), ("docker.io/r/b:1", &own)]
    );

    index(
        &mut files,
        &[named(line(absent, "s390x"), REF_NAME, "r/a:1")],
    );
    let error = house
        .load(stream(files.tar()), &Load::default())
        .unwrap_err();
    assert!(
        error.contains("not made for linux/") && error.contains("linux/s390x"),
        "{error}"
    );
}

type Lie = Box<dyn Fn(&mut Files)>;

/// The name of the one blob that a document's descriptor names.
fn blob_of(files: &Files, pointer: &str) -> String {
    let index: Value = serde_json::from_slice(files.bytes("index.json")).unwrap();
    let manifest = index["manifests"][0]["digest"].as_str().unwrap();
    if pointer.is_empty() {
        return blob_name(manifest);
    }
    let manifest: Value = serde_json::from_slice(files.bytes(&blob_name(manifest))).unwrap();
    blob_name(manifest.pointer(pointer).unwrap().as_str().unwrap())
}

const LAYER_0: &str = "/layers/0/digest";

fn replaced(pointer: &'static str, with: Member) -> Lie {
    Box::new(move |files| {
        let name = blob_of(files, pointer);
        files.0.insert(name, with.clone());
    })
}

fn damaged(pointer: &'static str) -> Lie {
    Box::new(move |files| {
        let name = blob_of(files, pointer);
        let mut bytes = files.bytes(&name).to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        files.add(&name, bytes);
    })
}

fn file(name: &'static str, text: impl Into<Vec<u8>>) -> Lie {
    let text = text.into();
    Box::new(move |files| files.add(name, text.clone()))
}

/// Each lie and a part of what is said about it, for archives and folders alike.
fn lies() -> Vec<(&'static str, Lie)> {
    let gone = |pointer: &'static str| -> Lie {
        Box::new(move |files| {
            let name = blob_of(files, pointer);
            files.0.remove(&name);
        })
    };
    let longer: Lie = Box::new(|files| {
        let name = blob_of(files, LAYER_0);
        let bytes = [files.bytes(&name), b"more"].concat();
        files.add(&name, bytes);
    });
    let other_diff_id: Lie = Box::new(|files| {
        let layers = [tar_of(&[("f", b"1")])];
        let config = files.blob(layout::CONFIG, layout::config(&[tar_of(&[("f", b"2")])]));
        let layer = files.blob(LAYER, gzip(&layers[0]));
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
        let line = files.blob(MANIFEST, manifest.to_string());
        index(files, &[named(line, REF_NAME, "a/a:1")]);
    });
    let of = |what: &'static str, media_type: &'static str| -> Lie {
        Box::new(move |files| {
            let mut line = files.blob(media_type, what);
            line["annotations"] = json!({REF_NAME: "a/a:1"});
            index(files, &[line]);
        })
    };
    let deep: Lie = Box::new(|files| {
        let kind = "application/vnd.oci.image.index.v1+json";
        let mut line = image(files, &[]);
        for _ in 0..3 {
            line = files.blob(
                kind,
                json!({"schemaVersion": 2, "manifests": [line]}).to_string(),
            );
        }
        index(files, &[named(line, REF_NAME, "a/a:1")]);
    });
    let twice: Lie = Box::new(|files| {
        let one = image(files, &[tar_of(&[("f", b"1")])]);
        let two = image(files, &[tar_of(&[("f", b"2")])]);
        let lines = [named(one, REF_NAME, "a/a:1"), named(two, REF_NAME, "a/a:1")];
        index(files, &lines);
    });
    let bad_name: Lie = Box::new(|files| {
        let line = image(files, &[]);
        index(files, &[named(line, REF_NAME, "a/../../b:\u{1b}[2J")]);
    });
    vec![
        (
            "at most 4194304 are read",
            file("index.json", vec![b' '; 5 << 20]),
        ),
        ("not a manifest or index", file("index.json", "{")),
        (
            "neither `manifests` nor",
            file("index.json", r#"{"schemaVersion": 2}"#),
        ),
        (
            "there is no image in it",
            file("index.json", r#"{"schemaVersion": 2, "manifests": []}"#),
        ),
        (
            "version 2.0.0 is not supported",
            file("oci-layout", r#"{"imageLayoutVersion":"2.0.0"}"#),
        ),
        ("oci-layout: ", file("oci-layout", "1.0.0")),
        (
            "is a link",
            replaced("", Member::Symlink("/etc/passwd".into())),
        ),
        (
            "is a link",
            replaced(LAYER_0, Member::Symlink("../../oci-layout".into())),
        ),
        ("is not in it; the copy is not whole", gone("")),
        (
            "is not in it; the copy is not whole",
            gone("/config/digest"),
        ),
        ("is not in it; the copy is not whole", gone(LAYER_0)),
        ("wrong digest: the bytes of sha256:", damaged("")),
        (
            "wrong digest: the bytes of sha256:",
            damaged("/config/digest"),
        ),
        ("wrong digest: the bytes have sha256:", damaged(LAYER_0)),
        ("wrong size: sha256:", longer),
        ("wrong diff ID", other_diff_id),
        ("not a manifest or index", of("[]", MANIFEST)),
        (
            "`application/vnd.x` is not supported",
            of(
                r#"{"schemaVersion":2,"config":{"digest":"","size":0},"layers":[]}"#,
                "application/vnd.x",
            ),
        ),
        ("schema 1", of(r#"{"schemaVersion": 1}"#, MANIFEST)),
        ("an index inside an index inside index.json", deep),
        ("2 lines of this name that say no platform", twice),
        ("not an image reference", bad_name),
    ]
}

#[test]
fn a_layout_that_lies_is_refused_by_name_and_the_store_is_as_it_was() {
    for (why, lie) in lies() {
        let mut files = layout("a/a:1", &two_layers());
        lie(&mut files);
        for as_folder in [false, true] {
            let house = house();
            let origin = match as_folder {
                true => house.folder(&files),
                false => house.file("a.tar", &files.tar()),
            };
            let error = house.load(origin, &Load::default()).expect_err(why);
            assert!(error.contains(why), "{why}: {error}");
            assert!(!error.contains('\u{1b}'), "{error:?}");
            let left = names(&house.path().join("refs"));
            assert_eq!(
                (left, names(&house.path().join("ingest"))),
                (vec![], vec![]),
                "{why}"
            );
            // The one of two layers that is whole may be there, by its right name.
            let layers = names(&house.path().join("layers/sha256"));
            assert!(layers.len() <= 1, "{why}: {layers:?}");
        }
    }
}

#[test]
fn an_archive_that_lies_in_its_headers_is_refused_by_name() {
    let files = layout("a/a:1", &two_layers());
    let good = files.tar();
    let with = |name: &str, member: Member| {
        let mut builder = tar::Builder::new(Vec::new());
        append(&mut builder, name, &member);
        let extra = builder.into_inner().unwrap();
        [&extra[..extra.len() - 1024], &good].concat()
    };
    let file = || Member::File(b"x".to_vec());
    let mut endless = tar::Header::new_gnu();
    endless.as_old_mut().name[..1].copy_from_slice(b"e");
    endless.set_size(1 << 60);
    endless.set_cksum();
    let many: Vec<u8> = {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..2].copy_from_slice(b"d/");
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_cksum();
        header.as_bytes().repeat(64 * 1024 + 1)
    };
    let cases = [
        (with("../x", file()), "climbs out"),
        (with("a/../x", file()), "climbs out"),
        (with("/etc/passwd", file()), "is absolute"),
        (with("oci-layout", file()), "two members of this name"),
        (with("./index.json", file()), "two members of this name"),
        (
            with("h", Member::Hardlink("index.json".into())),
            "no hard links",
        ),
        (with("p", Member::Fifo), "no devices and no pipes"),
        (
            [endless.as_bytes(), good.as_slice()].concat(),
            "the archive ends inside it",
        ),
        (
            good[..good.len() / 2].to_vec(),
            "the archive ends inside it",
        ),
        (many, "more than 65536 members"),
        (noise(4096), "check sum"),
        (tar_of(&[("f", b"x")]), "--rootfs"),
        (Vec::new(), "--rootfs"),
        (gzip(&good)[..100_000].to_vec(), "read: "),
    ];
    for (bytes, why) in cases {
        // So many headers are read once.
        let ways: &[bool] = if bytes.len() > 10_000_000 {
            &[false]
        } else {
            &[false, true]
        };
        for &as_stream in ways {
            let house = house();
            let origin = match as_stream {
                true => stream(bytes.clone()),
                false => house.file("a.tar", &bytes),
            };
            let error = house.load(origin, &Load::default()).expect_err(why);
            assert!(error.contains(why), "{why}: {error}");
            house.holds_nothing();
        }
    }
}

#[test]
fn a_docker_archive_that_lies_is_refused_by_name() {
    let lines = |text: Value| file("manifest.json", text.to_string());
    let config = |files: &Files| {
        let name = files.0.keys().find(|name| name.ends_with(".json")).unwrap();
        name.clone()
    };
    let other_config: Lie = Box::new(move |files| {
        let name = config(files);
        let bytes = [files.bytes(&name), b" "].concat();
        files.add(&name, bytes);
    });
    let out: Lie = Box::new(|files| {
        let link = Member::Symlink("../../../etc/passwd".into());
        files.0.insert("0/layer.tar".into(), link);
    });
    let circle: Lie = Box::new(|files| {
        files
            .0
            .insert("0/layer.tar".into(), Member::Symlink("layer.tar".into()));
    });
    let cases: Vec<(&str, Lie)> = vec![
        ("manifest.json: ", file("manifest.json", "{}")),
        (
            "at most 4194304 are read",
            file("manifest.json", vec![b' '; 5 << 20]),
        ),
        (
            "names more than 1000 images",
            lines(Value::Array(vec![json!({"Config": "c"}); 1001])),
        ),
        ("there is no image in it", file("manifest.json", "[]")),
        (
            "`../c` is not in it",
            lines(json!([{"Config": "../c", "RepoTags": ["a:1"], "Layers": []}])),
        ),
        ("wrong digest: the configuration", other_config),
        ("leads out of the archive", out),
        ("which is another link", circle),
        (
            "is not in it",
            Box::new(|files| drop(files.0.remove("1/layer.tar"))),
        ),
        (
            "wrong digest: the bytes have",
            Box::new(|files| files.add("1/layer.tar", tar_of(&[("g", b"3")]))),
        ),
    ];
    for (why, lie) in cases {
        let mut files = docker(&["a:1"], &two_layers());
        lie(&mut files);
        let house = house();
        let error = house
            .load(stream(files.tar()), &Load::default())
            .expect_err(why);
        assert!(error.contains(why), "{why}: {error}");
        assert_eq!(names(&house.path().join("refs")), [""; 0], "{why}");
        assert_eq!(names(&house.path().join("ingest")), [""; 0], "{why}");
    }
    let mut files = docker(&["A B"], &two_layers());
    let error = house()
        .load(stream(files.tar()), &Load::default())
        .unwrap_err();
    assert!(error.contains("not an image reference"), "{error}");
    files = docker(&[], &two_layers());
    let house = house();
    assert!(
        house
            .load(stream(files.tar()), &Load::default())
            .unwrap_err()
            .contains("--tag")
    );
    house.load(stream(files.tar()), &tagged("a:1")).unwrap();
}

#[test]
fn a_folder_may_hold_no_links_and_no_pipes() {
    for (name, member, why) in [
        (
            "index.json",
            Member::Symlink("/etc/passwd".into()),
            "is a link",
        ),
        ("index.json", Member::Fifo, "is no file"),
        (
            "oci-layout",
            Member::Symlink("oci-layout".into()),
            "is a link",
        ),
    ] {
        let house = house();
        let mut files = layout("a/a:1", &two_layers());
        files.0.insert(name.into(), member);
        let error = house
            .load(house.folder(&files), &Load::default())
            .unwrap_err();
        assert!(error.contains(why), "{error}");
        house.holds_nothing();
    }
    // All blobs behind a link to where they are.
    let house = house();
    let Origin::Path(folder) = house.folder(&layout("a/a:1", &two_layers())) else {
        unreachable!("a folder is a path");
    };
    std::fs::rename(folder.join("blobs"), house.dir.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("../elsewhere", folder.join("blobs")).unwrap();
    let error = house
        .load(Origin::Path(folder), &Load::default())
        .unwrap_err();
    assert!(error.contains("lies behind one"), "{error}");
    let error = house.load(Origin::Path("/nonexistent".into()), &Load::default());
    assert!(error.unwrap_err().contains("open: "));
}

#[test]
fn names_are_given_taken_and_found() {
    let house = house();
    let files = layout("r.io/a:1", &two_layers());
    let image = house
        .load(stream(files.tar()), &Load::default())
        .unwrap()
        .remove(0);
    let store = &house.store;
    store.tag("r.io/a:1", "b").unwrap();
    let hex = image.manifest_digest.trim_start_matches("sha256:");
    for name in [
        "b",
        "docker.io/library/b:latest",
        hex,
        &hex[..6],
        &image.manifest_digest,
    ] {
        let details = store.details(name).unwrap();
        assert_eq!(details.digest, image.manifest_digest, "{name}");
        assert_eq!(
            details.references,
            ["docker.io/library/b:latest", "r.io/a:1"]
        );
        assert_eq!(details.configuration["config"]["Cmd"], json!(["/bin/true"]));
        assert_eq!(details.layers.len(), 2);
    }
    for unknown in ["c", "r.io/a", &hex[..5], "", "../..", "a@sha256:00"] {
        let error = store.details(unknown).unwrap_err().to_string();
        assert!(error.contains("longshore image ls lists"), "{error}");
    }
    let error = store.remove(hex).unwrap_err().to_string();
    assert!(error.contains("several names, say which one"), "{error}");
    store.remove("b").unwrap();
    let usage = store.usage().unwrap();
    assert_eq!((usage.images, usage.layers, usage.unused_layers), (1, 2, 0));
    assert!(
        usage.layers_size > 200_000 && usage.capacity > usage.free,
        "{usage:?}"
    );
    store.remove(hex).unwrap();
    assert_eq!(store.list().unwrap(), []);
    let usage = store.usage().unwrap();
    assert_eq!((usage.images, usage.unused_size), (0, usage.layers_size));
    assert!(store.remove("b").is_err());
}

#[test]
fn what_was_saved_is_loaded_again_as_the_same_image_each_time() {
    let house = house();
    let files = layout("r.io/a:1", &two_layers());
    house.load(stream(files.tar()), &Load::default()).unwrap();
    let saved = |format| {
        let saving = house.store.save(&["r.io/a:1".to_owned()], format).unwrap();
        let mut bytes = Vec::new();
        saving.write(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, saving.size());
        (bytes, saving.digests().to_vec())
    };
    for format in [Format::Oci, Format::Docker] {
        let (bytes, digests) = saved(format);
        assert_eq!(saved(format).0, bytes, "the same image is the same archive");
        let other = crate::house();
        let again = other.load(stream(bytes), &Load::default()).unwrap();
        assert_eq!(again[0].manifest_digest, digests[0]);
        assert_eq!(again[0].reference, "r.io/a:1");
        assert_eq!(other.content(&again[0], 0, "f"), noise(200_000));
        assert_eq!(other.content(&again[0], 1, "g"), b"2");
        // From there on nothing changes any more.
        let saving = other.store.save(&["r.io/a:1".to_owned()], format).unwrap();
        assert_eq!(saving.digests(), digests);
    }
    let error = house.store.save(&["no-such".to_owned()], Format::Oci);
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("longshore image ls")
    );
}

#[test]
fn an_archive_whose_writer_fails_says_so() {
    struct Full(usize);
    impl std::io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(bytes.len())
                .ok_or(std::io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let house = house();
    let files = layout("r.io/a:1", &two_layers());
    house.load(stream(files.tar()), &Load::default()).unwrap();
    let saving = house
        .store
        .save(&["r.io/a:1".to_owned()], Format::Oci)
        .unwrap();
    for room in [0, 3000, 150_000] {
        let error = saving.write(Full(room)).unwrap_err().to_string();
        assert!(error.starts_with("save image"), "{error}");
    }
}
