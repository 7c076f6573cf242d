//! Any bytes as a login file: read, or refused in words that repeat none of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use longshore_image::fuzz::credentials;

fuzz_target!(|bytes: &[u8]| {
    if let Err(cause) = credentials(bytes) {
        assert_eq!(cause, "it is not in the form of docker's config.json");
    }
});
