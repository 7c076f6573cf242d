//! Create: mount the root, find the user in it, write the files of /etc, compose the spec, and let the
//! runtime bring init to the point before execve.

use std::fs::{OpenOptions, Permissions};
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use longshore_engine::{ContainerKey, ContainerSpec, Event, Failure, NetworkMode};
use longshore_image::{Image, ImageConfiguration};
use longshore_network::Attachment;
use longshore_runtime::container::{Launch, State};

use super::prepare::make_group;
use super::{ThisHost, blocking, failure, log_dir, target};
use crate::cgroups;
use crate::driver::{Order, Target};
use crate::instance::make_private_dir;
use crate::oci::{self, EtcFiles, HostFiles, Inputs};

pub(super) async fn run(host: Arc<ThisHost>, order: Order, key: ContainerKey) -> Event {
    let asked = key.clone();
    let result = blocking(move || {
        let target = target(&order, &asked)?;
        if is_made(&host, target)? {
            return Ok(());
        }
        create(&host, &order, target)
    });
    match result.await {
        Ok(()) => Event::Created(key),
        Err(failure) => Event::CreateFailed(key, failure),
    }
}

/// Whether an earlier run of this effect made it: then it lives, or has run to its end since. A half-made
/// one is removed.
fn is_made(host: &ThisHost, target: &Target) -> Result<bool, Failure> {
    let Some(container) = host.container(&target.runtime_id) else {
        return Ok(false);
    };
    match container.state().map_err(|e| refuse(&e))? {
        State::Created { .. } | State::Running { .. } => Ok(true),
        State::Stopped(exit) if exit.started => Ok(true),
        State::Stopped(_) | State::Creating | State::MonitorLost => {
            container.delete().map_err(|e| refuse(&e))?;
            Ok(false)
        }
    }
}

fn create(host: &ThisHost, order: &Order, target: &Target) -> Result<(), Failure> {
    let container = &order.task.containers[target.key.index];
    let id = target.runtime_id.as_str();
    let image = image_of(host, target)?;
    let attachment = attachment_of(host, order, id)?;
    // A reboot since Prepare has taken the task's group.
    make_group(host, &order.task)?;
    let root = match order.task.ephemeral_storage {
        None => host.images.mount_root(id, &image),
        Some(_) => host
            .images
            .mount_root_on(order.task.id.as_str(), id, &image),
    };
    let root = root.map_err(|e| refuse(&e))?;
    let wanted = user_name(container, &image.config);
    let user = longshore_image::resolve_user(root.as_fd(), &wanted).map_err(|e| refuse(&e))?;
    let etc = host.etc_dir(id);
    let task_cgroup = host.task_cgroup(&order.task.id);
    let inputs = Inputs {
        task: &order.task,
        container,
        runtime_id: id,
        image: &image.config,
        user: &user,
        attachment: attachment.as_ref(),
        policy: &host.policy,
        etc: &etc,
        task_cgroup: &task_cgroup,
        host: &host.facts,
    };
    let spec = oci::compose(&inputs)?;
    let files = EtcFiles::compose(
        order.task.network,
        &oci::hostname(&inputs),
        attachment.as_ref(),
        &host_files(),
    );
    write_etc(&etc, &files).map_err(|e| refuse(&e))?;
    cgroups::bound_monitors(host);
    let launch = Launch {
        id,
        spec: &spec,
        root,
        run_dir: &host.run_dir(id),
        log_dir: &log_dir(&host.instance, &order.task.id, id),
        monitor_cgroup: &host.monitors_cgroup(),
    };
    let created = host.runtime.create(launch).map_err(|e| refuse(&e))?;
    for warning in created.warnings {
        tracing::warn!(task = order.task.id.as_str(), container = id, "{warning}");
    }
    Ok(())
}

fn refuse(cause: &dyn std::fmt::Display) -> Failure {
    failure("CannotCreateContainerError", cause)
}

fn image_of(host: &ThisHost, target: &Target) -> Result<Image, Failure> {
    let digest = target
        .image_digest
        .as_deref()
        .ok_or_else(|| refuse(&"find image: it was never pulled"))?;
    host.images
        .image(digest)
        .map_err(|e| refuse(&e))?
        .ok_or_else(|| {
            refuse(&format!(
                "find image {digest}: it has left the store since it was pulled; run the task again"
            ))
        })
}

/// The network that `Attach` made; a reboot since then has taken it.
fn attachment_of(host: &ThisHost, order: &Order, id: &str) -> Result<Option<Attachment>, Failure> {
    if order.task.network == NetworkMode::Host {
        return Ok(None);
    }
    match host.network.attachment(id) {
        Some(attachment) => Ok(Some(attachment)),
        None => Err(refuse(&format!(
            "find network of {id}: it is gone, the host has restarted; run the task again"
        ))),
    }
}

/// The definition's user, else the image's, else root.
fn user_name(container: &ContainerSpec, image: &ImageConfiguration) -> String {
    let given = |name: &String| !name.is_empty();
    let of_image = || image.config().as_ref().and_then(|c| c.user().clone());
    container
        .user
        .clone()
        .filter(given)
        .or_else(|| of_image().filter(given))
        .unwrap_or_else(|| "0".to_owned())
}

/// The host's own files; a host without them has nothing to hand on. Where systemd-resolved listens on
/// loopback, its other file has the servers behind it.
fn host_files() -> HostFiles {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut resolv_conf = read("/etc/resolv.conf");
    if resolv_conf.contains("127.0.0.53") {
        let behind = read("/run/systemd/resolve/resolv.conf");
        if !behind.is_empty() {
            resolv_conf = behind;
        }
    }
    HostFiles {
        hosts: read("/etc/hosts"),
        resolv_conf,
    }
}

/// World-readable, because programs of any user in the container read them; their directory is not.
fn write_etc(dir: &Path, files: &EtcFiles) -> std::io::Result<()> {
    make_private_dir(dir)?;
    let contents = [
        ("hosts", &files.hosts),
        ("hostname", &files.hostname),
        ("resolv.conf", &files.resolv_conf),
    ];
    for (name, content) in contents {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .open(dir.join(name))?;
        // Whatever the agent's umask is.
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(content.as_bytes())?;
    }
    Ok(())
}
