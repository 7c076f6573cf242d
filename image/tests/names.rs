//! What names an image, and the giving and taking of names. No privilege needed.

mod layout;
mod loading;
mod registry;

use layout::{REF_NAME, config, image, index, layout, named};
use loading::{House, house, names, stream, two_layers};
use longshore_image::{Extent, Format, Image, Load, Removed};
use registry::{digest, tar_of};
use serde_json::json;

fn removed(house: &House, name: &str) -> Result<Removed, String> {
    let removed = house.store.remove(name, Extent::OneName, &Vec::new);
    removed.map_err(|e| e.to_string())
}

fn one(house: &House, name: &str, layers: &[Vec<u8>]) -> Image {
    let files = layout(name, layers);
    let loaded = house.load(stream(files.tar()), &Load::default());
    loaded.unwrap().remove(0)
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
    let error = removed(&house, hex).unwrap_err();
    assert!(error.contains("several names, say which one"), "{error}");
    let gone = removed(&house, "b").unwrap();
    assert_eq!(
        (gone.references, gone.image),
        (vec!["docker.io/library/b:latest".to_owned()], false)
    );
    let usage = store.usage().unwrap();
    assert_eq!((usage.images, usage.layers, usage.unused_layers), (1, 2, 0));
    assert!(
        usage.layers_size > 200_000 && usage.capacity > usage.free,
        "{usage:?}"
    );
    removed(&house, "r.io/a:1").unwrap();
    assert_eq!(store.list().unwrap(), []);
    let usage = store.usage().unwrap();
    assert_eq!((usage.images, usage.unused_size), (0, usage.layers_size));
    assert!(removed(&house, "b").is_err());
}

#[test]
fn a_digest_or_an_id_removes_the_image_with_its_layers_at_once() {
    let house = house();
    let id = digest(&config(&two_layers()));
    let by_each = |image: &Image| {
        let digest = &image.manifest_digest;
        [
            format!("r.io/a@{digest}"),
            format!("r.io/a:other@{digest}"),
            digest.clone(),
            digest["sha256:".len()..][..6].to_owned(),
            id.clone(),
            id["sha256:".len()..].to_owned(),
            id["sha256:".len()..][..6].to_owned(),
        ]
    };
    let image = one(&house, "r.io/a:1", &two_layers());
    for name in by_each(&image) {
        let image = one(&house, "r.io/a:1", &two_layers());
        assert_eq!(house.store.details(&name).unwrap().id, id, "{name}");
        house.store.tag(&name, "r.io/b:1").unwrap();
        house
            .store
            .save(std::slice::from_ref(&name), Format::Oci)
            .unwrap();
        removed(&house, "r.io/b:1").unwrap();

        let gone = removed(&house, &name).unwrap();
        assert_eq!((gone.digest, gone.image), (image.manifest_digest, true));
        assert_eq!(gone.references, ["r.io/a:1"]);
        for directory in ["refs", "manifests", "configs", "layers/sha256"] {
            assert_eq!(
                names(&house.path().join(directory)),
                [""; 0],
                "{name}: {directory}"
            );
        }
    }
    // Several names are more than a digest may take, unless all are meant.
    let image = one(&house, "r.io/a:1", &two_layers());
    house.store.tag("r.io/a:1", "b").unwrap();
    let error = removed(&house, &format!("r.io/a@{}", image.manifest_digest)).unwrap_err();
    assert!(
        error.contains("docker.io/library/b:latest, r.io/a:1"),
        "{error}"
    );
    let held = || vec![image.manifest_digest.clone()];
    let all = |held: &dyn Fn() -> Vec<String>| house.store.remove(&id, Extent::AllNames, held);
    let error = all(&held).unwrap_err().to_string();
    assert!(error.contains("uses it just now"), "{error}");
    let gone = all(&Vec::new).unwrap();
    assert_eq!(gone.references, ["docker.io/library/b:latest", "r.io/a:1"]);
    let error = removed(&house, &id).unwrap_err();
    assert!(error.contains("longshore image ls lists"), "{error}");
}

#[test]
fn what_could_be_two_images_is_refused_with_both() {
    let house = house();
    // One configuration in two manifests: Docker would say that they are one image.
    let layers = [tar_of(&[("f", b"x")])];
    let (id, first) = (digest(&config(&layers)), one(&house, "r.io/a:1", &layers));
    let mut files = layout::Files::default();
    let plain = files.blob("application/vnd.oci.image.layer.v1.tar", layers[0].clone());
    let config = files.blob(layout::CONFIG, config(&layers));
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [plain]});
    let line = files.blob(layout::MANIFEST, manifest.to_string());
    index(&mut files, &[named(line, REF_NAME, "r.io/b:1")]);
    let loaded = house.load(stream(files.tar()), &Load::default());
    let second = loaded.unwrap().remove(0);
    assert_ne!(first.manifest_digest, second.manifest_digest);
    for name in [&id, &id["sha256:".len()..][..6]] {
        let error = removed(&house, name).unwrap_err();
        for part in [
            &first.manifest_digest,
            &second.manifest_digest,
            "r.io/a:1",
            "any of 2",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
    // The digest is right, the name is another image's.
    let error = removed(&house, &format!("r.io/c@{}", first.manifest_digest)).unwrap_err();
    assert!(error.contains("under another name: r.io/a:1"), "{error}");
    assert_eq!(house.store.list().unwrap().len(), 2);
}

#[test]
fn an_image_without_a_name_is_still_meant_by_its_digest() {
    let house = house();
    let first = one(&house, "r.io/a:1", &[tar_of(&[("f", b"1")])]);
    one(&house, "r.io/a:1", &[tar_of(&[("f", b"2")])]);
    let details = house.store.details(&first.manifest_digest).unwrap();
    assert_eq!((details.references.len(), details.whole), (0, true));
    let gone = removed(&house, &format!("r.io/a@{}", first.manifest_digest)).unwrap();
    assert_eq!((gone.references.len(), gone.image), (0, true));
    assert_eq!(names(&house.path().join("layers/sha256")).len(), 1);
}

#[test]
fn an_image_of_several_platforms_is_meant_by_its_indexs_digest() {
    let house = house();
    let mut files = layout::Files::default();
    let line = image(&mut files, &two_layers());
    let inner = json!({"schemaVersion": 2, "manifests": [line]});
    let top = files.blob(registry::INDEX, inner.to_string());
    let top_digest = top["digest"].as_str().unwrap().to_owned();
    index(&mut files, &[named(top, REF_NAME, "r.io/a:1")]);
    house.load(stream(files.tar()), &Load::default()).unwrap();
    for name in [format!("r.io/a@{top_digest}"), top_digest.clone()] {
        assert_eq!(house.store.details(&name).unwrap().references, ["r.io/a:1"]);
    }
    assert!(removed(&house, &top_digest[..13]).unwrap().image);
}
