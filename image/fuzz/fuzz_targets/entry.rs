//! Any bytes as an archive: each entry that is read from it is written, and read again as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use longshore_image::fuzz::rewritten;

fuzz_target!(|bytes: &[u8]| rewritten(bytes));
