//! `longshore logs`: what a container has written, as the agent reads it from its disk.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Method, Response, StatusCode};

use crate::inspect::NotHere;
use crate::place::Which;
use crate::socket::Refused;
use crate::{inspect, ps, socket};

/// The agent gives no more.
const LONGEST_TAIL: i64 = 10_000;
/// How long a task that is followed may take to be placed and told to this host.
const ARRIVAL: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(250);

/// Show what a container has written to standard output and error
///
/// What it wrote to standard error is written to standard error. Reads the agent's local socket. A task that has ended can be asked too, by its whole id, while its logs
/// are on the host: until a day after its last line. Of each container the newest output is kept, in 5 files of
/// at most 10 MiB as JSON lines (time and stream with each); when they are full the oldest is dropped.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  longshore logs TASK
  longshore logs -f --tail 10 TASK web")]
pub(crate) struct Logs {
    #[command(flatten)]
    which: Which,
    /// Go on until the container ends; wait up to 30 s for a task that is not on this host yet
    #[arg(short, long)]
    follow: bool,
    /// Begin with the last N lines
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=LONGEST_TAIL))]
    tail: Option<u32>,
    /// The task: its ARN, its id, or the beginning of its id
    task: String,
    /// The container; needed where the task has several
    container: Option<String>,
}

impl Logs {
    pub(crate) fn run(self) -> Result<()> {
        let socket = self.which.instance()?.agent_socket();
        inspect::id(&self.task)?;
        socket::block_on(async { copy(self.open(&socket).await?).await })
    }

    /// The answer's head. A task that is followed may just have been started, and be on its way here.
    async fn open(&self, socket: &Path) -> Result<Response<Incoming>> {
        let until = Instant::now() + ARRIVAL;
        let mut told = false;
        loop {
            match self.ask(socket).await {
                Err(error) if self.follow && is_absent(&error) && Instant::now() < until => {}
                answer => return answer.map_err(|error| self.in_own_words(error)),
            }
            if !told {
                eprintln!(
                    "longshore: task {} is not on this host yet; waiting for it",
                    self.task
                );
                told = true;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn ask(&self, socket: &Path) -> Result<Response<Incoming>> {
        let path = self.path(&self.task_id().await?);
        socket::ask(socket, Method::GET, &path, Bytes::new()).await
    }

    /// The agent does not know how a container is named on this command line.
    fn in_own_words(&self, error: anyhow::Error) -> anyhow::Error {
        match error.downcast_ref::<Refused>() {
            Some(refused) if refused.status == StatusCode::CONFLICT => anyhow!(
                "read logs of {0}: {1}, as in longshore logs {0} CONTAINER",
                self.task,
                refused.words
            ),
            _ => error,
        }
    }

    /// A whole id is taken as it is, so that tasks that are gone can be asked for.
    async fn task_id(&self) -> Result<String> {
        if let Some(id) = inspect::whole_id(&self.task)? {
            return Ok(id.to_owned());
        }
        let tasks = ps::tasks(&self.which).await?;
        let task = inspect::find(&tasks, inspect::id(&self.task)?)?;
        Ok(ps::short(&task["Arn"]).to_owned())
    }

    fn path(&self, id: &str) -> String {
        let mut path = format!(
            "/v1/logs?taskarn={}&follow={}&format=jsonl",
            socket::encoded(id),
            self.follow
        );
        if let Some(lines) = self.tail {
            path.push_str(&format!("&tail={lines}"));
        }
        if let Some(container) = &self.container {
            path.push_str(&format!("&container={}", socket::encoded(container)));
        }
        path
    }
}

/// Whether the host does not know the task.
fn is_absent(error: &anyhow::Error) -> bool {
    let refused = error.downcast_ref::<Refused>();
    error.is::<NotHere>() || refused.is_some_and(|refused| refused.status == StatusCode::NOT_FOUND)
}

/// Copies the answer's lines as they come, each to the stream that the container wrote it to.
async fn copy(answer: Response<Incoming>) -> Result<()> {
    let mut body = answer.into_body();
    let mut lines = Lines::default();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| anyhow!("read logs: {error}; the agent may have ended"))?;
        if let Ok(bytes) = frame.into_data() {
            lines.copy(&bytes, &mut std::io::stdout(), &mut std::io::stderr())?;
        }
    }
    Ok(())
}

/// Lines of the answer, which may come in pieces.
#[derive(Debug, Default)]
struct Lines {
    /// The beginning of a line whose end is still to come.
    begun: Vec<u8>,
}

/// One line of `format=jsonl`.
#[derive(Debug, serde::Deserialize)]
struct Line {
    log: String,
    stream: String,
}

impl Lines {
    fn copy(&mut self, piece: &[u8], out: &mut impl Write, err: &mut impl Write) -> Result<()> {
        self.begun.extend_from_slice(piece);
        let whole = self.begun.iter().rposition(|byte| *byte == b'\n');
        let rest = self.begun.split_off(whole.map_or(0, |end| end + 1));
        let whole = std::mem::replace(&mut self.begun, rest);
        for line in whole.split_inclusive(|byte| *byte == b'\n') {
            let line: Line = serde_json::from_slice(line).context(
                "read logs: the agent's answer is not of this version; restart the agent",
            )?;
            match line.stream.as_str() {
                // Where both go to one terminal, they stay in their order.
                "stderr" => {
                    out.flush()?;
                    err.write_all(line.log.as_bytes())?;
                    err.flush()?;
                }
                _ => out.write_all(line.log.as_bytes())?,
            }
        }
        Ok(out.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        logs: Logs,
    }

    #[test]
    fn the_question_says_which_lines_of_which_container() {
        let alone = Alone::parse_from(["logs", "-f", "--tail", "7", "0123", "a&b"]);
        let path = alone.logs.path("0123");
        assert_eq!(
            path,
            "/v1/logs?taskarn=0123&follow=true&format=jsonl&tail=7&container=a%26b"
        );
    }

    #[test]
    fn each_line_goes_to_the_stream_that_it_came_from() {
        let text = concat!(
            r#"{"log":"to out\n","stream":"stdout","time":"t"}"#,
            "\n",
            r#"{"log":"to err\n","stream":"stderr","time":"t"}"#,
            "\n",
            r#"{"log":"no end","stream":"stdout","time":"t"}"#,
            "\n",
        );
        for size in [1, 7, text.len()] {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let mut lines = Lines::default();
            for piece in text.as_bytes().chunks(size) {
                lines.copy(piece, &mut out, &mut err).unwrap();
            }
            assert_eq!(out, b"to out\nno end", "in pieces of {size}");
            assert_eq!(err, b"to err\n", "in pieces of {size}");
        }
        let error = Lines::default().copy(b"plain text\n", &mut Vec::new(), &mut Vec::new());
        assert!(error.unwrap_err().to_string().contains("restart the agent"));
    }

    #[test]
    fn several_containers_are_asked_about_in_this_verbs_words() {
        let logs = Alone::parse_from(["logs", "0123"]).logs;
        let refused = |status, words: &str| {
            let words = words.to_owned();
            anyhow::Error::new(Refused { status, words })
        };
        let several = refused(StatusCode::CONFLICT, "say which one: db, web");
        assert!(!is_absent(&several));
        let text = logs.in_own_words(several).to_string();
        assert_eq!(
            text,
            "read logs of 0123: say which one: db, web, as in longshore logs 0123 CONTAINER"
        );
        assert!(is_absent(&refused(StatusCode::NOT_FOUND, "not here")));
        let unknown = inspect::find(&serde_json::json!([]), "0123").unwrap_err();
        assert!(is_absent(&unknown));
    }

    #[test]
    fn an_empty_task_is_refused_before_anything_is_asked() {
        let error = Alone::parse_from(["logs", ""]).logs.run().unwrap_err();
        assert!(
            error.to_string().contains("there is no id in it"),
            "{error}"
        );
    }
}
