//! Any bytes as an archive of images: its images are found and their documents judged, or it is refused with a cause.
#![no_main]

use libfuzzer_sys::fuzz_target;
use longshore_image::fuzz::archive;

fuzz_target!(|bytes: &[u8]| {
    if let Err(cause) = archive(bytes) {
        assert!(!cause.is_empty());
        assert!(!cause.contains(char::is_control), "{cause:?}");
    }
});
