//! A private network and mount namespace for one test.
//!
//! The namespaces belong to the test's thread and to every process it starts; they vanish with the last
//! of them. cgroups have no such privacy, so every street has an instance name of its own.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use crate::census::Census;
use crate::program::Dev;
use crate::registry::Registry;

static STREETS: AtomicU32 = AtomicU32::new(0);

/// See the module's documentation.
#[derive(Debug)]
pub struct Street {
    /// The instance name of what is started here.
    pub instance: String,
    registry: OnceCell<Registry>,
    work: TempDir,
}

impl Street {
    /// Moves this thread into fresh namespaces: loopback up, an empty `/run`, a work folder in memory.
    pub fn open() -> Street {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
            .expect("unshare a network and a mount namespace: these tests need root");
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .expect("make mounts private");
        let work = TempDir::with_prefix("longshore-street-").expect("make a work folder");
        for place in [work.path(), Path::new("/run")] {
            mount(
                Some("tmpfs"),
                place,
                Some("tmpfs"),
                MsFlags::empty(),
                Some("mode=755"),
            )
            .expect("mount a tmpfs");
        }
        run("ip", &["link", "set", "lo", "up"]);
        Street {
            instance: fresh_name(),
            registry: OnceCell::new(),
            work,
        }
    }

    /// Another host's name on the same street: same namespaces, an instance of its own.
    pub fn second(street: &Street) -> Street {
        let work =
            TempDir::with_prefix_in("second-", street.work.path()).expect("make a work folder");
        Street {
            instance: fresh_name(),
            registry: OnceCell::new(),
            work,
        }
    }

    /// A path below the street's work folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    /// Debian's registry on 127.0.0.1:5000; started at the first call.
    pub fn registry(&self) -> &Registry {
        self.registry
            .get_or_init(|| Registry::start(&self.path("registry")))
    }

    /// The web image in that registry, under this name.
    pub fn registry_image(&self, name: &str) -> String {
        self.registry().push_web(name)
    }

    /// Starts `longshore dev` and waits until it takes tasks.
    pub fn dev(&self) -> Dev {
        self.dev_with(&[])
    }

    /// The same with more arguments.
    pub fn dev_with(&self, arguments: &[&str]) -> Dev {
        Dev::start(self, arguments, &[])
    }

    /// The same with as much logging as there is.
    pub fn dev_logging(&self, level: &str) -> Dev {
        Dev::start(self, &[], &[("RUST_LOG", level)])
    }

    /// GET, until the server behind the port answers.
    pub fn fetch(&self, url: &str) -> String {
        run(
            "curl",
            &[
                "-fsS",
                "--retry",
                "20",
                "--retry-delay",
                "1",
                "--retry-connrefused",
                "--max-time",
                "30",
                url,
            ],
        )
    }

    /// Waits until a container has said `up`: its traps are set now. A first process without a trap would
    /// never see a signal.
    pub fn until_up(&self, task: &str, container: &str) {
        let program = stage().join("longshore");
        let words = ["logs", "--instance", &self.instance, task, container];
        crate::tasks::wait_until("the container says that it is up", || {
            let output = Command::new(&program).args(words).output();
            output.is_ok_and(|output| output.stdout.starts_with(b"up\n"))
        });
    }

    /// The first process of a task's first container, or of the container with this runtime id.
    pub fn pid_of(&self, task: &str) -> u32 {
        crate::tasks::first_process(&self.instance, task)
    }

    /// Counts everything that a task could leave behind.
    pub fn census(&self) -> Census {
        Census::take(&self.instance)
    }
}

impl Drop for Street {
    fn drop(&mut self) {
        crate::census::end_processes_of(&self.instance);
        // The tmpfs must go before TempDir can remove its folder; processes that ended late may still
        // hold it for a moment, which a lazy unmount does not mind.
        let _unmounted = nix::mount::umount2(self.work.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

fn fresh_name() -> String {
    format!(
        "t{}x{}",
        std::process::id(),
        STREETS.fetch_add(1, Ordering::Relaxed)
    )
}

/// The repository.
pub(crate) fn repository() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests/ has a parent").to_owned()
}

/// The folder with the programs under test: `LONGSHORE_STAGE`, or what `scripts/build dev` made.
pub fn stage() -> PathBuf {
    let stage = std::env::var_os("LONGSHORE_STAGE").map(PathBuf::from);
    let stage = stage.unwrap_or_else(|| repository().join("target/stage/dev"));
    assert!(
        stage.join("longshore-runtime").exists(),
        "{} holds no programs; run scripts/build dev first",
        stage.display()
    );
    stage
}

/// Runs a command to its end; its standard output. Panics with its standard error if it fails.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("start {program}: {error}; scripts/test installs it"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
