use super::*;

#[test]
fn an_id_is_one_harmless_path_component() {
    for good in ["a", "task-1_2.3", &"x".repeat(200)] {
        assert!(check_id(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        ".",
        "..",
        ".hidden",
        "a/b",
        "a b",
        "a:b",
        "a,b",
        "é",
        &"x".repeat(201),
    ] {
        assert!(check_id(bad).is_err(), "{bad}");
    }
}

mod mounted {
    use super::super::*;
    use crate::store::layers;
    use oci_spec::image::ImageConfiguration;
    use rustix::fs::OFlags;
    use std::os::fd::AsFd;
    use std::path::Path;

    /// A store with layers made by hand, each by its own function.
    fn store(dir: &Path, layers: &[&dyn Fn(&Path)]) -> (Layout, Image) {
        let layout = Layout::open(dir).unwrap();
        let mut ids = Vec::new();
        for (at, fill) in layers.iter().enumerate() {
            let id = Digest::of(&at.to_le_bytes());
            let layer = dir.join(layers::path(&id));
            std::fs::create_dir_all(layer.join("fs")).unwrap();
            fill(&layer.join("fs"));
            let opaque = layer.join("fs/opaque-root").exists();
            let outline = format!(
                r#"{{"entries":0,"bytes":0,"opaque_root":{opaque},"has_root":false,"implied":[]}}"#
            );
            let record = format!(r#"{{"version":1,"boot":"x","outline":{outline}}}"#);
            std::fs::write(layer.join("layer.json"), record).unwrap();
            ids.push(id.to_string());
        }
        let image = Image {
            reference: "r".into(),
            manifest_digest: Digest::of(b"manifest").to_string(),
            config: ImageConfiguration::default(),
            layers: ids,
        };
        (layout, image)
    }

    fn write(path: std::path::PathBuf, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// The two ways to mount, on fresh roots.
    fn both_ways(layout: &Layout, image: &Image, check: impl Fn(&Path)) {
        for (id, old) in [("new", false), ("old", true)] {
            create(layout, id, &format!("roots/{id}"), image, None).unwrap();
            let root = layout.directory(&format!("roots/{id}")).unwrap();
            let lower = layout.list(&format!("roots/{id}/l")).unwrap().len();
            let mounted = match old {
                true => overlay::mount_old(root, lower, Access::Writable).unwrap(),
                false => {
                    match overlay::mount_new(root.as_fd(), lower, &Access::Writable).unwrap() {
                        Some(mounted) => mounted,
                        // An old kernel: the other way is the only one, and is checked.
                        None => continue,
                    }
                }
            };
            check(Path::new(&overlay::by_fd(&mounted)));
            drop(mounted);
            remove(layout, id).unwrap();
        }
    }

    #[test]
    #[ignore = "needs root"]
    fn both_ways_of_mounting_show_the_same_root() {
        let dir = tempfile::tempdir().unwrap();
        let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let (layout, mut image) = store(
            dir.path(),
            &[
                &|fs| write(fs.join("d/a"), "0"),
                &|fs| {
                    write(fs.join("d/b"), "1");
                    let fs = rustix::fs::open(fs, OFlags::PATH, Mode::empty()).unwrap();
                    let kind = rustix::fs::FileType::CharacterDevice;
                    rustix::fs::mknodat(&fs, "d/a", kind, Mode::empty(), 0).unwrap();
                },
                &|fs| write(fs.join("d/c"), "2"),
            ],
        );
        // A layer twice, as images of several empty steps have it.
        image.layers.insert(0, image.layers[2].clone());
        both_ways(&layout, &image, |root| {
            assert!(!root.join("d/a").exists());
            assert_eq!(std::fs::read(root.join("d/b")).unwrap(), b"1");
            assert_eq!(std::fs::read(root.join("d/c")).unwrap(), b"2");
            std::fs::write(root.join("d/b"), "written").unwrap();
            assert_eq!(std::fs::read(root.join("d/b")).unwrap(), b"written");
        });
        assert_eq!(
            std::fs::read_to_string("/proc/self/mountinfo").unwrap(),
            before
        );
    }

    #[test]
    #[ignore = "needs root"]
    fn a_layer_whose_root_is_opaque_hides_all_below() {
        let dir = tempfile::tempdir().unwrap();
        let (layout, image) = store(
            dir.path(),
            &[
                &|fs| write(fs.join("hidden"), "0"),
                &|fs| write(fs.join("opaque-root"), "1"),
                &|fs| write(fs.join("seen"), "2"),
            ],
        );
        both_ways(&layout, &image, |root| {
            assert!(
                !root.join("hidden").exists()
                    && root.join("seen").exists()
                    && root.join("opaque-root").exists()
            );
        });
    }

    #[test]
    #[ignore = "needs root"]
    fn three_hundred_layers_fit_both_ways() {
        let dir = tempfile::tempdir().unwrap();
        let fill = |fs: &Path| {
            write(
                fs.join(format!(
                    "{}",
                    std::fs::read_dir(fs.join("../..")).unwrap().count()
                )),
                "x",
            )
        };
        let fills: Vec<&dyn Fn(&Path)> = (0..300).map(|_| &fill as &dyn Fn(&Path)).collect();
        let (layout, image) = store(dir.path(), &fills);
        both_ways(&layout, &image, |root| {
            assert_eq!(std::fs::read_dir(root).unwrap().count(), 300);
        });
    }
}
