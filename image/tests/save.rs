//! Archives that the store writes, and the names in them. No privilege needed.

mod layout;
mod loading;
mod registry;

use layout::layout;
use loading::{house, stream, two_layers};
use longshore_image::{Format, Load};
use registry::noise;

#[test]
fn what_was_saved_is_loaded_again_as_the_same_image_each_time() {
    let house = house();
    let files = layout("r.io/a:1", &two_layers());
    house.load(stream(files.tar()), &Load::default()).unwrap();
    let saved = |format| {
        let saving = house.store.save(&["r.io/a:1".to_owned()], format).unwrap();
        let mut bytes = Vec::new();
        saving.write(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, saving.size());
        (bytes, saving.digests().to_vec())
    };
    for format in [Format::Oci, Format::Docker] {
        let (bytes, digests) = saved(format);
        assert_eq!(saved(format).0, bytes, "the same image is the same archive");
        let other = crate::house();
        let again = other.load(stream(bytes), &Load::default()).unwrap();
        assert_eq!(again[0].manifest_digest, digests[0]);
        assert_eq!(again[0].reference, "r.io/a:1");
        assert_eq!(other.content(&again[0], 0, "f"), noise(200_000));
        assert_eq!(other.content(&again[0], 1, "g"), b"2");
        // From there on nothing changes any more.
        let saving = other.store.save(&["r.io/a:1".to_owned()], format).unwrap();
        assert_eq!(saving.digests(), digests);
    }
    let error = house.store.save(&["no-such".to_owned()], Format::Oci);
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("longshore image ls")
    );
}

#[test]
fn an_archive_whose_writer_fails_says_so() {
    struct Full(usize);
    impl std::io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(bytes.len())
                .ok_or(std::io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let house = house();
    let files = layout("r.io/a:1", &two_layers());
    house.load(stream(files.tar()), &Load::default()).unwrap();
    let saving = house
        .store
        .save(&["r.io/a:1".to_owned()], Format::Oci)
        .unwrap();
    for room in [0, 3000, 150_000] {
        let error = saving.write(Full(room)).unwrap_err().to_string();
        assert!(error.starts_with("save image"), "{error}");
    }
}
