//! Limits in force, from the kernel's own statistics. Run alone (`scripts/test limits`): it loads every core.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use longshore_tests::{Dev, Street, container, definition};
use serde_json::{Value, json};

/// 256 CPU units of a core's 1024.
const QUOTA: f64 = 0.25;
const BURN: &str = "while :; do :; done & while :; do :; done";

#[test]
#[ignore = "needs root"]
fn a_quarter_core_is_never_exceeded_while_all_cores_are_loaded() {
    let street = Street::open();
    let image = street.registry_image("web:1");
    let mut dev = street.dev();
    let task = burn(&mut dev, &image);
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let _load: Vec<Load> = (0..cores).map(|_| Load::start()).collect();
    let share = cores_used(&dev, &task);
    assert!(
        share <= 1.05 * QUOTA,
        "{share:.4} cores, more than 1.05 of its quota"
    );
}

#[test]
#[ignore = "needs root"]
fn a_quarter_core_is_reached_while_a_core_is_idle() {
    let street = Street::open();
    let image = street.registry_image("web:1");
    let mut dev = street.dev();
    let task = burn(&mut dev, &image);
    let _load = Load::start();
    let share = cores_used(&dev, &task);
    assert!(
        share >= 0.95 * QUOTA,
        "{share:.4} cores, less than 0.95 of its quota"
    );
    assert!(
        share <= 1.05 * QUOTA,
        "{share:.4} cores, more than 1.05 of its quota"
    );
}

#[test]
#[ignore = "needs root"]
fn a_process_that_allocates_past_its_limit_is_killed_and_named() {
    let street = Street::open();
    let image = street.registry_image("web:1");
    let mut dev = street.dev();
    let mut glutton = container("glutton", &image, "tail -c 1000m /dev/zero");
    glutton["memory"] = json!(16);
    let stopped = stopped(&mut dev, definition("glutton", &[glutton]));
    let container = &stopped["containers"][0];
    assert_eq!(container["exitCode"], 137, "{stopped:#}");
    let reason = container["reason"].as_str().unwrap_or_default();
    assert!(
        reason.starts_with("OutOfMemoryError: Container killed due to memory usage"),
        "{stopped:#}"
    );
    assert_eq!(stopped["stopCode"], "EssentialContainerExited");
}

#[test]
#[ignore = "needs root"]
fn an_oom_kill_is_named_although_the_first_process_ends_well() {
    let street = Street::open();
    let image = street.registry_image("web:1");
    let mut dev = street.dev();
    let mut survivor = container("survivor", &image, "tail -c 1000m /dev/zero; exit 0");
    survivor["memory"] = json!(16);
    let stopped = stopped(&mut dev, definition("survivor", &[survivor]));
    let container = &stopped["containers"][0];
    assert_eq!(container["exitCode"], 0, "{stopped:#}");
    let reason = container["reason"].as_str().unwrap_or_default();
    assert!(reason.starts_with("OutOfMemoryError: "), "{stopped:#}");
}

#[test]
#[ignore = "needs root"]
fn a_kill_that_was_no_oom_is_not_called_one() {
    let street = Street::open();
    let image = street.registry_image("web:1");
    let mut dev = street.dev();
    let victim = container("victim", &image, "sh -c 'kill -9 $$'; exit 137");
    let stopped = stopped(&mut dev, definition("victim", &[victim]));
    assert_eq!(stopped["containers"][0]["exitCode"], 137);
    assert!(!stopped.to_string().contains("OutOfMemory"), "{stopped:#}");
}

#[test]
#[ignore = "needs root"]
fn a_container_that_forks_without_end_meets_its_limit() {
    let street = Street::open();
    let image = street.registry_image("web:1");
    let mut dev = street.dev();
    let mut rabbit = container("rabbit", &image, "while :; do sleep 1000 & done");
    rabbit["memory"] = json!(4096);
    let task = dev.client().launch(definition("rabbit", &[rabbit]));
    let stopped = dev.client().until_stopped(&task);
    assert!(!stopped.to_string().contains("OutOfMemory"), "{stopped:#}");
    let log = dev.log_of(&task);
    assert!(log.contains("can't fork"), "{log}");
}

fn burn(dev: &mut Dev, image: &str) -> String {
    let mut quarter = definition("quarter", &[container("c", image, BURN)]);
    quarter["cpu"] = json!("256");
    let task = dev.client().launch(quarter);
    dev.client().until_running(&task);
    task
}

fn stopped(dev: &mut Dev, definition: Value) -> Value {
    let client = dev.client();
    let task = client.launch(definition);
    client.until_stopped(&task)
}

/// Cores used on average over ten seconds, by the task's own cgroup statistics.
fn cores_used(dev: &Dev, task: &str) -> f64 {
    let group = dev.task_group("cpuacct", task);
    let (before, begin) = (cpu_seconds(&group), Instant::now());
    sleep(Duration::from_secs(10));
    (cpu_seconds(&group) - before) / begin.elapsed().as_secs_f64()
}

fn cpu_seconds(group: &Path) -> f64 {
    if let Ok(text) = fs::read_to_string(group.join("cpuacct.usage")) {
        return text.trim().parse::<f64>().expect("nanoseconds") / 1e9;
    }
    let stat = fs::read_to_string(group.join("cpu.stat")).expect("read cpu.stat");
    let usage = stat
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "));
    usage
        .expect("usage_usec")
        .parse::<f64>()
        .expect("microseconds")
        / 1e6
}

/// One busy core outside of the task.
struct Load(Child);

impl Load {
    fn start() -> Load {
        Load(
            Command::new("sh")
                .args(["-c", "while :; do :; done"])
                .spawn()
                .expect("load a core"),
        )
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.kill().expect("end the load");
        self.0.wait().expect("reap the load");
    }
}
