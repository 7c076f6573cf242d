//! Task definitions in ECS's words, and waiting for what becomes of tasks.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::Client;

/// A container definition: busybox's shell runs one line as root.
pub fn container(name: &str, image: &str, line: &str) -> Value {
    json!({
        "name": name, "image": image, "memory": 64, "user": "root",
        "entryPoint": ["/bin/sh", "-c"], "command": [line], "stopTimeout": 2,
    })
}

/// A task definition of these containers, in network mode `none`.
pub fn definition(family: &str, containers: &[Value]) -> Value {
    json!({"family": family, "networkMode": "none", "containerDefinitions": containers})
}

/// Waits until it is so; for what a test has caused and cannot be told of.
pub fn wait_until(what: &str, so: impl Fn() -> bool) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !so() {
        assert!(Instant::now() < patience, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// SIGTERM to a process of a container, as if it came from inside.
pub fn terminate(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid fits"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("terminate a process");
}

/// The lowest pid in a task's cgroups: its first container's first process.
pub(crate) fn first_process(instance: &str, task: &str) -> u32 {
    let id = task.rsplit('/').next().unwrap_or(task);
    let groups = crate::census::cgroups(instance);
    let of_task = groups.iter().filter(|path| path.contains(id));
    let lists =
        of_task.filter_map(|path| std::fs::read_to_string(format!("{path}/cgroup.procs")).ok());
    let pids = lists.flat_map(|list| {
        list.lines()
            .filter_map(|pid| pid.parse().ok())
            .collect::<Vec<u32>>()
    });
    pids.min()
        .unwrap_or_else(|| panic!("no process of task {id} in {groups:#?}"))
}

impl Client {
    /// Registers a definition and runs one task of it in the default cluster; the task's ARN.
    pub fn launch(&self, definition: Value) -> String {
        let family = definition["family"].as_str().expect("a family").to_owned();
        self.call("RegisterTaskDefinition", definition)
            .expect("register the definition");
        self.run(&family)
    }

    /// Runs one task of a registered family; its ARN.
    pub fn run(&self, family: &str) -> String {
        let answer = self
            .call("RunTask", json!({"taskDefinition": family}))
            .expect("run the task");
        let arn = answer["tasks"][0]["taskArn"].as_str();
        arn.unwrap_or_else(|| panic!("not placed: {answer}"))
            .to_owned()
    }

    /// The task as DescribeTasks shows it.
    pub fn task(&self, arn: &str) -> Value {
        let mut answer = self
            .call("DescribeTasks", json!({"tasks": [arn]}))
            .expect("describe the task");
        answer["tasks"][0].take()
    }

    /// Waits until the task looks so.
    pub fn until(&self, arn: &str, what: &str, looks: impl Fn(&Value) -> bool) -> Value {
        let patience = Instant::now() + Duration::from_secs(90);
        loop {
            let task = self.task(arn);
            if looks(&task) {
                return task;
            }
            assert!(Instant::now() < patience, "{arn} is not {what}: {task:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until it runs; panics if it stops instead.
    pub fn until_running(&self, arn: &str) -> Value {
        let task = self.until(arn, "RUNNING", |task| {
            matches!(task["lastStatus"].as_str(), Some("RUNNING" | "STOPPED"))
        });
        assert_eq!(task["lastStatus"], "RUNNING", "it stopped: {task:#}");
        task
    }

    /// Waits until it has stopped.
    pub fn until_stopped(&self, arn: &str) -> Value {
        self.until(arn, "STOPPED", |task| task["lastStatus"] == "STOPPED")
    }

    /// StopTask, with a reason.
    pub fn stop(&self, arn: &str, reason: &str) {
        self.call("StopTask", json!({"task": arn, "reason": reason}))
            .expect("stop the task");
    }
}
