use super::*;

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn nothing(_: &str) -> Option<String> {
    None
}

fn environment(set: &[(&str, &str)]) -> Registries {
    let find = |name: &str| {
        let found = set.iter().find(|(n, _)| *n == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    Registries::of_host(None, find).unwrap()
}

#[test]
fn the_file_of_the_how_to_is_read() {
    let page = include_str!("../../../../docs/how-to/private-registries.md");
    let from = page.find("```json").unwrap() + "```json".len();
    let example = &page[from..from + page[from..].find("```").unwrap()];
    let all = Registries::of_host(Some(file(example).path()), nothing).unwrap();
    assert_eq!(all.insecure, ["registry.lan:5000"]);
    let hub = all.registry("registry-1.docker.io").unwrap();
    assert_eq!(hub.mirrors, ["mirror.lan:5000/hub"]);
    let private = all.registry("Registry.Example").unwrap();
    assert!(private.client_certificate.is_some() && private.ca_files.len() == 1);
    let ecr = all.registry("images.example.org").unwrap().ecr.as_ref();
    assert_eq!(ecr.unwrap().region, "eu-west-1");
    assert_eq!(all.limits.inactivity(), Duration::from_secs(60));
}

#[test]
fn what_the_file_cannot_mean_is_refused_by_name() {
    for (text, said) in [
        ("{", "EOF"),
        (r#"{"insecur": []}"#, "unknown field `insecur`"),
        (
            r#"{"registries": {"a": {"mirror": []}}}"#,
            "unknown field `mirror`",
        ),
        (
            r#"{"limits": {"inactivitySeconds": 0}}"#,
            "between one second and a week",
        ),
    ] {
        let file = file(text);
        let error = Registries::of_host(Some(file.path()), nothing).unwrap_err();
        let error = error.to_string();
        let named = error.contains(&file.path().display().to_string());
        assert!(error.contains(said) && named, "{error}");
    }
    let error = Registries::of_host(Some(Path::new("/nonexistent/r.json")), nothing);
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("/nonexistent/r.json")
    );
}

#[test]
fn proxies_come_from_variables_of_either_case() {
    let all = environment(&[("HTTP_PROXY", ""), ("http_proxy", "a:1"), ("no_proxy", "x")]);
    assert_eq!(all.proxies.http_proxy, "a:1");
    assert_eq!(all.proxies.https_proxy, "");
    assert_eq!(all.proxies.no_proxy, "x");
    let all = environment(&[
        ("HTTPS_PROXY", "a:1"),
        ("https_proxy", "b:1"),
        ("ALL_PROXY", "c:1"),
    ]);
    assert_eq!(all.proxies.https_proxy, "a:1");
    assert_eq!(all.proxies.http_proxy, "c:1");
}

#[test]
fn logins_of_podman_and_docker_are_found_where_they_leave_them() {
    let files = |set: &[(&str, &str)]| {
        let found = environment(set).credential_files.into_iter();
        found.map(|f| f.display().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(
        files(&[
            ("HOME", "/h"),
            ("XDG_RUNTIME_DIR", "/x"),
            ("REGISTRY_AUTH_FILE", "/f.json")
        ]),
        [
            "/f.json",
            "/x/containers/auth.json",
            "/h/.config/containers/auth.json",
            "/h/.docker/config.json"
        ]
    );
    let own = format!(
        "/run/containers/{}/auth.json",
        rustix::process::geteuid().as_raw()
    );
    assert_eq!(
        files(&[
            ("HOME", "/h"),
            ("DOCKER_CONFIG", "/d"),
            ("XDG_CONFIG_HOME", "/c")
        ]),
        [&own, "/c/containers/auth.json", "/d/config.json"]
    );
    assert_eq!(files(&[]), [own]);
}

#[test]
fn debug_shows_no_secret() {
    let all = environment(&[
        ("HTTP_PROXY", "http://u:s3cr3t@p:1"),
        ("AWS_ACCESS_KEY_ID", "AKIA"),
        ("AWS_SECRET_ACCESS_KEY", "s3cr3t"),
        ("AWS_SESSION_TOKEN", "s3cr3t"),
    ]);
    assert!(all.aws_keys.is_some());
    assert!(!format!("{all:?}").contains("s3cr3t"));
}
