//! Documents that we make ourselves, where a source has none: always the same bytes from the same content.

use serde_json::{Value, json};

use super::Descriptor;
use super::media::OCI_MANIFEST;
use crate::digest::Digest;

/// A manifest of the image specification.
pub(crate) fn manifest<'a>(
    config: &Descriptor,
    layers: impl Iterator<Item = &'a Descriptor>,
) -> Vec<u8> {
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": line(config),
        "layers": layers.map(line).collect::<Vec<_>>(),
    });
    manifest.to_string().into_bytes()
}

/// A descriptor as documents have it.
pub(crate) fn line(blob: &Descriptor) -> Value {
    json!({"mediaType": blob.media_type, "digest": blob.digest.as_str(), "size": blob.size})
}

/// The configuration of an image that is nothing but a root file system: whoever runs it says what runs. It tells no
/// time, so that the same archive is the same image.
pub(crate) fn bare_config(architecture: &str, diff_id: &Digest) -> Vec<u8> {
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [diff_id.as_str()]},
        "history": [{"created_by": "longshore image load --rootfs"}],
    });
    config.to_string().into_bytes()
}

/// The same configuration over other layers.
pub(crate) fn config_over(config: &[u8], diff_ids: &[Digest]) -> Result<Vec<u8>, String> {
    let mut config: Value = serde_json::from_slice(config).map_err(|e| e.to_string())?;
    let fields = config.as_object_mut().ok_or("it is no object")?;
    let diff_ids: Vec<&str> = diff_ids.iter().map(Digest::as_str).collect();
    fields.insert(
        "rootfs".to_owned(),
        json!({"type": "layers", "diff_ids": diff_ids}),
    );
    Ok(config.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Document, parse, parse_config};

    #[test]
    fn what_is_made_is_what_the_reader_accepts() {
        let blob = |media_type: &str, bytes: &[u8]| Descriptor {
            media_type: media_type.to_owned(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
        };
        let config = bare_config("amd64", &Digest::of(b"layer"));
        let (_, diff_ids) = parse_config(&config, 1, "amd64").unwrap();
        assert_eq!(diff_ids, [Digest::of(b"layer")]);
        let layer = blob(crate::manifest::media::OCI_LAYER, b"layer");
        let config = blob(crate::manifest::media::OCI_CONFIG, &config);
        let made = manifest(&config, [&layer].into_iter());
        match parse(&made, Some(OCI_MANIFEST)).unwrap() {
            Document::Manifest(read) => {
                assert_eq!(read.config, config);
                assert_eq!(read.layers, [layer]);
            }
            Document::Index(_) => panic!("a manifest was read as an index"),
        }
    }

    #[test]
    fn a_configuration_keeps_what_it_says_over_other_layers() {
        let before = br#"{"architecture":"amd64","os":"linux","created":"2020-01-01T00:00:00Z",
            "config":{"Cmd":["/a"],"Labels":{"k":"v"}},"unknown":{"kept":[1]},
            "rootfs":{"type":"layers","diff_ids":["sha256:old"]},"history":[{"created_by":"x"}]}"#;
        let after = config_over(before, &[Digest::of(b"new")]).unwrap();
        let after: Value = serde_json::from_slice(&after).unwrap();
        let mut wanted: Value = serde_json::from_slice(before).unwrap();
        wanted["rootfs"]["diff_ids"] = json!([Digest::of(b"new").as_str()]);
        assert_eq!(after, wanted);
        assert!(config_over(b"[]", &[]).is_err());
    }
}
