//! What must not be there.

use std::process::Command;

/// Threads break setns of a user namespace, and a small program starts fast.
#[test]
fn the_dependency_tree_has_no_async_executor() {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "-p",
            "longshore-runtime",
            "-e",
            "normal",
            "--prefix",
            "none",
            "--offline",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let tree = String::from_utf8(tree.stdout).unwrap();
    assert!(tree.contains("rustix"), "cargo tree did not work: {tree}");
    for name in ["tokio", "zbus", "async", "smol", "futures", "mio", "clap"] {
        let found: Vec<&str> = tree.lines().filter(|line| line.starts_with(name)).collect();
        assert!(found.is_empty(), "{found:?}");
    }
}
