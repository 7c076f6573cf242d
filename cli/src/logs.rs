//! `longshore logs`: what a container has written, as the agent reads it from its disk.

use std::io::Write;
use std::path::Path;

use anyhow::{Result, anyhow};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Method;

use crate::place::Which;
use crate::{inspect, ps, socket};

/// Show what a container has written to standard output and error
///
/// Reads the agent's local socket. A task that has ended can be asked too, by its whole id, while its logs
/// are on the host.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  longshore logs TASK
  longshore logs -f --tail 10 TASK web")]
pub(crate) struct Logs {
    #[command(flatten)]
    which: Which,
    /// Go on until the container ends
    #[arg(short, long)]
    follow: bool,
    /// Begin with the last N lines
    #[arg(long, value_name = "N")]
    tail: Option<u32>,
    /// The task: its ARN, its id, or the beginning of its id
    task: String,
    /// The container; needed where the task has several
    container: Option<String>,
}

impl Logs {
    pub(crate) fn run(self) -> Result<()> {
        let socket = self.which.instance()?.agent_socket();
        socket::block_on(async {
            let id = self.task_id().await?;
            copy(&socket, &self.path(&id)).await
        })
    }

    /// A whole id is taken as it is, so that tasks that are gone can be asked for.
    async fn task_id(&self) -> Result<String> {
        let id = self.task.rsplit('/').next().unwrap_or(&self.task);
        if id.len() == 32 {
            return Ok(id.to_owned());
        }
        let tasks = ps::tasks(&self.which).await?;
        let task = inspect::find(&tasks, id)?;
        Ok(ps::short(&task["Arn"]).to_owned())
    }

    fn path(&self, id: &str) -> String {
        let mut path = format!("/v1/logs?taskarn={}&follow={}", encoded(id), self.follow);
        if let Some(lines) = self.tail {
            path.push_str(&format!("&tail={lines}"));
        }
        if let Some(container) = &self.container {
            path.push_str(&format!("&container={}", encoded(container)));
        }
        path
    }
}

/// Copies the answer to standard output as it comes.
async fn copy(socket: &Path, path: &str) -> Result<()> {
    let mut body = socket::ask(socket, Method::GET, path, Bytes::new())
        .await?
        .into_body();
    let mut out = std::io::stdout().lock();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| anyhow!("read logs: {error}; the agent may have ended"))?;
        if let Ok(bytes) = frame.into_data() {
            out.write_all(&bytes)?;
            out.flush()?;
        }
    }
    Ok(())
}

/// RFC 3986, for a query's value.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match plain(byte) {
            true => encoded.push(char::from(byte)),
            false => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
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
            "/v1/logs?taskarn=0123&follow=true&tail=7&container=a%26b"
        );
    }
}
