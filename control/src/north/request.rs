//! One HTTP request: bounded, verified, called, answered. In this order: nothing is read as JSON, and
//! nobody learns which operations there are, before the signature holds.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::guests::Guest;
use crate::access_key;
use crate::ecs::{Api, Error};
use crate::id;
use crate::sigv4::{self, Refusal, Scope};
use crate::store::Store;

/// Largest request body. ECS's own bound is 64 KiB for a definition; the rest is generosity.
const LARGEST_BODY: usize = 1 << 20;

/// Bodies up to this size are read at once; larger ones, and those that do not say, take turns: before the
/// signature is known to hold, strangers must not fill the memory.
const SMALL_BODY: u64 = 64 << 10;
const LARGE_AT_ONCE: usize = 32;

/// For a request's body.
const BODY_TIME: Duration = Duration::from_secs(30);

/// Calls at work at once; each may hold a thread for some disk writes.
const AT_WORK: usize = 32;

/// What `X-Amz-Target` starts with.
const TARGET: &str = "AmazonEC2ContainerServiceV20141113.";

/// The API's front: what stands between a connection and a call.
pub(crate) struct Front {
    api: Api,
    store: Arc<dyn Store>,
    region: String,
    at_work: Arc<Semaphore>,
    large: Semaphore,
}

/// An answer that is no success, and its HTTP status.
struct Failure {
    status: StatusCode,
    error: Error,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let status = StatusCode::from_u16(error.status());
        Failure {
            status: status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            error,
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        Error::new(refusal.name(), refusal.to_string()).into()
    }
}

impl Front {
    pub(crate) fn new(api: Api, store: Arc<dyn Store>, region: String) -> Front {
        Front {
            api,
            store,
            region,
            at_work: Arc::new(Semaphore::new(AT_WORK)),
            large: Semaphore::new(LARGE_AT_ONCE),
        }
    }

    pub(crate) async fn answer(
        self: Arc<Front>,
        request: Request<Incoming>,
        guest: Arc<Guest>,
    ) -> Response<Full<Bytes>> {
        let id = id::uuid();
        let (status, body) = match self.handle(request, &id, guest).await {
            Ok(body) => (StatusCode::OK, body),
            Err(failure) => {
                let name = failure.error.name;
                tracing::debug!(request = %id, error = name, "API call refused");
                (failure.status, failure.error.body())
            }
        };
        response(status, &body, &id)
    }

    async fn handle(
        self: &Arc<Front>,
        request: Request<Incoming>,
        id: &str,
        guest: Arc<Guest>,
    ) -> Result<Value, Failure> {
        let (parts, body) = request.into_parts();
        if parts.method != Method::POST || parts.uri.path() != "/" {
            return Err(no_such_place());
        }
        if !parts.headers.contains_key(http::header::AUTHORIZATION) {
            return Err(Refusal::MissingAuthenticationToken.into());
        }
        let body = self.read(body).await?;
        // The semaphore is never closed.
        let permit = Arc::clone(&self.at_work).acquire_owned().await.ok();
        let front = Arc::clone(self);
        let call = tokio::task::spawn_blocking(move || {
            let answer = front.call(&parts, &body, &guest);
            drop(permit);
            answer
        });
        call.await.unwrap_or_else(|panic| {
            tracing::error!(request = %id, %panic, "an API call failed unexpectedly");
            Err(Error::new(
                "ServerException",
                "The call failed unexpectedly; see the control plane's log.",
            )
            .into())
        })
    }

    async fn read(&self, body: Incoming) -> Result<Bytes, Failure> {
        let small = body.size_hint().upper().is_some_and(|n| n <= SMALL_BODY);
        let _turn = match small {
            true => None,
            false => self.large.acquire().await.ok(),
        };
        read(body).await
    }

    fn call(&self, parts: &Parts, body: &[u8], guest: &Guest) -> Result<Value, Failure> {
        self.verify(parts, body)?;
        let _work = guest.work();
        let target = parts.headers.get("x-amz-target");
        let target = target.and_then(|target| target.to_str().ok());
        let operation = target.and_then(|target| target.strip_prefix(TARGET));
        let operation = operation.unwrap_or_default();
        match object(body) {
            Ok(body) => Ok(self.api.call(operation, body)?),
            Err(cause) => {
                let subject = match operation {
                    "" => String::new(),
                    // Signed, but not known to be an operation.
                    named => format!(" of {}", named.chars().take(64).collect::<String>()),
                };
                Err(Error::new(
                    "SerializationException",
                    format!(
                        "Cannot read the request body{subject}: {cause}. Send one JSON object, {{}} where there is nothing \
                         to say."
                    ),
                )
                .into())
            }
        }
    }

    fn verify(&self, parts: &Parts, body: &[u8]) -> Result<(), Failure> {
        let scope = Scope {
            region: &self.region,
            service: "ecs",
        };
        let mut failed = None;
        let verified = sigv4::verify(parts, body, scope, crate::now(), |id| {
            access_key::secret(self.store.as_ref(), id).unwrap_or_else(|error| {
                failed = Some(error);
                None
            })
        });
        if let Some(error) = failed {
            return Err(Error::from(error).into());
        }
        verified?;
        Ok(())
    }
}

/// The body as a JSON object, or what it is instead. Nothing of it is quoted: it may hold secrets.
fn object(body: &[u8]) -> Result<Value, String> {
    if body.is_empty() {
        return Err("it is empty".to_owned());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(members)) => Ok(Value::Object(members)),
        Ok(other) => Err(match other {
            Value::Array(_) => "it is a list".to_owned(),
            Value::String(_) => "it is a string".to_owned(),
            Value::Number(_) => "it is a number".to_owned(),
            _ => format!("it is {other}"),
        }),
        Err(error) => Err(format!(
            "it is not JSON (line {}, column {})",
            error.line(),
            error.column()
        )),
    }
}

async fn read(body: Incoming) -> Result<Bytes, Failure> {
    let too_large = || Failure {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        error: Error::new(
            "RequestEntityTooLargeException",
            format!("The request body is larger than {LARGEST_BODY} bytes."),
        ),
    };
    if body.size_hint().lower() > LARGEST_BODY as u64 {
        return Err(too_large());
    }
    let whole = Limited::new(body, LARGEST_BODY).collect();
    match tokio::time::timeout(BODY_TIME, whole).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => {
            Err(Error::new("SerializationException", "The request body was cut short.").into())
        }
        Err(_) => Err(Failure {
            status: StatusCode::REQUEST_TIMEOUT,
            error: Error::new(
                "RequestTimeoutException",
                "The request body came too slowly.",
            ),
        }),
    }
}

fn no_such_place() -> Failure {
    Failure {
        status: StatusCode::NOT_FOUND,
        error: Error::new(
            "UnknownOperationException",
            "The ECS API answers POST requests to '/'.",
        ),
    }
}

fn response(status: StatusCode, body: &Value, id: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let json = HeaderValue::from_static("application/x-amz-json-1.1");
    headers.insert(http::header::CONTENT_TYPE, json);
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert("x-amzn-requestid", id);
    }
    if status == StatusCode::PAYLOAD_TOO_LARGE || status == StatusCode::REQUEST_TIMEOUT {
        // The rest of the body is not read: the connection cannot go on.
        headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
