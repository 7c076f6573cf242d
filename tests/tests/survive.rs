//! `kill -9` of the agent, of the control plane, of both: containers go on, and what happened meanwhile is
//! reported truly.

use std::fs;
use std::path::Path;

use longshore_tests::{AgentHalf, Client, ControlHalf, Street, container, definition, terminate};

/// Ends with 7 when it is told to, once it has said `up`.
const UNTIL_TERM: &str = "trap 'exit 7' TERM; echo up; while :; do sleep 0.1; done";

#[test]
#[ignore = "needs root"]
fn both_are_killed_and_an_exit_meanwhile_keeps_its_code() {
    let street = Street::open();
    let image = street.registry_image("web:1");
    let mut dev = street.dev();
    let ends = dev
        .client()
        .launch(definition("ends", &[container("c", &image, UNTIL_TERM)]));
    let stays = dev
        .client()
        .launch(definition("stays", &[container("c", &image, UNTIL_TERM)]));
    dev.client().until_running(&ends);
    dev.client().until_running(&stays);
    street.until_up(&ends, "c");
    street.until_up(&stays, "c");
    let (ending, staying) = (dev.pid_of(&ends), dev.pid_of(&stays));

    dev.program.kill();
    terminate(ending);
    gone(ending);
    assert!(alive(staying), "a container died with its agent");
    dev.again();

    let stopped = dev.client().until_stopped(&ends);
    assert_eq!(stopped["containers"][0]["exitCode"], 7, "{stopped:#}");
    assert_eq!(stopped["stopCode"], "EssentialContainerExited");
    let running = dev.client().until_running(&stays);
    assert_eq!(running["lastStatus"], "RUNNING");
    assert_eq!(dev.pid_of(&stays), staying, "the same process all the time");

    dev.client().stop(&stays, "end of test");
    assert_eq!(
        dev.client().until_stopped(&stays)["containers"][0]["exitCode"],
        7
    );
}

#[test]
#[ignore = "needs root"]
fn ctrl_c_leaves_tasks_alone_and_says_so() {
    let street = Street::open();
    let image = street.registry_image("web:1");
    let mut dev = street.dev();
    let task = dev
        .client()
        .launch(definition("stays", &[container("c", &image, UNTIL_TERM)]));
    dev.client().until_running(&task);
    let pid = dev.pid_of(&task);
    dev.program.interrupt();
    let said = dev.program.text();
    assert!(said.contains("1 task goes on"), "{said}");
    let place = format!(
        "--instance {} --state-dir {}",
        street.instance,
        dev.state.display()
    );
    assert!(
        said.contains(&format!(
            "  longshore dev {place}\n  longshore dev {place} --reset\n"
        )),
        "{said}"
    );
    assert!(alive(pid));
    dev.again();
    assert!(
        dev.program.text().contains("1 task"),
        "it finds them: {}",
        dev.program.text()
    );
    assert_eq!(dev.pid_of(&task), pid);
    dev.client().until_running(&task);
}

#[test]
#[ignore = "needs root"]
fn the_halves_die_one_at_a_time_and_agree_again() {
    let street = Street::open();
    let image = street.registry_image("web:1");
    let mut control = ControlHalf::start(&street, "plane", 4480, 4481);
    let mut agent = AgentHalf::start(&street, 4481, &control.token());
    agent.program.says("Ready");
    let client = control.client();
    let first = client.launch(definition("task", &[container("c", &image, UNTIL_TERM)]));
    client.until_running(&first);
    street.until_up(&first, "c");
    let pid = street.pid_of(&first);

    agent.program.kill();
    assert!(alive(pid), "a container died with its agent");
    client.stop(&first, "asked while the agent was away");
    agent.again();
    assert_eq!(client.until_stopped(&first)["containers"][0]["exitCode"], 7);

    let second = client.run("task");
    client.until_running(&second);
    street.until_up(&second, "c");
    let pid = street.pid_of(&second);
    control.program.kill();
    terminate(pid);
    gone(pid);
    control.again();
    let client: Client = control.client();
    let stopped = client.until_stopped(&second);
    assert_eq!(stopped["containers"][0]["exitCode"], 7, "{stopped:#}");

    let third = client.run("task");
    client.until_running(&third);
    client.stop(&third, "end of test");
    client.until_stopped(&third);
}

fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().trim();
    Path::new(&format!("/proc/{pid}")).exists() && !state.starts_with('Z')
}

/// Waits until the process has ended, which the test has just asked for.
fn gone(pid: u32) {
    longshore_tests::wait_until("the container's process has ended", || !alive(pid));
}
