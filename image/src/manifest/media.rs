//! Media types: which documents, configurations and layers are ours to read, and the refusals by name.
//!
//! Sources: OCI image specification, "Media Types" and "Layer"; Docker's "Image Manifest V 2, Schema 2". What a
//! layer's type says of its compression is checked for being known and then not relied upon: the bytes decide.

use crate::error::printable;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// What we call what we make ourselves.
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// What we ask a registry for.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

pub(super) const SCHEMA_1: &str = "the registry answered with a Docker schema 1 manifest, which is not supported; \
     push the image again with a current tool";

/// A media type without its parameters.
pub(super) fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

pub(super) fn is_schema_1(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.docker.distribution.manifest.v1")
}

/// A document must be what it, or who sent it, calls it.
pub(super) fn check_claim(claimed: &str, is_index: bool) -> Result<(), String> {
    let fits = match claimed {
        OCI_INDEX | DOCKER_LIST => is_index,
        OCI_MANIFEST | DOCKER_MANIFEST => !is_index,
        // Registries behind plain file servers say these; the document's own fields decide then.
        "application/json" | "application/octet-stream" | "text/plain" | "" => true,
        other => {
            return Err(format!(
                "media type `{}` is not supported; an OCI or Docker schema 2 image is",
                printable(other, 100)
            ));
        }
    };
    if !fits {
        return Err(format!(
            "it is called `{claimed}`, but its fields say otherwise"
        ));
    }
    Ok(())
}

/// A manifest's configuration says what the manifest is of: charts, plugins and signatures travel as images too.
pub(super) fn check_config_type(media_type: &str) -> Result<(), String> {
    match media_type {
        "application/vnd.oci.image.config.v1+json"
        | "application/vnd.docker.container.image.v1+json" => Ok(()),
        // Old registries and tools leave it out, or say no more than "bytes".
        "" | "application/octet-stream" | "application/json" => Ok(()),
        other => Err(format!(
            "it holds `{}` and is no container image",
            printable(other, 100)
        )),
    }
}

pub(super) fn check_layer_type(media_type: &str) -> Result<(), String> {
    let said = printable(media_type, 100);
    if media_type.ends_with("+encrypted") {
        return Err(format!(
            "the layer is of type `{said}`: encrypted layers are not supported; push the image unencrypted"
        ));
    }
    if media_type.contains("nondistributable") || media_type.contains(".foreign.") {
        return Err(format!(
            "the layer is of type `{said}`: foreign layers are not supported; push the image with its base layers"
        ));
    }
    match media_type {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Ok(()),
        _ => Err(format!(
            "layer type `{said}` is not supported; a tar archive is, plain or with gzip or zstd"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_of_both_families_are_known_in_each_compression() {
        for good in [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.diff.tar",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.diff.tar.zstd",
        ] {
            assert_eq!(check_layer_type(good), Ok(()));
        }
    }

    #[test]
    fn other_layers_are_refused_by_what_they_are() {
        for (bad, said) in [
            (
                "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
                "encrypted layers",
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+encrypted",
                "encrypted layers",
            ),
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                "foreign layers",
            ),
            (
                "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
                "foreign layers",
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+xz",
                "tar+xz` is not supported",
            ),
            (
                "application/x-helm",
                "`application/x-helm` is not supported",
            ),
            ("", "`` is not supported"),
        ] {
            let error = check_layer_type(bad).expect_err(bad);
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn what_is_no_image_is_refused_by_what_it_holds() {
        for good in [
            "application/vnd.oci.image.config.v1+json",
            "application/vnd.docker.container.image.v1+json",
            "",
        ] {
            assert_eq!(check_config_type(good), Ok(()));
        }
        for bad in [
            "application/vnd.cncf.helm.config.v1+json",
            "application/vnd.docker.plugin.v1+json",
            "application/vnd.oci.empty.v1+json",
        ] {
            let error = check_config_type(bad).expect_err(bad);
            assert!(error.contains(bad), "{error}");
        }
    }
}
