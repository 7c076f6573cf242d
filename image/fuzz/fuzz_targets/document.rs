//! Any bytes as an index or a manifest, with and without a content type: read or refused with a cause, never a panic; and
//! what a host chooses of an index is for it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use longshore_image::fuzz::document;

const TYPES: [Option<&str>; 3] = [
    None,
    Some("application/vnd.oci.image.manifest.v1+json"),
    Some("application/vnd.docker.distribution.manifest.list.v2+json"),
];

fuzz_target!(|bytes: &[u8]| {
    for content_type in TYPES {
        if let Err(cause) = document(bytes, content_type) {
            assert!(!cause.is_empty());
            assert!(!cause.contains(char::is_control), "{cause:?}");
        }
    }
});
