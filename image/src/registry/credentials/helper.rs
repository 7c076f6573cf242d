//! Credential helpers: programs that keep logins for docker, asked over their standard input and output.
//!
//! Protocol (docker/docker-credential-helpers, "Development"): `docker-credential-NAME get` reads a server's name and
//! writes `{"ServerURL", "Username", "Secret"}`; if it fails it writes a sentence to the same place. The user name
//! `<token>` marks an identity token.
//!
//! A helper is the operator's program and trusted with secrets, but not with our time or memory. What it writes is
//! shown to nobody, except the one sentence that says that it knows nothing.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::Login;
use crate::error::{ImageError, printable};

/// Helpers that ask another service need a moment.
const TIME_MAX: Duration = Duration::from_secs(30);
const ANSWER_MAX: u64 = 64 * 1024;
/// How long what a helper wrote last may take to arrive after its end.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The agent's own secret, which is no helper's business.
const JOIN_TOKEN: &str = "LONGSHORE_JOIN_TOKEN";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// What the helper called `name` knows of `server`; None if nothing.
pub(crate) async fn get(name: &str, server: &str) -> Result<Option<Login>, ImageError> {
    get_within(TIME_MAX, name, server).await
}

async fn get_within(
    limit: Duration,
    name: &str,
    server: &str,
) -> Result<Option<Login>, ImageError> {
    let error = |cause: String| {
        let subject = format!("from helper `{}` for {server}", printable(name, 100));
        ImageError::new("read credentials", subject, cause)
    };
    let program = program(name).map_err(error)?;
    let answer = tokio::time::timeout(limit, talk(&program, server));
    let (success, said) = match answer.await {
        Err(_) => Err(format!(
            "no answer for {} s; see what it waits for",
            limit.as_secs()
        )),
        Ok(Err(e)) => Err(format!("{}: {e}", program.display())),
        Ok(Ok(answer)) => Ok(answer),
    }
    .map_err(error)?;
    if said.len() as u64 > ANSWER_MAX {
        return Err(error(format!("it wrote more than {ANSWER_MAX} bytes")));
    }
    if !success {
        return match String::from_utf8_lossy(&said).contains("credentials not found") {
            true => Ok(None),
            false => Err(error("it failed; run it by hand to see why".into())),
        };
    }
    let bad = || error("it wrote no answer in the form of a credential helper".into());
    let answer: Answer = serde_json::from_slice(&said).map_err(|_| bad())?;
    if answer.secret.is_empty() {
        return Ok(None);
    }
    Ok(Some(match answer.username.as_str() {
        "<token>" => Login::Identity(answer.secret),
        _ => Login::Password {
            username: answer.username,
            password: answer.secret,
        },
    }))
}

/// A name is looked up in PATH as `docker-credential-NAME`; an absolute path is the program itself. A relative one
/// would depend on where we were started.
fn program(name: &str) -> Result<PathBuf, String> {
    if Path::new(name).is_absolute() {
        return Ok(name.into());
    }
    if name.contains('/') {
        return Err("a helper is named by a plain name or an absolute path".into());
    }
    Ok(format!("docker-credential-{name}").into())
}

async fn talk(program: &Path, server: &str) -> std::io::Result<(bool, Vec<u8>)> {
    let mut child = Command::new(program)
        .arg("get")
        .env_remove(JOIN_TOKEN)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let mut group = Group::of(&child);
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that needs no question may be gone already.
        drop(stdin.write_all(format!("{server}\n").as_bytes()).await);
    }
    let mut said = Vec::new();
    let mut ended = None;
    if let Some(stdout) = child.stdout.take() {
        let mut stdout = stdout.take(ANSWER_MAX + 1);
        while ended.is_none() {
            tokio::select! {
                biased;
                read = stdout.read_buf(&mut said) => if read? == 0 { break },
                status = child.wait() => {
                    ended = Some(status?);
                    group.leave();
                }
            }
        }
        // What it leaves behind, an agent for instance, may keep our pipe open and never write to it.
        while ended.is_some() && serde_json::from_slice::<Answer>(&said).is_err() {
            match tokio::time::timeout(LAST_WORDS, stdout.read_buf(&mut said)).await {
                Ok(Ok(0)) | Err(_) => break,
                Ok(read) => read?,
            };
        }
    }
    if said.len() as u64 > ANSWER_MAX && ended.is_none() {
        // It would wait for a reader.
        group.kill();
    }
    let status = match ended {
        Some(status) => status,
        None => child.wait().await?,
    };
    group.leave();
    Ok((status.success(), said))
}

/// A helper and whatever it started: they end together, unless the helper ends well by itself.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Group {
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        Group(pid.and_then(Pid::from_raw))
    }

    /// Nothing has waited for the helper yet, or its number could be somebody else's by now.
    fn kill(&mut self) {
        if let Some(group) = self.0.take() {
            // Gone already is as good.
            kill_process_group(group, Signal::KILL).ok();
        }
    }

    fn leave(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// One at a time: a script that another thread's new process still holds open for writing cannot be run.
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    struct Script {
        dir: tempfile::TempDir,
        _alone: tokio::sync::MutexGuard<'static, ()>,
    }

    impl Script {
        async fn new(body: &str) -> Script {
            let alone = ALONE.lock().await;
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("helper");
            std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
            Script { dir, _alone: alone }
        }

        async fn get(&self) -> Result<Option<Login>, String> {
            let path = self.dir.path().join("helper");
            let found = get(&path.display().to_string(), "r.io:5000").await;
            found.map_err(|e| e.to_string())
        }
    }

    #[tokio::test]
    async fn a_helper_is_asked_for_a_server_and_answers_user_and_secret() {
        let script = Script::new(
            r#"read -r server; test "$1 $server" = "get r.io:5000" || exit 9
            echo "{\"ServerURL\":\"$server\",\"Username\":\"u\",\"Secret\":\"p\"}""#,
        )
        .await;
        let login = Login::Password {
            username: "u".into(),
            password: "p".into(),
        };
        assert_eq!(script.get().await.unwrap(), Some(login));
        drop(script);
        let script = Script::new(r#"echo '{"Username":"<token>","Secret":"i"}'"#).await;
        assert_eq!(
            script.get().await.unwrap(),
            Some(Login::Identity("i".into()))
        );
    }

    #[tokio::test]
    async fn a_helper_that_knows_nothing_is_no_error() {
        let script = Script::new("echo credentials not found in native keychain; exit 1").await;
        assert_eq!(script.get().await, Ok(None));
        drop(script);
        assert_eq!(Script::new("echo '{}'").await.get().await, Ok(None));
    }

    #[tokio::test]
    async fn a_helper_that_fails_is_named_and_its_words_are_not_repeated() {
        for (body, said) in [
            ("echo s3cr3t; exit 1", "it failed"),
            ("echo s3cr3t", "no answer in the form"),
            (
                "while :; do echo s3cr3ts3cr3ts3cr3t; done",
                "more than 65536 bytes",
            ),
        ] {
            let error = Script::new(body).await.get().await.unwrap_err();
            let named = error.contains("helper` for r.io:5000");
            assert!(error.contains(said) && named, "{error}");
            assert!(!error.contains("s3cr3t"), "{error}");
        }
        let error = get("no-such-helper-anywhere", "r.io").await.unwrap_err();
        let named = "docker-credential-no-such-helper-anywhere: No such file";
        assert!(error.to_string().contains(named), "{error}");
        let error = get("../helper", "r.io").await.unwrap_err().to_string();
        assert!(error.contains("absolute path"), "{error}");
    }

    #[tokio::test]
    async fn a_helper_that_never_ends_is_given_up() {
        let script = Script::new("exec sleep 1000").await;
        let path = script.dir.path().join("helper").display().to_string();
        let error = get_within(Duration::ZERO, &path, "r.io").await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("no answer for 0 s"), "{error}");
        drop(script);
        // As most are: a script that waits for a program.
        let script = Script::new("sleep 1000 & echo $! >$0.child; wait").await;
        let path = script.dir.path().join("helper").display().to_string();
        let written = format!("{path}.child");
        let said = async {
            loop {
                let said = std::fs::read_to_string(&written).unwrap_or_default();
                if let Some(pid) = said.strip_suffix('\n') {
                    break pid.parse().unwrap();
                }
                tokio::task::yield_now().await;
            }
        };
        // Given up by dropping it, as the end of its time does.
        let child = tokio::select! {
            never = get_within(Duration::from_secs(60), &path, "r.io") => panic!("{never:?}"),
            pid = said => Pid::from_raw(pid).unwrap(),
        };
        let is_gone = || rustix::process::test_kill_process(child).is_err() || is_dead(child);
        let patience = std::time::Instant::now() + Duration::from_secs(10);
        while !is_gone() {
            assert!(std::time::Instant::now() < patience, "{child:?} lives on");
            tokio::task::yield_now().await;
        }
    }

    /// Ended, and perhaps not waited for by whoever has it now.
    fn is_dead(pid: Pid) -> bool {
        let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
        let stat = std::fs::read_to_string(stat).unwrap_or_default();
        stat.rsplit(") ")
            .next()
            .is_none_or(|s| s.starts_with(['Z', 'X']))
    }

    #[tokio::test]
    async fn what_a_helper_leaves_running_is_not_waited_for() {
        let script =
            Script::new(r#"sleep 1000 & echo $! >$0.child; echo '{"Username":"u","Secret":"p"}'"#)
                .await;
        let path = script.dir.path().join("helper").display().to_string();
        let found = get_within(Duration::from_secs(20), &path, "r.io").await;
        let child = std::fs::read_to_string(format!("{path}.child")).unwrap();
        let child = Pid::from_raw(child.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(child, Signal::KILL).unwrap();
        assert!(found.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_helper_does_not_inherit_the_agents_own_secret() {
        if std::env::var(JOIN_TOKEN).is_err() {
            // Once more, in a process that has the secret.
            let itself = std::process::Command::new(std::env::current_exe().unwrap())
                .arg("a_helper_does_not_inherit_the_agents_own_secret")
                .env(JOIN_TOKEN, "s3cr3t")
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&itself.stdout);
            assert!(
                itself.status.success() && said.contains("1 passed"),
                "{said}"
            );
            return;
        }
        let script = Script::new("env >$0.env; echo '{}'").await;
        script.get().await.unwrap();
        let path = script.dir.path().join("helper.env");
        let seen = std::fs::read_to_string(path).unwrap();
        assert!(seen.contains("PATH=") && !seen.contains("s3cr3t"));
    }
}
