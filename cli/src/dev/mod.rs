//! `longshore dev`: a whole ECS on one machine. Control plane and agent in one process, over the same RPC as
//! apart; loopback only; nothing to configure.

mod reset;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use longshore_agent::{HostPolicy, Instance};
use longshore_control::ControlPlane;
use longshore_control::south::mint_token;
use tokio::sync::watch;

use crate::agent::HostOptions;
use crate::control::{self, DEFAULT_CLUSTER, Ports};
use crate::place::{self, Place};
use crate::{ps, scope, shutdown, socket, telling};

const TOKEN_LIFE: Duration = Duration::from_secs(300);

/// Run a whole ECS on this machine: control plane and agent in one process
///
/// Listens on loopback only and needs no configuration. Writes endpoint, region and keys to a file that
/// only you may read and prints the line that loads it; any ECS client works from there. Ctrl-C leaves
/// running tasks alone, and starting again finds them.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  longshore dev
  longshore dev --allow privileged,host-network,cap-add=NET_ADMIN
  longshore dev --instance two --api 127.0.0.1:4580 --rpc 127.0.0.1:4581
  longshore dev --reset                    stop every task, remove every trace")]
pub(crate) struct Dev {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    ports: Ports,
    #[command(flatten)]
    host: HostOptions,
    /// What tasks may ask of this host: privileged, host-network, cap-add=NAME, no-new-privileges (this one
    /// forbids), separated by commas; nothing by default
    #[arg(long, value_name = "LIST", default_value = "")]
    allow: String,
    /// Stop every task of this instance, remove every trace of it, say what was removed, and end
    #[arg(long, conflicts_with = "allow")]
    reset: bool,
}

impl Dev {
    pub(crate) fn run(self) -> Result<()> {
        place::need_root("dev")?;
        let instance = self.place.instance()?;
        if self.reset {
            return reset::run(&instance);
        }
        self.ports.need_loopback()?;
        let policy = HostPolicy::from_allow(&self.allow)?;
        let parent = scope::enter(instance.name())?;
        telling::log("warn");
        let mut config = self
            .host
            .config(instance.clone(), self.ports.endpoint(), parent)?;
        config.policy = policy;
        let commands = self.commands()?;
        let claim = place::claim(&instance)?;
        let ended = self.serve(instance, config, commands);
        if ended.is_err() {
            claim.give_up_if_unused();
        }
        ended
    }

    fn serve(
        self,
        instance: Instance,
        mut config: longshore_agent::Config,
        commands: Commands,
    ) -> Result<()> {
        shutdown::run(async move {
            let stopping = shutdown::on_signals()?;
            let plane = control::open(&instance, &self.ports, &instance.control_socket())?;
            let keys = instance.state_root().join("dev.env");
            control::write_keys(&keys, &plane, &self.ports)?;
            config.token = Some(join_token(&plane)?);
            let words = Words { commands, keys };
            both(&instance, plane, config, words, stopping).await
        })
    }

    /// The commands that go on with this instance, as they must be typed.
    fn commands(&self) -> Result<Commands> {
        let place = self.place.words()?;
        let mut again = place.clone();
        again.extend(self.ports.words());
        again.extend(self.host.words());
        if !self.allow.is_empty() {
            again.extend(["--allow".to_owned(), self.allow.clone()]);
        }
        let line = |words: &[String]| {
            let begin = "longshore dev".to_owned();
            words
                .iter()
                .fold(begin, |line, next| line + " " + &telling::word(next))
        };
        Ok(Commands {
            again: line(&again),
            reset: line(&place) + " --reset",
        })
    }
}

/// What people may type after this instance has been stopped.
#[derive(Debug)]
struct Commands {
    /// Finds its tasks again.
    again: String,
    /// Stops them.
    reset: String,
}

/// What [`tell`] tells of.
#[derive(Debug)]
struct Words {
    commands: Commands,
    keys: PathBuf,
}

/// The two halves, until a signal or until one of them fails. At a signal people are told first: the agent is
/// asked what goes on without it, while it still answers.
async fn both(
    instance: &Instance,
    plane: ControlPlane,
    config: longshore_agent::Config,
    words: Words,
    signal: watch::Receiver<bool>,
) -> Result<()> {
    let api = plane.api_address();
    let (stop, stopping) = watch::channel(false);
    let plane = tokio::spawn(plane.serve(stopping.clone()));
    let agent = tokio::spawn(longshore_agent::run(config, stopping));
    let told = async {
        let told = tell(instance, api, &words, signal).await;
        stop.send_replace(true);
        told
    };
    let halves = async { tokio::try_join!(flat(plane, "control plane"), flat(agent, "agent")) };
    tokio::try_join!(told, halves)?;
    Ok(())
}

/// The agent joins as any other does. It needs this only at the first start; the token is good for a moment.
fn join_token(plane: &ControlPlane) -> Result<String> {
    let store = plane.store();
    Ok(mint_token(store.as_ref(), DEFAULT_CLUSTER, TOKEN_LIFE)?)
}

async fn flat(half: tokio::task::JoinHandle<Result<()>>, name: &str) -> Result<()> {
    match half.await {
        Ok(done) => done,
        Err(panic) => bail!("run {name}: {panic}"),
    }
}

/// Tells people how to begin, and after the signal what goes on without us.
async fn tell(
    instance: &Instance,
    api: SocketAddr,
    words: &Words,
    mut signal: watch::Receiver<bool>,
) -> Result<()> {
    tokio::select! {
        () = socket::until_joined(instance) => {}
        _ = signal.wait_for(|stop| *stop) => return Ok(()),
    }
    telling::print(&welcome(api, &words.keys, live_tasks(instance).await))?;
    // An error would mean that nobody listens for signals any more, which is reason enough to stop.
    let _signal = signal.wait_for(|stop| *stop).await;
    telling::print(&farewell(&words.commands, live_tasks(instance).await))
}

fn welcome(api: SocketAddr, keys: &Path, found: usize) -> String {
    let found = match found {
        0 => String::new(),
        n => format!(
            "Found {} from before, still running.\n",
            telling::count(n, "task", "tasks")
        ),
    };
    format!(
        "{found}Ready: the ECS API is at http://{api}. In another shell:\n\n  source {}\n  aws ecs list-clusters\n\n\
         Ctrl-C leaves running tasks alone.\n",
        telling::word(&keys.display().to_string())
    )
}

fn farewell(commands: &Commands, left: usize) -> String {
    let Commands { again, reset } = commands;
    match left {
        0 => "\nStopped. No task is running.\n".to_owned(),
        n => format!(
            "\nStopped. {} on without us; this finds them again, and the second line stops them and clears:\n\n  \
             {again}\n  {reset}\n",
            telling::count(n, "task goes", "tasks go")
        ),
    }
}

/// Tasks of this host that are not STOPPED. An agent that does not answer has none to tell of.
async fn live_tasks(instance: &Instance) -> usize {
    let answer = socket::get(&instance.agent_socket(), "/v1/tasks")
        .await
        .unwrap_or_default();
    let tasks = answer["Tasks"].as_array();
    tasks
        .into_iter()
        .flatten()
        .filter(|task| ps::text(&task["KnownStatus"]) != "STOPPED")
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Alone {
        #[command(flatten)]
        dev: Dev,
    }

    fn commands(arguments: &[&str]) -> Commands {
        let words = ["dev"].iter().chain(arguments);
        let alone: Alone = clap::Parser::parse_from(words);
        alone.dev.commands().unwrap()
    }

    #[test]
    fn the_farewell_says_what_goes_on_and_how_to_stop_it() {
        let text = farewell(&commands(&["--instance", "two"]), 3);
        assert!(text.contains("3 tasks go on"), "{text}");
        assert!(
            text.contains("  longshore dev --instance two --reset\n"),
            "{text}"
        );
        assert!(farewell(&commands(&[]), 0).contains("No task"));
    }

    #[test]
    fn the_commands_of_the_farewell_have_the_options_that_were_given() {
        let plain = commands(&["--instance", "default", "--api", "127.0.0.1:4480"]);
        assert_eq!(plain.again, "longshore dev");
        assert_eq!(plain.reset, "longshore dev --reset");
        let given = commands(&[
            "--state-dir",
            "/srv/my state",
            "--rpc",
            "127.0.0.1:4581",
            "--insecure-registry",
            "r:5000",
            "--registries",
            "r.json",
            "--allow",
            "privileged",
        ]);
        assert_eq!(
            given.again,
            "longshore dev --state-dir '/srv/my state' --rpc 127.0.0.1:4581 --insecure-registry r:5000 --registries r.json --allow privileged"
        );
        assert_eq!(
            given.reset,
            "longshore dev --state-dir '/srv/my state' --reset"
        );
    }

    #[test]
    fn the_welcome_names_the_line_to_source_and_no_key() {
        let text = welcome(
            "127.0.0.1:4480".parse().unwrap(),
            "/var/lib/longshore/dev.env".as_ref(),
            1,
        );
        assert!(text.contains("  source /var/lib/longshore/dev.env\n"));
        assert!(text.starts_with("Found 1 task from before"));
    }
}
