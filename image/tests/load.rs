//! Images from folders and archives that tell the truth. No privilege needed.

mod layout;
mod loading;
mod registry;

use std::sync::Mutex;

use layout::{
    Files, IMAGE_NAME, LAYER, MANIFEST, Member, REF_NAME, append, docker, image, index, layout,
    named,
};
use loading::{house, names, stream, tagged, two_layers};
use longshore_image::{Load, Origin, Progress};
use registry::{arch, digest, gzip, noise, tar_of};
use serde_json::{Value, json};

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
