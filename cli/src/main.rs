//! Assembles the one user-facing program, `longshore`: arguments, the place in the cgroup tree, logging,
//! signals. What the verbs do is in `agent` and `control`.

mod agent;
mod control;
mod dev;
mod image;
mod inspect;
mod keep;
mod keys;
mod logs;
mod node;
mod place;
mod ps;
mod scope;
mod shutdown;
mod socket;
mod table;
mod telling;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// An ECS that you own: runs containers on this host and speaks the ECS API.
#[derive(Debug, Parser)]
#[command(name = "longshore", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  longshore dev                            a whole ECS on this machine
  source /var/lib/longshore/dev.env        in another shell: endpoint, region and keys
  aws ecs list-tasks                       any ECS client works from here
  longshore ps                             what runs on this host
  longshore logs -f TASK                   its output, as it comes
  longshore image ls                       the images of this host
  longshore dev --reset                    stop everything, remove every trace

Exit status: 0 done, 1 failed (one sentence on standard error), 2 wrong arguments.";

#[derive(Debug, Subcommand)]
enum Verb {
    Dev(dev::Dev),
    Control(control::Control),
    Agent(agent::Agent),
    #[command(subcommand)]
    Node(node::Node),
    Ps(ps::Ps),
    Logs(logs::Logs),
    Inspect(inspect::Inspect),
    #[command(subcommand)]
    Image(image::Image),
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Dev(verb) => verb.run(),
        Verb::Control(verb) => verb.run(),
        Verb::Agent(verb) => verb.run(),
        Verb::Node(verb) => verb.run(),
        Verb::Ps(verb) => verb.run(),
        Verb::Logs(verb) => verb.run(),
        Verb::Inspect(verb) => verb.run(),
        Verb::Image(verb) => verb.run(),
    };
    telling::exit_code(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_join_token_is_no_argument() {
        let told = Cli::try_parse_from(["longshore", "agent", "--join", "secret"]);
        assert!(
            told.is_err(),
            "a token on the command line is visible to every user of the host"
        );
    }
}
