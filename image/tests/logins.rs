//! Who we are to registries: logins, challenges, token services, Amazon ECR. No privilege needed.

mod faulty;
mod registry;
mod visit;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use faulty::{Asked, Reply, Server, reply};
use longshore_image::{AwsKeys, Ecr, Limits, Registries, Registry as Settings, Store};
use registry::{Auth, PASSWORD, TOKEN};
use serde_json::json;
use visit::{Login, pair, pull, registry_with, settings};

#[tokio::test]
async fn logins_of_a_file_and_of_a_helper_open_a_registry() {
    let registry = registry_with(Auth::Token).await;
    let (host, reference) = (&registry.authority, registry.reference("a/b:t"));
    let login = Login::new(host, "user", PASSWORD);
    pull(login.registries(), &reference).await.unwrap();

    let dir = tempfile::tempdir().unwrap();
    let helper = dir.path().join("helper");
    let answer = json!({"ServerURL": host, "Username": "user", "Secret": PASSWORD});
    std::fs::write(
        &helper,
        format!("#!/bin/sh\nread -r server\n[ \"$server\" = {host} ] && echo '{answer}'\n"),
    )
    .unwrap();
    let run = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&helper, run).unwrap();
    login.write(json!({"credHelpers": {host: helper.display().to_string()}}));
    pull(login.registries(), &reference).await.unwrap();

    // A helper that fails must not turn a pull into an anonymous one.
    login.write(json!({"credHelpers": {host: "/nonexistent/helper"}}));
    let error = pull(login.registries(), &reference).await;
    let error = error.unwrap_err();
    assert!(error.contains("/nonexistent/helper"), "{error}");
    let nobody = pull(Registries::default(), &reference).await.unwrap_err();
    assert!(nobody.contains("unauthorized"), "{nobody}");
}

/// As Amazon ECR answers a password that has ended: by 403, without a challenge.
#[tokio::test]
async fn a_login_that_is_no_longer_good_is_looked_up_anew() {
    let good = Arc::new(std::sync::Mutex::new(pair("user", "old")));
    let wanted = Arc::clone(&good);
    let server = Server::start(move |asked: &Asked| match asked.header("authorization") {
        None => reply("401 Unauthorized", &[("www-authenticate", "Basic")], ""),
        Some(given) if given == format!("Basic {}", wanted.lock().unwrap()) => {
            reply("404 Not Found", &[], "")
        }
        Some(_) => reply("403 Forbidden", &[], ""),
    })
    .await;
    let (host, dir) = (&server.authority, tempfile::tempdir().unwrap());
    let login = Login::new(host, "user", "old");
    let store = Store::open(&dir.path().join("store"), login.registries()).unwrap();
    let reference = format!("{host}/a:t");
    for password in ["old", "new"] {
        *good.lock().unwrap() = pair("user", password);
        login.write(json!({"auths": {host: {"auth": pair("user", password)}}}));
        let answer = store.pull(&reference, |_| {}).await.unwrap_err();
        assert!(answer.to_string().contains("unknown image"), "{answer}");
    }
}

/// The login would go in the clear to whoever listens there.
#[tokio::test]
async fn a_realm_that_says_https_is_never_asked_in_the_clear() {
    let heard = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&heard);
    let plain = Server::start(move |_: &Asked| {
        counter.fetch_add(1, Ordering::Relaxed);
        reply("200 OK", &[], "{\"token\": \"t\"}")
    })
    .await;
    let challenge = format!("Bearer realm=\"https://{}/t\"", plain.authority);
    let server = Server::start(move |_: &Asked| {
        reply("401 Unauthorized", &[("www-authenticate", &challenge)], "")
    })
    .await;
    let host = &server.authority;
    let error = pull(user(host).registries(), &format!("{host}/a:t"))
        .await
        .unwrap_err();
    assert!(error.contains("does not speak TLS"), "{error}");
    assert_eq!(heard.load(Ordering::Relaxed), 0);
}

/// Stands before a registry that wants `token`: passes challenged requests by with these challenges.
async fn guarded(challenges: &'static [&'static str], good: &'static [&'static str]) -> Server {
    Server::start(move |asked: &Asked| {
        let authorization = asked.header("authorization").unwrap_or_default();
        if good.contains(&authorization) {
            return reply("404 Not Found", &[], "");
        }
        let headers: Vec<_> = challenges
            .iter()
            .map(|c| ("www-authenticate", *c))
            .collect();
        reply("401 Unauthorized", &headers, "")
    })
    .await
}

fn user(registry: &str) -> Login {
    Login::new(registry, "user", PASSWORD)
}

#[tokio::test]
async fn the_challenge_that_can_be_met_is_met_wherever_it_stands() {
    const BASIC: &[&str] = &["Basic dXNlcjpwNHNzdzByZC10aGF0LW5vYm9keS1tYXktc2Vl"];
    for challenges in [
        &["Negotiate", "Basic realm=\"x\""][..],
        &["Negotiate, Digest realm=\"y\", Basic realm=\"x\""],
        // A realm that must not be followed does not keep us from what else is offered.
        &[
            "Bearer realm=\"http://192.0.2.1/token\"",
            "Basic realm=\"x\"",
        ],
    ] {
        let server = guarded(challenges, BASIC).await;
        let reference = format!("{}/a:t", server.authority);
        let login = user(&server.authority);
        let error = pull(login.registries(), &reference).await.unwrap_err();
        assert!(error.contains("unknown image"), "{challenges:?}: {error}");
    }
    let server = guarded(&["Negotiate"], &[]).await;
    let reference = format!("{}/a:t", server.authority);
    let login = user(&server.authority);
    let error = pull(login.registries(), &reference).await.unwrap_err();
    assert!(error.contains("unauthorized"), "{error}");
    assert!(
        server
            .asked()
            .iter()
            .all(|a| a.header("authorization").is_none())
    );
}

#[tokio::test]
async fn an_identity_token_is_exchanged_by_post_and_an_old_token_before_it_is_refused() {
    let registry = registry_with(Auth::Token).await;
    // Each token is old at once, so each request needs a new one.
    let tokens = Server::start(|_| {
        reply(
            "200 OK",
            &[],
            format!(r#"{{"access_token":"{TOKEN}","expires_in":0}}"#),
        )
    })
    .await;
    let realm = format!("http://{}/token", tokens.authority);
    registry.state().realm = Some(realm);
    let login = Login::of(json!({"auths": {&registry.authority: {"identitytoken": "r3fr3sh&"}}}));
    pull(login.registries(), &registry.reference("a/b:t"))
        .await
        .unwrap();
    let asked = tokens.asked();
    assert_eq!(asked[0].line, "POST /token");
    assert_eq!(asked[0].header("authorization"), None);
    assert_eq!(
        asked[0].body,
        "grant_type=refresh_token&client_id=longshore&service=fake&scope=repository:a/b:pull&refresh_token=r3fr3sh%26"
    );
    // Manifest, configuration, layer; only the first of them was refused before.
    assert_eq!(asked.len(), 3);
    assert_eq!(registry.state().refused, 1);
}

#[tokio::test]
async fn a_user_of_ecr_is_fetched_with_a_signed_call_and_kept() {
    let registry = registry_with(Auth::Basic).await;
    let token = pair("user", PASSWORD);
    let ecr = Server::start(move |_| {
        let data = json!({"authorizationToken": token, "expiresAt": 4e9});
        reply(
            "200 OK",
            &[],
            json!({"authorizationData": [data]}).to_string(),
        )
    })
    .await;
    let mut registries = settings(
        &registry.authority,
        Settings {
            ecr: Some(Ecr {
                region: "eu-west-1".into(),
                endpoint: Some(format!("http://{}", ecr.authority)),
            }),
            ..Settings::default()
        },
    );
    let reference = registry.reference("a/b:t");
    let error = pull(registries.clone(), &reference).await.unwrap_err();
    assert!(error.contains("give it credentials"), "{error}");
    registries.aws_keys = Some(AwsKeys {
        access_key_id: "AKID".into(),
        secret_access_key: "s3cr3t".into(),
        session_token: Some("s3ssion".into()),
    });
    pull(registries, &reference).await.unwrap();
    let asked = ecr.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        (asked[0].line.as_str(), asked[0].body.as_str()),
        ("POST /", "{}")
    );
    let target = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken";
    assert_eq!(asked[0].header("x-amz-target"), Some(target));
    assert_eq!(asked[0].header("x-amz-security-token"), Some("s3ssion"));
    let signed = asked[0].header("authorization").unwrap();
    assert!(signed.contains("Credential=AKID/") && signed.contains("/eu-west-1/ecr/"));
    assert!(!asked[0].headers.contains("s3cr3t"));
}

#[tokio::test]
async fn ecrs_refusal_is_told_in_its_words() {
    let registry = registry_with(Auth::Basic).await;
    let ecr = Server::start(|_| {
        let said = json!({"__type": "a#AccessDeniedException", "Message": "no right"});
        reply("400 Bad Request", &[], said.to_string())
    })
    .await;
    let mut registries = settings(
        &registry.authority,
        Settings {
            ecr: Some(Ecr {
                region: "x".into(),
                endpoint: Some(format!("http://{}", ecr.authority)),
            }),
            ..Settings::default()
        },
    );
    registries.aws_keys = Some(AwsKeys {
        access_key_id: "AKID".into(),
        secret_access_key: "s3cr3t".into(),
        session_token: None,
    });
    let error = pull(registries, &registry.reference("a/b:t")).await;
    let error = error.unwrap_err();
    assert!(
        error.contains("(AccessDeniedException: no right)"),
        "{error}"
    );
}

/// Of whoever we are sent to for a token: an answer that never begins, never ends, or is none.
#[tokio::test]
async fn a_token_service_that_answers_badly_is_named_and_holds_no_pull() {
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
    type Answer = fn() -> Reply;
    let answers: [(Answer, &str); 8] = [
        (|| Reply::Hang(Vec::new()), "no answer for 1 s"),
        (|| Reply::Hang([HEAD, b"{"].concat()), "no byte for 1 s"),
        (
            || Reply::Trickle([HEAD, &[b' '; 9000]].concat()),
            "not done in time",
        ),
        (|| Reply::Endless(HEAD.to_vec()), "more than 262144 bytes"),
        (|| reply("200 OK", &[], "[]"), "no usable token"),
        (
            || reply("200 OK", &[], r#"{"token":"a\nb"}"#),
            "no usable token",
        ),
        (|| reply("200 OK", &[], vec![b'['; 9000]), "no usable token"),
        (
            || reply("307 Temporary Redirect", &[("location", "/")], ""),
            "redirected more",
        ),
    ];
    for (answer, said) in answers {
        let tokens = Server::start(move |_| answer()).await;
        let registry = registry_with(Auth::Token).await;
        registry.state().realm = Some(format!("http://{}/token", tokens.authority));
        let mut registries = user(&registry.authority).registries();
        registries.limits = Limits {
            inactivity_seconds: 1,
            total_seconds: 2,
            ..Limits::default()
        };
        let error = pull(registries, &registry.reference("a/b:t")).await;
        let error = error.unwrap_err();
        assert!(error.contains(said), "{said}: {error}");
        assert!(error.contains(&tokens.authority), "{error}");
    }
}

/// What a refusal says is foreign, and need not end.
#[tokio::test]
async fn the_body_of_a_refusal_is_bounded_in_time_and_size() {
    const HEAD: &[u8] = b"HTTP/1.1 403 Forbidden\r\n\r\n";
    let bodies: [fn() -> Reply; 3] = [
        || Reply::Hang(HEAD.to_vec()),
        || Reply::Endless(HEAD.to_vec()),
        || Reply::Trickle([HEAD, &[b' '; 9000]].concat()),
    ];
    for body in bodies {
        let server = Server::start(move |_| body()).await;
        let registries = Registries {
            limits: Limits {
                inactivity_seconds: 1,
                total_seconds: 2,
                ..Limits::default()
            },
            ..Registries::default()
        };
        let reference = format!("{}/a:t", server.authority);
        let error = pull(registries, &reference).await.unwrap_err();
        assert!(error.contains("answered 403 Forbidden"), "{error}");
    }
}

/// A registry that is busy for longer than we wait says for how long; one that says "now" is given a moment.
#[tokio::test]
async fn how_long_a_registry_wants_to_be_left_alone_is_told() {
    let server =
        Server::start(|_| reply("429 Too Many Requests", &[("retry-after", "99")], "")).await;
    let reference = format!("{}/a:t", server.authority);
    let error = pull(Registries::default(), &reference).await.unwrap_err();
    assert!(error.contains("left alone for 99 s"), "{error}");
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_refusal_says_where_logins_are_looked_for() {
    let registry = registry_with(Auth::Basic).await;
    let there = Login::of(json!({}));
    let mut registries = there.registries();
    let missing = there.path().with_extension("typo");
    registries.credential_files.push(missing.clone());
    let error = pull(registries, &registry.reference("a/b:t")).await;
    let error = error.unwrap_err();
    let missing = format!("{} (which is not there)", missing.display());
    let places = format!("looked for in {}, {missing}", there.path().display());
    assert!(error.contains(&places), "{error}");

    let broken = Login::of(json!({"auths": {&registry.authority: {"auth": "s3cr3t!"}}}));
    let error = pull(broken.registries(), &registry.reference("a/b:t")).await;
    let error = error.unwrap_err();
    let named = format!("read credentials {}", broken.path().display());
    assert!(
        error.contains(&named) && !error.contains("s3cr3t"),
        "{error}"
    );
}

#[tokio::test]
async fn many_pulls_at_once_cost_one_token() {
    let registry = registry_with(Auth::Token).await;
    let login = user(&registry.authority);
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), login.registries()).unwrap();
    let reference = registry.reference("a/b:t");
    // None is answered before all have been challenged.
    let pulls = (0..10).map(|_| store.pull(&reference, |_| {}));
    for pulled in futures_util::future::join_all(pulls).await {
        pulled.unwrap();
    }
    assert_eq!(registry.count("/token"), 1);
}

#[tokio::test]
async fn repositories_of_ecr_share_one_user() {
    let registry = registry_with(Auth::Basic).await;
    registry.push("c/d", "t", &[registry::tar_of(&[("f", b"y")])]);
    let token = pair("user", PASSWORD);
    let ecr = Server::start(move |_| {
        let data = json!({"authorizationToken": token, "expiresAt": 4e9});
        let answer = json!({"authorizationData": [data]});
        reply("200 OK", &[], answer.to_string())
    })
    .await;
    let own = Settings {
        ecr: Some(Ecr {
            region: "eu-west-1".into(),
            endpoint: Some(format!("http://{}", ecr.authority)),
        }),
        ..Settings::default()
    };
    let mut registries = settings(&registry.authority, own);
    registries.aws_keys = Some(AwsKeys {
        access_key_id: "AKID".into(),
        secret_access_key: "s3cr3t".into(),
        session_token: None,
    });
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), registries).unwrap();
    let (one, other) = (registry.reference("a/b:t"), registry.reference("c/d:t"));
    let (one, other) = tokio::join!(store.pull(&one, |_| {}), store.pull(&other, |_| {}));
    one.unwrap();
    other.unwrap();
    assert_eq!(ecr.asked().len(), 1);
}
