//! The two halves apart: `longshore control` and `longshore agent`, joined by a token.

use std::path::PathBuf;

use crate::client::Client;
use crate::program::{Program, environment_of};
use crate::street::{Street, run, stage};

/// `longshore control`.
#[derive(Debug)]
pub struct ControlHalf {
    /// The process.
    pub program: Program,
    state: PathBuf,
    arguments: Vec<String>,
}

impl ControlHalf {
    /// Starts it with a state root and an instance name of its own.
    pub fn start(street: &Street, name: &str, api: u16, rpc: u16) -> ControlHalf {
        let state = street.path(name);
        let words = [
            "control",
            "--instance",
            name,
            "--state-dir",
            &state.display().to_string(),
        ];
        let mut arguments: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        arguments.extend(["--api".to_owned(), format!("127.0.0.1:{api}")]);
        arguments.extend(["--rpc".to_owned(), format!("127.0.0.1:{rpc}")]);
        let program = start(street.path(&format!("{name}.log")), &arguments, &[]);
        let mut half = ControlHalf {
            program,
            state,
            arguments,
        };
        half.program.says("Ready");
        half
    }

    /// Starts it again after it was killed.
    pub fn again(&mut self) {
        let log = self
            .program
            .output
            .with_extension(format!("{}.log", self.program.pid()));
        self.program = start(log, &self.arguments, &[]);
        self.program.says("Ready");
    }

    /// A boto3 client of it.
    pub fn client(&self) -> Client {
        Client::new(&environment_of(&self.state.join("control.env")))
    }

    /// A fresh join token for the default cluster.
    pub fn token(&self) -> String {
        let longshore = stage().join("longshore");
        let name = &self.arguments[2];
        let program = longshore.display().to_string();
        run(&program, &["node", "token", "--instance", name])
            .trim()
            .to_owned()
    }
}

/// `longshore agent`.
#[derive(Debug)]
pub struct AgentHalf {
    /// The process.
    pub program: Program,
    arguments: Vec<String>,
}

impl AgentHalf {
    /// Starts it with the street's instance name; the token goes by the environment.
    pub fn start(street: &Street, rpc: u16, token: &str) -> AgentHalf {
        let state = street.path("agent");
        let words = [
            "agent",
            "--instance",
            &street.instance,
            "--state-dir",
            &state.display().to_string(),
        ];
        let mut arguments: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        arguments.extend(["--control".to_owned(), format!("https://127.0.0.1:{rpc}")]);
        let environment = [("LONGSHORE_JOIN_TOKEN", token)];
        let program = start(street.path("agent.log"), &arguments, &environment);
        AgentHalf { program, arguments }
    }

    /// Starts it again after it was killed: it has an identity now and needs no token.
    pub fn again(&mut self) {
        let log = self
            .program
            .output
            .with_extension(format!("{}.log", self.program.pid()));
        self.program = start(log, &self.arguments, &[]);
    }

    /// Starts it again, pointed at another control plane.
    pub fn point_at(&mut self, rpc: u16) {
        *self.arguments.last_mut().expect("the endpoint") = format!("https://127.0.0.1:{rpc}");
        self.again();
    }
}

impl Drop for AgentHalf {
    fn drop(&mut self) {
        self.program.kill();
        let program = stage().join("longshore").display().to_string();
        let mut arguments = vec!["dev"];
        arguments.extend(self.arguments[1..5].iter().map(String::as_str));
        arguments.push("--reset");
        let output = std::process::Command::new(&program)
            .args(&arguments)
            .output();
        if !output.is_ok_and(|output| output.status.success()) {
            eprintln!("dev --reset of the agent's instance failed");
        }
    }
}

fn start(log: PathBuf, arguments: &[String], environment: &[(&str, &str)]) -> Program {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Program::start(log, &arguments, environment)
}
