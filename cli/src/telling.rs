//! How this program speaks: errors once, as one sentence on standard error; logs on standard error, quiet
//! unless asked; results on standard output.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

/// 0, or 1 with the error on standard error. Usage errors never come here: clap ends them with 2.
pub(crate) fn exit_code(done: anyhow::Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if reader_left(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("longshore: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// `longshore logs ... | head`: the reader has enough.
fn reader_left(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// The chain of an error as one sentence; a cause that its reader already quoted is not told twice.
fn sentence(error: &anyhow::Error) -> String {
    let mut sentence = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if sentence.contains(&cause) {
            continue;
        }
        if !sentence.is_empty() {
            sentence.push_str(": ");
        }
        sentence.push_str(&cause);
    }
    if is_port_in_use(error) {
        sentence.push_str(
            "; stop the process that listens there (ss -ltnp shows it), or choose another port with --api or --rpc",
        );
    }
    sentence
}

/// The only ports that this program itself listens on are the control plane's two; its error names which.
fn is_port_in_use(error: &anyhow::Error) -> bool {
    let mut causes = error.chain();
    causes.any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|io| io.kind() == std::io::ErrorKind::AddrInUse)
    })
}

/// Logs of the daemons. `RUST_LOG` says more or less; `default` is used where it is absent.
pub(crate) fn log(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    // A second call in one process (tests) keeps the first one's choice.
    let _already = subscriber.try_init();
}

/// A result on standard output. A closed pipe is the caller's to notice.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

/// `1 task`, `2 tasks`.
pub(crate) fn count(number: usize, one: &str, many: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        n => format!("{n} {many}"),
    }
}

/// A word of a command line, quoted for sh(1) where it must be.
pub(crate) fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=@%+".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_from_a_shell_as_they_were() {
        assert_eq!(word("/srv/a-b_c.d"), "/srv/a-b_c.d");
        assert_eq!(word("/srv/my state"), "'/srv/my state'");
        assert_eq!(word("it's"), r"'it'\''s'");
        assert_eq!(word(""), "''");
    }

    #[test]
    fn an_error_is_one_sentence_and_says_nothing_twice() {
        let io = std::io::Error::other("disk on fire");
        let error = anyhow::Error::new(io)
            .context("read journal: disk on fire")
            .context("start agent");
        assert_eq!(sentence(&error), "start agent: read journal: disk on fire");
    }

    #[test]
    fn a_port_in_use_is_told_with_its_remedy() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let io = std::net::TcpListener::bind(address).unwrap_err();
        let error = anyhow::Error::new(io).context(format!("listen for the ECS API on {address}"));
        let text = sentence(&error);
        assert!(
            text.contains(&address.to_string()) && text.ends_with("with --api or --rpc"),
            "{text}"
        );
    }
}
