//! Any bytes as an image's configuration: read or refused with a cause, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use longshore_image::fuzz::config;

fuzz_target!(|bytes: &[u8]| {
    for layers in 0..3 {
        if let Err(cause) = config(bytes, layers) {
            assert!(!cause.is_empty());
            assert!(!cause.contains(char::is_control), "{cause:?}");
        }
    }
});
