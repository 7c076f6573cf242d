//! The program under test as a process: `longshore dev`, and what every guard of a process shares.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::Client;
use crate::street::{Street, repository, stage};

/// A `longshore` process whose standard output and error go to files.
#[derive(Debug)]
pub struct Program {
    child: Child,
    /// Both streams, for tests that look for words (or for secrets).
    pub output: PathBuf,
}

impl Program {
    /// Starts `longshore ARGUMENTS...`.
    pub fn start(output: PathBuf, arguments: &[&str], environment: &[(&str, &str)]) -> Program {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(&output)
            .expect("make a log file");
        let child = Command::new(stage().join("longshore"))
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log file"))
            .stderr(log)
            .spawn()
            .expect("start longshore");
        Program { child, output }
    }

    /// Waits until a line of its output contains the words; panics with the output if it ends first.
    pub fn says(&mut self, words: &str) {
        let patience = Instant::now() + Duration::from_secs(60);
        loop {
            let text = self.text();
            if text.contains(words) {
                return;
            }
            if let Some(status) = self.child.try_wait().expect("ask for the program's status") {
                panic!("longshore ended ({status}) before it said {words:?}:\n{text}");
            }
            assert!(
                Instant::now() < patience,
                "longshore has not said {words:?}:\n{text}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until it has ended with an error; all that it said.
    pub fn fails(&mut self) -> String {
        let status = self.child.wait().expect("wait for longshore");
        let text = self.text();
        assert!(!status.success(), "longshore ended well:\n{text}");
        text
    }

    /// All that it has said so far.
    pub fn text(&self) -> String {
        fs::read_to_string(&self.output).expect("read the log file")
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill longshore");
        self.child.wait().expect("reap longshore");
    }

    /// SIGINT, as Ctrl-C sends it; waits for the end and checks that it is a good one.
    pub fn interrupt(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a pid fits"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("interrupt longshore");
        let status = self.child.wait().expect("reap longshore");
        assert!(
            status.success(),
            "longshore ended with {status} after Ctrl-C:\n{}",
            self.text()
        );
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Already ended is fine.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}:\n{}", self.output.display(), self.text());
        }
    }
}

/// `longshore dev` with an instance and a state root of its own; reset when it goes.
#[derive(Debug)]
pub struct Dev {
    /// The instance's name.
    pub instance: String,
    /// Its state root.
    pub state: PathBuf,
    /// The process, while it runs.
    pub program: Program,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    client: Option<Client>,
}

impl Dev {
    pub(crate) fn start(street: &Street, more: &[&str], variables: &[(&str, &str)]) -> Dev {
        let state = street.path("state");
        let mut arguments = vec![
            "dev".to_owned(),
            "--instance".to_owned(),
            street.instance.clone(),
        ];
        arguments.extend(["--state-dir".to_owned(), state.display().to_string()]);
        arguments.extend(more.iter().map(|&word| word.to_owned()));
        let owned = |&(key, value): &(&str, &str)| (key.to_owned(), value.to_owned());
        let variables: Vec<_> = variables.iter().map(owned).collect();
        let program = start(street.path("dev.log"), &arguments, &variables);
        let instance = street.instance.clone();
        let mut dev = Dev {
            instance,
            state,
            program,
            arguments,
            variables,
            client: None,
        };
        dev.ready();
        dev
    }

    /// Starts it again, after [`Program::kill`] or [`Program::interrupt`].
    pub fn again(&mut self) {
        let log = self
            .program
            .output
            .with_extension(format!("{}.log", self.program.pid()));
        self.program = start(log, &self.arguments, &self.variables);
        self.ready();
    }

    fn ready(&mut self) {
        self.program.says("Ready");
        self.client = None;
    }

    /// The variables of the key file, as its reader's shell would have them.
    pub fn environment(&self) -> Vec<(String, String)> {
        environment_of(&self.state.join("dev.env"))
    }

    /// A boto3 client of this control plane; made once.
    pub fn client(&mut self) -> &Client {
        let environment = self.environment();
        self.client.get_or_insert_with(|| Client::new(&environment))
    }

    /// Runs awscli to its end.
    pub fn aws(&self, arguments: &[&str]) -> Output {
        Command::new(repository().join("target/venv/bin/aws"))
            .args(arguments)
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_PAGER", "")
            .env("NO_PROXY", "127.0.0.1,localhost")
            .envs(self.environment())
            .output()
            .expect("start awscli; scripts/test makes target/venv")
    }

    /// Runs `aws ecs ARGUMENTS...`; its JSON answer. Panics with its standard error if it fails.
    pub fn ecs_json(&self, arguments: &[&str]) -> Value {
        let words: Vec<&str> = ["ecs"].iter().chain(arguments).copied().collect();
        let output = self.aws(&words);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "aws {words:?}: {error}");
        serde_json::from_slice(&output.stdout).expect("awscli prints JSON")
    }

    /// What a task has written, by `longshore logs`: to standard output, then to standard error.
    pub fn log_of(&self, task: &str) -> String {
        let output = self.longshore(&["logs", task]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "longshore logs {task}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned() + &error
    }

    /// The first process of a task's first container.
    pub fn pid_of(&self, task: &str) -> u32 {
        crate::tasks::first_process(&self.instance, task)
    }

    /// Runs one of the operator's verbs against this instance.
    pub fn longshore(&self, arguments: &[&str]) -> Output {
        Command::new(stage().join("longshore"))
            .args(arguments)
            .args(["--instance", &self.instance])
            .output()
            .expect("start longshore")
    }

    /// A path of the agent's debug socket, as curl reads it.
    pub fn socket(&self, path: &str) -> Value {
        let socket = format!("/run/longshore-{}/agent.sock", self.instance);
        let url = format!("http://agent{path}");
        let text = crate::street::run("curl", &["-fsS", "--unix-socket", &socket, &url]);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    }

    /// The folder of a cgroup of a task in one hierarchy of v1 (or in the one of v2).
    pub fn task_group(&self, controller: &str, task: &str) -> PathBuf {
        let id = task.rsplit('/').next().unwrap_or(task);
        let groups = crate::census::cgroups(&self.instance);
        let wanted = |path: &&String| {
            path.ends_with(id) && (path.contains(&format!("/{controller}/")) || is_v2())
        };
        let found = groups.iter().find(wanted);
        PathBuf::from(
            found.unwrap_or_else(|| panic!("no {controller} cgroup of task {id} in {groups:#?}")),
        )
    }

    /// Ends the program and clears all of the instance; what was said of it.
    pub fn reset(&mut self) -> String {
        self.program.kill();
        let output = self.run_reset();
        assert!(
            output.status.success(),
            "dev --reset: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn run_reset(&self) -> Output {
        Command::new(stage().join("longshore"))
            .args(&self.arguments[..5])
            .arg("--reset")
            .output()
            .expect("start longshore")
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.program.kill();
        let output = self.run_reset();
        if !output.status.success() {
            eprintln!("dev --reset: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// Whether this host's cgroups are pure v2.
pub(crate) fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn start(log: PathBuf, arguments: &[String], variables: &[(String, String)]) -> Program {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let variables: Vec<_> = variables
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    Program::start(log, &arguments, &variables)
}

/// Reads `export KEY=VALUE` lines; the file must be for its owner's eyes only.
pub(crate) fn environment_of(file: &Path) -> Vec<(String, String)> {
    let mode = fs::metadata(file)
        .expect("the key file is there")
        .permissions()
        .mode();
    assert_eq!(
        mode & 0o777,
        0o600,
        "{} is readable by others",
        file.display()
    );
    BufReader::new(fs::File::open(file).expect("open the key file"))
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| {
            let (key, value) = line.strip_prefix("export ")?.split_once('=')?;
            Some((key.to_owned(), value.trim_matches('\'').to_owned()))
        })
        .collect()
}
