//! A collection beside other work on a journalling file system. Needs root, mkfs.ext4 and loop devices.

mod registry;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use longshore_image::{Prune, Registries, Store};
use registry::{Registry, tar_of};

/// What a collection may add to the longest time that one file takes.
const ALLOWED: Duration = Duration::from_millis(100);
const TRIES: usize = 3;

/// An ext4 with a journal, gone when dropped.
struct Ext4(PathBuf);

impl Ext4 {
    fn mount(dir: &Path) -> Ext4 {
        let (image, at) = (dir.join("ext4"), dir.join("mounted"));
        let file = std::fs::File::create(&image).unwrap();
        file.set_len(1 << 30).unwrap();
        std::fs::create_dir(&at).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
        run(Command::new("mount")
            .args(["-o", "loop"])
            .args([&image, &at]));
        Ext4(at)
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        run(Command::new("umount").arg(&self.0));
    }
}

fn run(command: &mut Command) {
    let done = command.output();
    let done = done.unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}: {said}");
}

fn layer(number: usize) -> Vec<u8> {
    let names: Vec<String> = (0..300).map(|n| format!("{number}-{n}")).collect();
    let named = |name: &'_ String| (name.clone(), name.clone().into_bytes());
    let files: Vec<(String, Vec<u8>)> = names.iter().map(named).collect();
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(n, c)| (n.as_str(), c.as_slice()))
        .collect();
    tar_of(&files)
}

/// Does what a pull does with the file system, file by file, until told to end; the longest time that one took, and how
/// many there were.
fn files(dir: &Path, end: &AtomicBool) -> (Duration, usize) {
    let (mut longest, mut count) = (Duration::ZERO, 0);
    while !end.load(Ordering::Relaxed) {
        let began = Instant::now();
        let name = dir.join(count.to_string());
        std::fs::write(&name, [7; 4096]).unwrap();
        std::fs::rename(&name, dir.join("same")).unwrap();
        longest = longest.max(began.elapsed());
        count += 1;
    }
    (longest, count)
}

/// [`files`] while `work` runs.
fn beside(dir: &Path, work: impl FnOnce()) -> (Duration, usize) {
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let files = scope.spawn(|| files(dir, &end));
        work();
        end.store(true, Ordering::Relaxed);
        files.join().unwrap()
    })
}

#[test]
#[ignore = "needs root"]
fn removing_a_hundred_layers_holds_no_file_of_another_up() {
    let dir = tempfile::tempdir().unwrap();
    let ext4 = Ext4::mount(dir.path());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let registry = runtime.block_on(Registry::start());
    let layers: Vec<Vec<u8>> = (0..100).map(layer).collect();
    registry.push("many", "1", &layers);
    let other = ext4.0.join("other");
    std::fs::create_dir(&other).unwrap();
    let mut tried = Vec::new();
    for _ in 0..TRIES {
        let store = Store::open(&ext4.0.join("store"), Registries::default()).unwrap();
        let many = registry.reference("many:1");
        let pulled = store.pull(&many, |_| {});
        assert_eq!(runtime.block_on(pulled).unwrap().layers.len(), 100);
        let mut took = Duration::ZERO;
        let removing = beside(&other, || {
            let began = Instant::now();
            let gone = store.prune(Prune::Unused, &[], &Vec::new, false).unwrap();
            assert!(gone.layers >= 100, "{gone:?}");
            assert!(store.settle(Duration::from_secs(120)), "the removal ends");
            took = began.elapsed();
        });
        let alone = beside(&other, || std::thread::sleep(took));
        println!(
            "the longest file: alone {:?} of {}, beside a removal {:?} of {}; it took {took:?}",
            alone.0, alone.1, removing.0, removing.1
        );
        tried.push((alone, removing));
        if removing.0 <= alone.0 + ALLOWED {
            return;
        }
    }
    panic!("a removal held others up: {tried:?}");
}
