//! `longshore ps`: what runs on this host, as its agent sees it.

use anyhow::Result;
use serde_json::Value;

use crate::place::Which;
use crate::{socket, table, telling};

/// List the tasks of this host and their containers
///
/// Reads the agent's local socket, so it works while the control plane is away.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  longshore ps --json | jq -r '.[].Arn'")]
pub(crate) struct Ps {
    #[command(flatten)]
    which: Which,
    /// Print JSON: an array, the `Tasks` of the socket's /v1/tasks
    #[arg(long)]
    json: bool,
}

impl Ps {
    pub(crate) fn run(self) -> Result<()> {
        let tasks = socket::block_on(tasks(&self.which))?;
        telling::print(&match self.json {
            true => format!("{tasks:#}\n"),
            false => table::columns(&rows(&tasks)),
        })
    }
}

/// The `Tasks` of `/v1/tasks`.
pub(crate) async fn tasks(which: &Which) -> Result<Value> {
    let socket = which.instance()?.agent_socket();
    let mut answer = socket::get(&socket, "/v1/tasks").await?;
    Ok(answer["Tasks"].take())
}

/// The last part of an ARN.
pub(crate) fn short(arn: &Value) -> &str {
    text(arn).rsplit('/').next().unwrap_or_default()
}

/// A string, or nothing.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn rows(tasks: &Value) -> Vec<Vec<String>> {
    let head = [
        "TASK",
        "DEFINITION",
        "STATUS",
        "CONTAINER",
        "STATUS",
        "PORTS",
        "IMAGE",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for task in tasks.as_array().into_iter().flatten() {
        let definition = format!("{}:{}", text(&task["Family"]), text(&task["Version"]));
        for container in task["Containers"].as_array().into_iter().flatten() {
            rows.push(vec![
                short(&task["Arn"]).to_owned(),
                definition.clone(),
                text(&task["KnownStatus"]).to_owned(),
                text(&container["Name"]).to_owned(),
                text(&container["KnownStatus"]).to_owned(),
                ports(&container["Ports"]),
                text(&container["Image"]).to_owned(),
            ]);
        }
    }
    rows
}

fn ports(ports: &Value) -> String {
    let port = |port: &Value| {
        format!(
            "{}->{}/{}",
            port["HostPort"],
            port["ContainerPort"],
            text(&port["Protocol"])
        )
    };
    let ports: Vec<_> = ports.as_array().into_iter().flatten().map(port).collect();
    ports.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_for_each_container() {
        let tasks = json!([{
            "Arn": "arn:aws:ecs:us-east-1:000000000000:task/default/0123", "Family": "web", "Version": "3",
            "KnownStatus": "RUNNING",
            "Containers": [{"Name": "front", "KnownStatus": "RUNNING", "Image": "r/web:1",
                "Ports": [{"ContainerPort": 80, "HostPort": 8080, "Protocol": "tcp"}]}],
        }]);
        let row = rows(&tasks)[1].join(" ");
        assert_eq!(row, "0123 web:3 RUNNING front RUNNING 8080->80/tcp r/web:1");
    }
}
