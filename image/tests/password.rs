//! A real registry that wants a password: Debian's docker-registry with a password file. Needs root, as unpacking does.

mod docker_registry;
mod registry;
mod visit;

use std::process::Command;

use docker_registry::{DockerRegistry, layout, run};
use longshore_image::{Registries, Store};
use registry::tar_of;
use visit::Login;

const USER: &str = "captain";
const PASSWORD: &str = "sea";
/// Of both: htpasswd's bcrypt form, the only one that the registry takes.
const PASSWORD_FILE: &str =
    "captain:$2b$05$adkfUsUOsDTojtAixOxdAuWcaLjmzTkg/k7xwCAh/K0/lni/1EbeG\n";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn an_image_behind_a_password_is_pulled_with_the_right_one_only() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("passwords");
    std::fs::write(&file, PASSWORD_FILE).unwrap();
    let access = format!(
        "auth: {{htpasswd: {{realm: harbour, path: {}}}}}\n",
        file.display()
    );
    let registry = DockerRegistry::start(dir.path(), &access);
    let reference = format!("{}/quay/crane:t", registry.authority);
    let source = layout(dir.path(), &[tar_of(&[("f", b"x")])]);
    run(
        "skopeo",
        Command::new("skopeo")
            .args(["copy", "--dest-tls-verify=false", "--dest-creds"])
            .arg(format!("{USER}:{PASSWORD}"))
            .arg(format!("oci:{}:t", source.display()))
            .arg(format!("docker://{reference}")),
    );
    let pull = async |name: &str, registries: Registries| {
        let store = Store::open(&dir.path().join(name), registries).unwrap();
        store.pull(&reference, |_| {}).await
    };
    let right = Login::new(&registry.authority, USER, PASSWORD);
    let wrong = Login::new(&registry.authority, USER, "land");
    let image = pull("right", right.registries()).await.unwrap();
    assert_eq!(image.layers.len(), 1);
    for (name, registries) in [
        ("none", Registries::default()),
        ("wrong", wrong.registries()),
    ] {
        let refused = pull(name, registries).await.unwrap_err().to_string();
        assert!(refused.contains("unauthorized"), "{name}: {refused}");
        assert!(!refused.contains("land"), "{refused}");
    }
}
