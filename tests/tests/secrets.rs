//! Secret keys and join tokens are in no log, error, debug answer, command line or file that others may read.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use longshore_tests::{AgentHalf, ControlHalf, Street, container, definition};

#[test]
#[ignore = "needs root"]
fn the_secret_key_is_in_one_private_file_and_nowhere_else() {
    let street = Street::open();
    let image = street.registry_image("web:1");
    let mut dev = street.dev_logging("trace");
    let environment = dev.environment();
    let secret = &environment
        .iter()
        .find(|(key, _)| key == "AWS_SECRET_ACCESS_KEY")
        .expect("a secret")
        .1;
    assert!(
        secret.len() >= 32,
        "a secret of {} characters can be guessed",
        secret.len()
    );
    let task = dev.client().launch(definition(
        "noise",
        &[container("c", &image, "exec sleep 1000")],
    ));
    dev.client().until_running(&task);

    let told = [
        ("output of dev", dev.program.text()),
        ("/v1/metadata", dev.socket("/v1/metadata").to_string()),
        ("/v1/tasks", dev.socket("/v1/tasks").to_string()),
        (
            "inspect",
            String::from_utf8_lossy(&dev.longshore(&["inspect", &task]).stdout).into_owned(),
        ),
    ];
    for (what, text) in told {
        assert!(
            !text.contains(secret.as_str()),
            "the secret key is in {what}"
        );
    }
    nothing_readable_holds(&dev.state, secret);
    nothing_readable_holds(Path::new("/run"), secret);
    no_command_line_holds(secret);
}

#[test]
#[ignore = "needs root"]
fn a_join_token_is_neither_kept_nor_told() {
    let street = Street::open();
    let control = ControlHalf::start(&street, "plane", 4480, 4481);
    let token = control.token();
    let mut agent = AgentHalf::start(&street, 4481, &token);
    agent.program.says("Ready");
    assert!(
        !control.program.text().contains(&token),
        "the token is in the control plane's output"
    );
    assert!(
        !agent.program.text().contains(&token),
        "the token is in the agent's output"
    );
    // Its secret is stored hashed, so not even the private files hold it.
    for file in files_below(&street.path("plane")).chain(files_below(&street.path("agent"))) {
        assert!(!holds(&file, &token), "{} holds the token", file.display());
    }
    no_command_line_holds(&token);
}

/// Every file that holds the secret must be for its owner only, and so must every folder that is ours.
fn nothing_readable_holds(root: &Path, secret: &str) {
    for file in files_below(root) {
        let mode = fs::symlink_metadata(&file).map_or(0, |meta| meta.permissions().mode());
        if mode & 0o077 != 0 {
            assert!(
                !holds(&file, secret),
                "{} holds the secret key and others may read it",
                file.display()
            );
        }
    }
}

fn holds(file: &Path, secret: &str) -> bool {
    let bytes = fs::read(file).unwrap_or_default();
    bytes
        .windows(secret.len())
        .any(|window| window == secret.as_bytes())
}

fn files_below(root: &Path) -> impl Iterator<Item = std::path::PathBuf> {
    let mut folders = vec![root.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.into_iter()
}

fn no_command_line_holds(secret: &str) {
    for entry in fs::read_dir("/proc").expect("read /proc").flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        assert!(
            !line.contains(secret),
            "a command line holds it: {}",
            entry.path().display()
        );
    }
}
