use super::*;

fn transport(insecure: &[&str]) -> Transport {
    Transport::new(&Registries {
        insecure: insecure.iter().map(|name| (*name).to_owned()).collect(),
        ..Registries::default()
    })
    .unwrap()
}

fn from(uri: &str) -> Uri {
    uri.parse().unwrap()
}

#[test]
fn plain_http_is_for_loopback_and_those_named() {
    let t = transport(&["Plain.example:5000"]);
    for yes in [
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1:5000",
        "127.9.9.9",
        "[::1]:5000",
        "plain.example:5000",
    ] {
        assert!(t.may_be_plain(yes), "{yes}");
    }
    for no in [
        "plain.example",
        "plain.example:5001",
        "localhost.example",
        "128.0.0.1",
        "127.0.0.1.example",
        "[::2]",
        "",
    ] {
        assert!(!t.may_be_plain(no), "{no}");
    }
}

#[test]
fn a_redirect_to_plain_http_is_refused_unless_both_ends_are_plain() {
    let t = transport(&[]);
    let check = |a: &str, b: &str| t.check_redirect(&from(a), &from(b));
    assert!(check("https://127.0.0.1/", "http://127.0.0.1/").is_err());
    assert!(check("http://127.0.0.1/", "http://169.254.169.254/").is_err());
    assert!(check("http://127.0.0.1/", "http://127.0.0.2/").is_ok());
    assert!(check("http://127.0.0.1/", "https://cdn.io/").is_ok());
    assert!(check("https://a/", "https://b/").is_ok());
}

#[tokio::test]
async fn a_registry_that_never_answers_is_given_up_by_name() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = silent.local_addr().unwrap().to_string();
    let mut t = transport(&[]);
    t.limits.inactivity_seconds = 1;
    let ask = Ask {
        step: "fetch manifest",
        subject: "x",
        method: Method::GET,
        authority: &authority,
        path: "/v2/",
        https_only: false,
        accept: None,
        from: 0,
        post: None,
        deadline: t.deadline(),
        has_other: false,
    };
    let Err(Fault::Unreachable(error)) = t.send(&ask, None).await else {
        panic!("it answered");
    };
    assert!(error.to_string().contains("no answer for 1 s"), "{error}");
    drop(silent);
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_unreachable() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = gone.local_addr().unwrap().to_string();
    drop(gone);
    let t = transport(&[]);
    let ask = Ask {
        step: "fetch manifest",
        subject: "x",
        method: Method::GET,
        authority: &authority,
        path: "/v2/",
        https_only: false,
        accept: None,
        from: 0,
        post: None,
        deadline: t.deadline(),
        has_other: false,
    };
    let Err(Fault::Unreachable(error)) = t.send(&ask, None).await else {
        panic!("it answered");
    };
    assert!(error.to_string().contains("Connection refused"), "{error}");
    let named = format!("registry {authority} cannot be reached");
    assert!(error.to_string().contains(&named), "{error}");
}
