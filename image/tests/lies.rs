//! Images from folders and archives that lie: each is refused by name, and the store is as it was. No privilege needed.

mod layout;
mod loading;
mod registry;

use layout::{
    Files, LAYER, MANIFEST, Member, REF_NAME, append, blob_name, docker, image, index, layout,
    named,
};
use loading::{house, names, stream, tagged, two_layers};
use longshore_image::{Load, Origin};
use registry::{gzip, noise, tar_of};
use serde_json::{Value, json};

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
