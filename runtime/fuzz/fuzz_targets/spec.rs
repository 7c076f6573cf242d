//! Any text read as config.json: a spec or an error in words, never a panic; and a spec that was read is read
//! again as the same one from what it is written as.
#![no_main]

use libfuzzer_sys::fuzz_target;
use longshore_runtime::spec::spec_of;

fuzz_target!(|text: &[u8]| {
    match spec_of(text, "config.json") {
        Ok((spec, _)) => {
            let written = serde_json::to_vec(&spec).expect("a spec can be written");
            let (again, warnings) = spec_of(&written, "again").expect("what was written can be read");
            assert_eq!(spec, again);
            assert!(warnings.is_empty(), "{warnings:?}");
        }
        Err(error) => assert!(!error.cause.is_empty() && error.subject == "config.json", "{error:?}"),
    }
});
