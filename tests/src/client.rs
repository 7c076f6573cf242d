//! boto3, unmodified, as a child process (`tests/python/worker.py`): importing it once costs a third of a
//! second, so one client serves a whole test.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::street::repository;

/// An error that the API answered with, or that the client found by itself.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// `ClusterNotFoundException`, `ParamValidationError`, ...
    pub code: String,
    /// Its text.
    pub message: String,
}

/// A boto3 ECS client.
#[derive(Debug)]
pub struct Client {
    child: Child,
    pipes: RefCell<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Client {
    /// A client with these variables (endpoint, region, keys) and nothing else of ours.
    pub fn new(environment: &[(String, String)]) -> Client {
        let mut child = Command::new(repository().join("target/venv/bin/python"))
            .arg(repository().join("tests/python/worker.py"))
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
            .env("NO_PROXY", "127.0.0.1,localhost")
            .envs(environment.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start boto3; scripts/test makes target/venv");
        let stdin = child.stdin.take().expect("a pipe");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        Client {
            child,
            pipes: RefCell::new((stdin, stdout)),
        }
    }

    /// One call, by its API name.
    pub fn call(&self, op: &str, args: Value) -> Result<Value, ApiError> {
        self.ask(&json!({"op": op, "args": args}))
    }

    /// All pages of a paginator.
    pub fn pages(&self, paginator: &str, args: Value) -> Result<Value, ApiError> {
        self.ask(&json!({"pages": paginator, "args": args}))
    }

    /// A waiter, with its own patience.
    pub fn wait(&self, waiter: &str, args: Value) -> Result<Value, ApiError> {
        self.ask(&json!({"wait": waiter, "args": args}))
    }

    /// Any request: `raw` (the body), `target`, `sign`, `secret`; the answer's `status` and `body`.
    pub fn raw(&self, request: Value) -> Value {
        self.ask(&request).expect("send a raw request")
    }

    fn ask(&self, request: &Value) -> Result<Value, ApiError> {
        let (stdin, stdout) = &mut *self.pipes.borrow_mut();
        writeln!(stdin, "{request}").expect("ask boto3");
        let mut line = String::new();
        stdout.read_line(&mut line).expect("hear from boto3");
        let mut answer: Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("boto3 ended on {request}: {error}"));
        match answer.get("code") {
            None => Ok(answer["ok"].take()),
            Some(_) => Err(ApiError {
                code: text(&answer["code"]),
                message: text(&answer["message"]),
            }),
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Drop for Client {
    fn drop(&mut self) {
        // Already ended is fine.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}
