//! Any text as the headers of a registry's answer that steer us: the challenge, where to go, when to come back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use longshore_image::fuzz::{challenge, headers};

fuzz_target!(|text: &str| {
    challenge(text);
    headers(text);
});
