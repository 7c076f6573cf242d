//! `/v1/logs`: a container's output as it wrote it, from where it is wanted, and on until it ends.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::StatusCode;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use longshore_engine::{Status, TaskId};
use serde_json::json;

use super::query::{Query, task_id};
use super::{Answer, Refusal, Sources, with_body};
use crate::board::Board;
use crate::effects::{log_dir, logs_root};
use crate::logs::{Index, Line, Reader, read_index};

/// The most lines that `tail` keeps in memory.
const LONGEST_TAIL: usize = 10_000;
/// A chunk of the answer is sent when it is at least this long, or when there is no more just now.
const CHUNK: usize = 64 * 1024;
/// How often a log that is followed is looked at.
const PAUSE: Duration = Duration::from_millis(200);

pub(super) async fn answer(sources: &Sources, query: &Query) -> Result<Answer, Refusal> {
    let wanted = query
        .get("taskarn")
        .ok_or_else(|| Refusal::bad("say taskarn=ARN or taskarn=ID".to_owned()))?;
    let task = task_id(wanted)?;
    let index = index(sources, &task)?;
    let (container, runtime_id) = choose(&task, index, query.get("container"))?;
    let view = View {
        follow: query.flag("follow")?,
        format: query.get("format").map_or(Ok(Format::Text), format)?,
        tail: query.get("tail").map(tail).transpose()?,
        since: query.get("since").map(since).transpose()?,
        dir: log_dir(&sources.instance, &task, &runtime_id),
        board: sources.board.clone(),
        task,
        container,
    };
    let kind = match view.format {
        Format::Text => "text/plain; charset=utf-8",
        Format::JsonLines => "application/jsonl",
    };
    Ok(with_body(StatusCode::OK, kind, view.body()))
}

/// Names and log directories: from the board, else from what lies beside old logs.
fn index(sources: &Sources, task: &TaskId) -> Result<Index, Refusal> {
    if let Some(notice) = sources.board.task(task) {
        let containers = notice.report.containers.iter();
        return Ok(containers
            .map(|c| (c.name.clone(), c.runtime_id.clone()))
            .collect());
    }
    let dir = logs_root(&sources.instance).join(task.as_str());
    read_index(&dir).ok_or_else(|| {
        let message = format!(
            "read logs of task {task}: it is not on this host and has left no logs here; longshore ps lists the tasks \
             of this host, and logs are kept until a day after their task's last line"
        );
        Refusal(StatusCode::NOT_FOUND, message)
    })
}

fn choose(
    task: &TaskId,
    mut index: Index,
    wanted: Option<&str>,
) -> Result<(String, String), Refusal> {
    let names = index.keys().cloned().collect::<Vec<_>>().join(", ");
    match wanted {
        Some(name) => index.remove_entry(name).ok_or_else(|| {
            Refusal::bad(format!(
                "read logs of task {task}: it has no container {name:?}; name one of: {names}"
            ))
        }),
        None if index.len() == 1 => index
            .pop_first()
            .ok_or_else(|| Refusal::bad(format!("read logs of task {task}: it has no container"))),
        // A status of its own: who asks in other words than a query adds how to say it.
        None => {
            let message = format!("the task has several containers; say which one: {names}");
            Err(Refusal(StatusCode::CONFLICT, message))
        }
    }
}

/// How lines are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// As the program wrote them, of both streams.
    Text,
    /// With their stream and time.
    JsonLines,
}

fn format(text: &str) -> Result<Format, Refusal> {
    match text {
        "text" => Ok(Format::Text),
        "jsonl" => Ok(Format::JsonLines),
        other => Err(Refusal::bad(format!("format={other:?}: use text or jsonl"))),
    }
}

impl Format {
    fn line(self, line: Line) -> String {
        match self {
            Format::Text => line.text,
            Format::JsonLines => {
                let time = line.time.to_string();
                let line = json!({"log": line.text, "stream": line.stream, "time": time});
                format!("{line}\n")
            }
        }
    }
}

fn tail(text: &str) -> Result<usize, Refusal> {
    text.parse()
        .ok()
        .filter(|n| *n <= LONGEST_TAIL)
        .ok_or_else(|| Refusal::bad(format!("tail={text:?}: use 0 to {LONGEST_TAIL}")))
}

/// Unix seconds, or a time as RFC 3339 writes it.
fn since(text: &str) -> Result<jiff::Timestamp, Refusal> {
    let seconds = text.parse::<i64>().ok();
    seconds
        .and_then(|s| jiff::Timestamp::from_second(s).ok())
        .or_else(|| text.parse().ok())
        .ok_or_else(|| {
            Refusal::bad(format!(
                "since={text:?}: use Unix seconds or 2026-01-31T12:00:00Z"
            ))
        })
}

/// What of which log is wanted.
#[derive(Debug)]
struct View {
    follow: bool,
    format: Format,
    tail: Option<usize>,
    since: Option<jiff::Timestamp>,
    dir: PathBuf,
    board: Board,
    task: TaskId,
    container: String,
}

/// A log on its way to the client.
#[derive(Debug)]
struct Flow {
    view: View,
    reader: Reader,
    /// The container had ended before the last look: what is read next is the rest.
    ended: bool,
    done: bool,
}

impl View {
    fn body(mut self) -> super::Body {
        let tail = self.tail.take();
        let flow = Flow {
            reader: Reader::new(&self.dir),
            view: self,
            ended: false,
            done: false,
        };
        let pieces = stream::unfold((flow, tail), |(flow, tail)| async move {
            let (flow, piece) = flow.next(tail).await?;
            Some((Ok::<_, Infallible>(Frame::data(piece)), (flow, None)))
        });
        StreamBody::new(pieces).boxed_unsync()
    }

    /// Whether the container's log has its last line. One that never ran has no log.
    fn has_ended(&self) -> bool {
        let Some(notice) = self.board.task(&self.task) else {
            return true;
        };
        let containers = &notice.report.containers;
        let status = containers.iter().find(|c| c.name == self.container);
        status.is_none_or(|c| c.status == Status::Stopped)
    }
}

impl Flow {
    /// The next piece; None when there will be no more. `tail` is for the first piece only.
    async fn next(mut self, mut tail: Option<usize>) -> Option<(Flow, Bytes)> {
        loop {
            if self.done {
                return None;
            }
            self.ended = self.ended || self.view.has_ended();
            let first = tail.take();
            let (flow, piece) = tokio::task::spawn_blocking(move || self.read(first))
                .await
                .ok()?;
            self = flow;
            if !piece.is_empty() {
                return Some((self, piece));
            }
            // Nothing was left, and nothing will come.
            if self.ended || !self.view.follow {
                self.done = true;
            } else {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    fn read(mut self, tail: Option<usize>) -> (Flow, Bytes) {
        let mut lines = Lines::new(tail);
        loop {
            match self.reader.next_line() {
                Ok(Some(line)) if self.is_wanted(&line) => {
                    lines.push(self.view.format.line(line));
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(e) => {
                    tracing::warn!("read log {}: {e}", self.view.dir.display());
                    self.done = true;
                    break;
                }
            }
            if lines.is_full() {
                break;
            }
        }
        let piece = lines.into_bytes();
        (self, piece)
    }

    fn is_wanted(&self, line: &Line) -> bool {
        self.view.since.is_none_or(|since| line.time >= since)
    }
}

/// Lines on their way into one piece: all of them up to a size, or only the last few.
#[derive(Debug)]
enum Lines {
    All(BytesMut),
    Last(usize, VecDeque<String>),
}

impl Lines {
    fn new(tail: Option<usize>) -> Lines {
        tail.map_or_else(
            || Lines::All(BytesMut::new()),
            |n| Lines::Last(n, VecDeque::new()),
        )
    }

    fn push(&mut self, line: String) {
        match self {
            Lines::All(bytes) => bytes.extend_from_slice(line.as_bytes()),
            Lines::Last(most, lines) => {
                lines.push_back(line);
                if lines.len() > *most {
                    lines.pop_front();
                }
            }
        }
    }

    fn is_full(&self) -> bool {
        matches!(self, Lines::All(bytes) if bytes.len() >= CHUNK)
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Lines::All(bytes) => bytes.freeze(),
            Lines::Last(_, lines) => Bytes::from(lines.into_iter().collect::<String>()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_container_needs_no_name_and_several_are_asked_about() {
        let task = crate::sample::id(1);
        let index = |names: &[&str]| -> Index {
            let named = names.iter().map(|n| ((*n).to_owned(), format!("id-{n}")));
            named.collect()
        };
        let (name, id) = choose(&task, index(&["web"]), None).unwrap();
        assert_eq!((name.as_str(), id.as_str()), ("web", "id-web"));
        let Refusal(status, words) = choose(&task, index(&["db", "web"]), None).unwrap_err();
        assert_eq!(status, StatusCode::CONFLICT);
        assert!(words.ends_with("say which one: db, web"), "{words}");
        let Refusal(_, words) = choose(&task, index(&["db", "web"]), Some("wbe")).unwrap_err();
        let subject = format!("read logs of task {task}: it has no container \"wbe\"; ");
        assert!(words.starts_with(&subject), "{words}");
        assert!(words.ends_with("name one of: db, web"), "{words}");
    }
}
