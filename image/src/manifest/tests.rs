use super::*;
use media::{DOCKER_LIST, DOCKER_MANIFEST, OCI_MANIFEST};
use proptest::prelude::*;
use serde_json::{Value, json};

const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn read(document: &Value, content_type: Option<&str>) -> Result<Document, String> {
    parse(document.to_string().as_bytes(), content_type)
}

fn image(layer_type: &str) -> Value {
    json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": D, "size": 2},
        "layers": [{"mediaType": layer_type, "digest": D, "size": 3}]})
}

#[test]
fn both_families_of_manifest_are_read() {
    for (ty, layer) in [
        (OCI_MANIFEST, GZIP),
        (
            DOCKER_MANIFEST,
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ),
        (OCI_MANIFEST, "application/vnd.oci.image.layer.v1.tar"),
    ] {
        let mut doc = image(layer);
        doc["mediaType"] = json!(ty);
        let Ok(Document::Manifest(m)) = read(&doc, Some(&format!("{ty}; charset=utf-8"))) else {
            panic!("{doc}");
        };
        assert_eq!((m.config.size, m.layers[0].size), (2, 3));
    }
}

#[test]
fn unsupported_documents_are_refused_by_name() {
    let mut both = image(GZIP);
    both["manifests"] = json!([]);
    let mut list = image(GZIP);
    list["mediaType"] = json!(DOCKER_LIST);
    let cases = [
        (json!({"schemaVersion": 1}), "schema 1"),
        (json!({"schemaVersion": 3}), "schema version 3"),
        (json!({"schemaVersion": 2}), "neither"),
        (json!([]), "not a manifest or index"),
        (both, "ambiguous"),
        (list, "its fields say otherwise"),
        (
            image("application/vnd.oci.image.layer.v1.tar+zstd+encrypted"),
            "encrypted layers",
        ),
        (
            image("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
            "foreign layers",
        ),
        (
            image("application/x-helm"),
            "`application/x-helm` is not supported",
        ),
    ];
    for (doc, said) in cases {
        let error = read(&doc, None).expect_err(said);
        assert!(error.contains(said), "{error}");
    }
    let v1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    assert!(
        read(&image(GZIP), Some(v1))
            .unwrap_err()
            .contains("schema 1")
    );
    assert!(
        read(&image(GZIP), Some("text/html"))
            .unwrap_err()
            .contains("text/html")
    );
    let many: Vec<Value> = (0..501)
        .map(|_| json!({"mediaType": GZIP, "digest": D, "size": 1}))
        .collect();
    let mut tall = image(GZIP);
    tall["layers"] = json!(many);
    assert!(read(&tall, None).unwrap_err().contains("501 layers"));
}

#[test]
fn a_configuration_must_fit_manifest_and_host() {
    let config = |arch: &str| {
        json!({"architecture": arch, "os": "linux", "config": {"Env": null, "Cmd": ["a"], "Entrypoint": null,
            "ExposedPorts": {"80/tcp": {}}, "Volumes": null, "Labels": null},
            "rootfs": {"type": "layers", "diff_ids": [D]}})
        .to_string()
    };
    let (parsed, ids) = parse_config(config("amd64").as_bytes(), 1, "amd64").unwrap();
    assert_eq!(
        parsed.config().as_ref().unwrap().cmd().as_ref().unwrap(),
        &["a"]
    );
    assert_eq!(ids.len(), 1);
    let arm = parse_config(config("arm64").as_bytes(), 1, "amd64").unwrap_err();
    assert_eq!(
        arm,
        "the image is made for linux/arm64, this host is linux/amd64"
    );
    let count = parse_config(config("amd64").as_bytes(), 2, "amd64").unwrap_err();
    assert_eq!(
        count,
        "the configuration names 1 diff IDs, the manifest 2 layers"
    );
    assert!(parse_config(b"{}", 0, "amd64").is_err());
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let document = parse(&bytes, None);
        let config = parse_config(&bytes, 1, "amd64");
        prop_assert!(document.is_err() && config.is_err());
    }
}
