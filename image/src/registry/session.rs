//! What a registry knows us by: challenges met once, and the answers kept as long as they last.
//!
//! The first request to a repository goes without an Authorization header, as registries want it; its challenge is
//! met, and remembered, so that a token that nears its end can be made anew before the registry refuses it. Many who are
//! challenged at once wait for one of them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderValue};
use tokio::time::Instant;

use super::challenge::{self, Challenge};
use super::credentials::{self, Credentials, Login};
use super::fault::Fault;
use super::gate::Gates;
use super::settings::Registries;
use super::token::{self, Bearer, Granted};
use super::transport::{Answer, Ask, Transport};
use http::StatusCode;

/// Answered challenges by registry and repository.
#[derive(Debug)]
pub(crate) struct Sessions {
    known: Mutex<HashMap<Key, Session>>,
    /// Challenges that are being met, so that many who ask at once cost one helper and one token.
    meeting: Gates<Key>,
    credentials: Credentials,
}

/// Registry and repository.
type Key = (String, String);

/// A session that nobody used for so long after its end is dropped.
const KEPT: Duration = Duration::from_secs(10 * 60);

#[derive(Clone, Debug)]
struct Session {
    challenge: Challenge,
    granted: Granted,
}

/// Whom a request is for: what is asked, and the registries' settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking<'a> {
    pub(crate) transport: &'a Transport,
    pub(crate) registries: &'a Registries,
    pub(crate) repository: &'a str,
}

impl Sessions {
    pub(crate) fn new() -> Sessions {
        Sessions {
            known: Mutex::default(),
            meeting: Gates::default(),
            credentials: Credentials::new(),
        }
    }

    /// Sends with what authorization we have, and once more after answering a challenge.
    pub(crate) async fn send(&self, asking: Asking<'_>, ask: &Ask<'_>) -> Result<Answer, Fault> {
        let key = (ask.authority.to_owned(), asking.repository.to_owned());
        let known = self.current(asking, ask, &key).await;
        let mut answer = asking.transport.send(ask, known.as_ref()).await?;
        let forbidden = answer.response.status() == StatusCode::FORBIDDEN;
        if known.is_some() && forbidden && !answer.redirected_away {
            // So ECR answers a password that has ended, and others somebody whose rights were on another login.
            self.forget(&key, known.as_ref());
            answer = asking.transport.send(ask, None).await?;
        }
        // A challenge of another host, reached by redirect, must not be answered with this one's secrets.
        if answer.response.status() != StatusCode::UNAUTHORIZED || answer.redirected_away {
            return Ok(answer);
        }
        let challenges = challenges_in(answer.response.headers());
        self.forget(&key, known.as_ref());
        let gate = self.meeting.gate(&key);
        let alone = gate.enter().await;
        if let Some(header) = self.header(&key) {
            // Somebody else has met it meanwhile.
            drop(alone);
            return asking.transport.send(ask, Some(&header)).await;
        }
        let Some(session) = self.meet(asking, ask, challenges).await? else {
            return Ok(answer);
        };
        let header = session.granted.header.clone();
        self.keep(key, session);
        drop(alone);
        asking.transport.send(ask, Some(&header)).await
    }

    fn header(&self, key: &Key) -> Option<HeaderValue> {
        self.lock().get(key).map(|s| s.granted.header.clone())
    }

    /// Forgets what was refused; not what another has got in its place.
    fn forget(&self, key: &Key, refused: Option<&HeaderValue>) {
        let Some(refused) = refused else { return };
        let mut known = self.lock();
        if known.get(key).is_some_and(|s| s.granted.header == *refused) {
            known.remove(key);
            self.credentials.refused(&key.0);
        }
    }

    fn keep(&self, key: Key, session: Session) {
        let now = Instant::now();
        let is_old = |s: &Session| s.granted.renew_at.is_some_and(|at| at + KEPT <= now);
        let mut known = self.lock();
        known.retain(|_, session| !is_old(session));
        known.insert(key, session);
    }

    /// The header for a repository that we have been to, made anew if it nears its end.
    async fn current(&self, asking: Asking<'_>, ask: &Ask<'_>, key: &Key) -> Option<HeaderValue> {
        let known = self.lock().get(key).cloned()?;
        let due = known
            .granted
            .renew_at
            .is_some_and(|at| at <= Instant::now());
        if !due {
            return Some(known.granted.header);
        }
        let gate = self.meeting.gate(key);
        let alone = gate.enter().await;
        if let Some(header) = self.header(key).filter(|h| *h != known.granted.header) {
            return Some(header);
        }
        // If it cannot be had the registry will say so, and what it wants instead.
        let fresh = self.meet(asking, ask, vec![known.challenge]).await;
        let Ok(Some(session)) = fresh else {
            return Some(known.granted.header);
        };
        let header = session.granted.header.clone();
        self.keep(key.clone(), session);
        drop(alone);
        Some(header)
    }

    /// Meets the best challenge that can be met. None if there is none; the first one's error if all fail.
    async fn meet(
        &self,
        asking: Asking<'_>,
        ask: &Ask<'_>,
        challenges: Vec<Challenge>,
    ) -> Result<Option<Session>, Fault> {
        if challenges.is_empty() {
            return Ok(None);
        }
        let Asking {
            transport,
            registries,
            repository,
        } = asking;
        let login = self
            .credentials
            .login(transport, registries, ask, repository)
            .await?;
        let mut failed = None;
        for challenge in challenges {
            let met = match &challenge {
                Challenge::Basic => with_password(ask, login.as_ref()),
                Challenge::Bearer(bearer) => {
                    with_token(transport, ask, repository, bearer, login.as_ref()).await
                }
            };
            match met {
                Ok(granted) => return Ok(Some(Session { challenge, granted })),
                Err(fault) => failed = failed.or(Some(fault)),
            }
        }
        let Some(fault) = failed else {
            return Ok(None);
        };
        let nobody = login.is_none();
        Err(match fault {
            Fault::Refused(mut error) if nobody => {
                error.cause.push_str(&credentials::places(registries).await);
                Fault::Refused(error)
            }
            other => other,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Session>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All challenges of an answer that we can meet, tokens before passwords.
fn challenges_in(headers: &HeaderMap) -> Vec<Challenge> {
    let values = headers.get_all(header::WWW_AUTHENTICATE).iter();
    let mut found: Vec<Challenge> = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(challenge::parse)
        .take(CHALLENGES_MAX)
        .collect();
    found.sort_by_key(|challenge| matches!(challenge, Challenge::Basic));
    found.dedup();
    found
}

/// No registry has more ways to be asked; each may cost a request.
const CHALLENGES_MAX: usize = 4;

fn with_password(ask: &Ask<'_>, login: Option<&Login>) -> Result<Granted, Fault> {
    match login {
        Some(Login::Password { username, password }) => Ok(Granted::basic(username, password)),
        _ => Err(Fault::Refused(ask.error(format!(
            "unauthorized: registry {} wants a user and a password; give it credentials",
            ask.authority
        )))),
    }
}

async fn with_token(
    transport: &Transport,
    ask: &Ask<'_>,
    repository: &str,
    bearer: &Bearer,
    login: Option<&Login>,
) -> Result<Granted, Fault> {
    if let Some(Login::Token(token)) = login {
        let bad = || ask.error("the credentials hold a token that no header can");
        return Ok(Granted::token(token).ok_or_else(bad)?);
    }
    token::fetch(transport, ask, repository, bearer, login).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_of_several_headers_are_tried_tokens_first() {
        let mut headers = HeaderMap::new();
        for value in [
            "Basic realm=\"x\", Negotiate",
            "Bearer realm=\"https://a/t\"",
            "Bearer realm=\"https://b/t\"",
            "Basic realm=\"y\"",
        ] {
            headers.append(header::WWW_AUTHENTICATE, value.parse().unwrap());
        }
        let bearer = |realm: &str| {
            Challenge::Bearer(Bearer {
                realm: realm.into(),
                service: None,
                scope: None,
            })
        };
        assert_eq!(
            challenges_in(&headers),
            [
                bearer("https://a/t"),
                bearer("https://b/t"),
                Challenge::Basic
            ]
        );
        assert_eq!(challenges_in(&HeaderMap::new()), []);
    }
}
