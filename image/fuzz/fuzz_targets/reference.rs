//! Any text as an image reference: what is one has a canonical form, which is its own canonical form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use longshore_image::fuzz::reference;

fuzz_target!(|text: &str| {
    let Some(canonical) = reference(text) else { return };
    assert_eq!(reference(&canonical).as_ref(), Some(&canonical), "{text:?}");
    assert!(!canonical.contains(char::is_whitespace), "{canonical:?}");
});
