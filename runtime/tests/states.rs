//! Every command in every state of a container, wrong ones above all: its exit status, a word of what it says, and the
//! state that it leaves.

mod support;

use serde_json::json;
use support::commands::{Cli, text};
use support::eventually;

/// What a container may be in when somebody comes with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum In {
    Absent,
    /// Whoever made it died before it was done.
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
    /// Its record cannot be read, and it runs.
    Damaged,
}

const ALL: [In; 7] = [
    In::Absent,
    In::Creating,
    In::Created,
    In::Running,
    In::Paused,
    In::Stopped,
    In::Damaged,
];

impl In {
    fn bring(self, cli: &Cli) {
        match self {
            In::Absent => {}
            In::Creating => {
                let bundle = cli.changed_bundle("c", &["sleep", "1000"], |spec| {
                    let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", "kill -KILL $PPID"]});
                    spec["hooks"] = json!({"createRuntime": [hook]});
                });
                let said = cli.says(&["create", "--bundle", text(&bundle), "c"]);
                assert_eq!(said.status, -1, "it was killed: {said:?}");
            }
            In::Created => cli.create("c", &["sleep", "1000"]),
            In::Running => cli.run_detached("c", &["sleep", "1000"]),
            In::Paused => {
                cli.run_detached("c", &["sleep", "1000"]);
                cli.does(&["pause", "c"]);
            }
            In::Stopped => {
                cli.run_detached("c", &["true"]);
                eventually("it ends", || cli.status("c") == "stopped");
            }
            In::Damaged => {
                cli.run_detached("c", &["sleep", "1000"]);
                std::fs::write(cli.root().join("c/state.json"), "{\"version\": 1, ").unwrap();
            }
        }
    }

    fn name(self) -> Option<&'static str> {
        match self {
            In::Absent | In::Damaged => None,
            In::Creating => Some("creating"),
            In::Created => Some("created"),
            In::Running => Some("running"),
            In::Paused => Some("paused"),
            In::Stopped => Some("stopped"),
        }
    }
}

/// What a command must do: end with 0 and leave this state, or fail, say this word, and change nothing.
#[derive(Clone, Copy, Debug)]
enum Must {
    Leave(In),
    Say(&'static str),
}

use Must::{Leave, Say};

/// Tries a command in all states, in the order of `ALL`, each time on a new container.
fn check(command: &[&str], musts: [Must; 7]) {
    check_failing(1, command, musts);
}

fn check_failing(failure: i32, command: &[&str], musts: [Must; 7]) {
    for (before, must) in ALL.into_iter().zip(musts) {
        let cli = Cli::new();
        // There for `create` and `run`, whatever else is.
        let bundle = cli.bundle("other", &["sleep", "1000"]);
        before.bring(&cli);
        let words: Vec<&str> = command
            .iter()
            .map(|word| match *word {
                "BUNDLE" => text(&bundle),
                word => word,
            })
            .collect();
        let said = cli.says(&words);
        let what = format!("{command:?} of one that is {before:?}: {said:?}");
        let after = match must {
            Leave(after) => {
                assert_eq!((said.status, said.stderr.as_str()), (0, ""), "{what}");
                after
            }
            Say(word) => {
                assert_eq!(said.status, failure, "{what}");
                assert!(said.stderr.starts_with("error: "), "{what}");
                assert!(said.stderr.contains(word), "{what}, lacks {word}");
                assert_eq!(said.stderr.lines().count(), 1, "{what}");
                assert_eq!(said.stdout, "", "{what}");
                before
            }
        };
        match after {
            In::Absent => cli.assert_gone("c"),
            In::Damaged => cli.refuses(&["state", "c"], "damaged record"),
            after => eventually("it is so", || {
                Some(cli.status("c").as_str()) == after.name()
            }),
        }
    }
}

const ABSENT: Must = Say("it does not exist");
const DAMAGED: Must = Say("damaged record");
const TAKEN: Must = Say("a container of this id exists");

#[test]
#[ignore = "needs root"]
fn state_tells_of_all() {
    let musts = [
        ABSENT,
        Leave(In::Creating),
        Leave(In::Created),
        Leave(In::Running),
        Leave(In::Paused),
        Leave(In::Stopped),
        DAMAGED,
    ];
    check(&["state", "c"], musts);
    check(&["ps", "--format", "json", "c"], musts);
}

#[test]
#[ignore = "needs root"]
fn an_id_is_taken_in_every_state() {
    let musts = [Leave(In::Created), TAKEN, TAKEN, TAKEN, TAKEN, TAKEN, TAKEN];
    check(&["create", "--bundle", "BUNDLE", "c"], musts);
    let mut musts = musts;
    musts[0] = Leave(In::Running);
    check(&["run", "--detach", "--bundle", "BUNDLE", "c"], musts);
}

#[test]
#[ignore = "needs root"]
fn start_is_for_what_was_created() {
    check(
        &["start", "c"],
        [
            ABSENT,
            Say("died before it was done"),
            Leave(In::Running),
            Say("it is running already"),
            Say("it is paused"),
            Say("it has stopped"),
            DAMAGED,
        ],
    );
}

#[test]
#[ignore = "needs root"]
fn kill_is_for_what_lives() {
    check(
        &["kill", "c", "KILL"],
        [
            ABSENT,
            Say("it is creating"),
            Leave(In::Stopped),
            Leave(In::Stopped),
            Leave(In::Stopped),
            Say("it is stopped"),
            DAMAGED,
        ],
    );
    check(
        &["kill", "--all", "c", "KILL"],
        [
            ABSENT,
            Leave(In::Creating),
            Leave(In::Stopped),
            Leave(In::Stopped),
            Leave(In::Stopped),
            Leave(In::Stopped),
            DAMAGED,
        ],
    );
}

#[test]
#[ignore = "needs root"]
fn delete_is_for_what_does_not_run_and_with_force_for_all() {
    let gone = Leave(In::Absent);
    check(
        &["delete", "c"],
        [
            ABSENT,
            gone,
            gone,
            Say("it is running"),
            Say("it is paused"),
            gone,
            DAMAGED,
        ],
    );
    check(&["delete", "--force", "c"], [gone; 7]);
}

#[test]
#[ignore = "needs root"]
fn exec_is_for_what_runs() {
    check_failing(
        255,
        &["exec", "c", "true"],
        [
            ABSENT,
            Say("it is being created"),
            Leave(In::Created),
            Leave(In::Running),
            Say("it is paused"),
            Say("it is stopped"),
            DAMAGED,
        ],
    );
}

#[test]
#[ignore = "needs root"]
fn pause_and_resume_are_for_each_other() {
    check(
        &["pause", "c"],
        [
            ABSENT,
            Say("it is creating"),
            Leave(In::Paused),
            Leave(In::Paused),
            Say("it is paused"),
            Say("it is stopped"),
            DAMAGED,
        ],
    );
    check(
        &["resume", "c"],
        [
            ABSENT,
            Say("it is creating"),
            Say("it is created"),
            Say("it is running"),
            Leave(In::Running),
            Say("it is stopped"),
            DAMAGED,
        ],
    );
}

#[test]
#[ignore = "needs root"]
fn limits_and_figures_are_of_what_lives() {
    let musts = |words: &'static str| {
        [
            ABSENT,
            Say("it is creating"),
            Leave(In::Created),
            Leave(In::Running),
            Leave(In::Paused),
            Say(words),
            DAMAGED,
        ]
    };
    check(&["update", "--pids-limit", "20", "c"], musts("has stopped"));
    check(&["events", "--stats", "c"], musts("has stopped"));
}

/// Between create and start it lost its first process, to a signal from outside.
#[test]
#[ignore = "needs root"]
fn one_that_dies_before_its_start_is_stopped() {
    let cli = Cli::new();
    cli.create("c", &["sleep", "1000"]);
    let pid = cli.state("c")["pid"].as_u64().unwrap();
    let pid = nix::unistd::Pid::from_raw(pid.try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    eventually("it ends", || cli.status("c") == "stopped");
    cli.refuses(&["start", "c"], "it has stopped");
    cli.refuses(&["kill", "c"], "it is stopped");
    cli.does(&["delete", "c"]);
    cli.assert_gone("c");
}
