//! Who makes the cgroups of the tests' containers: the runtime itself or, where LONGSHORE_TEST_DRIVER=systemd, systemd.

/// Where a container's group is under the driver.
#[derive(Debug)]
pub(crate) struct Place {
    /// As `linux.cgroupsPath` names it.
    pub(crate) spec: String,
    /// From the roots of the hierarchies.
    pub(crate) group: String,
}

pub(crate) fn is_systemd() -> bool {
    std::env::var_os("LONGSHORE_TEST_DRIVER").is_some_and(|driver| driver == "systemd")
}

/// Flags of the runtime that choose the driver.
pub(crate) fn flags() -> &'static [&'static str] {
    match is_systemd() {
        true => &["--systemd-cgroup"],
        false => &[],
    }
}

/// The group that cgroupfs has at `path`, which is `PARENT/NAME` or a name alone; systemd has a scope of that name.
pub(crate) fn place(path: &str) -> Place {
    if !is_systemd() {
        return Place {
            spec: format!("/{path}"),
            group: path.to_owned(),
        };
    }
    let (prefix, name) = path.split_once('/').unwrap_or(("longshore-test", path));
    Place {
        spec: format!("system.slice:{prefix}:{name}"),
        group: format!("system.slice/{prefix}-{name}.scope"),
    }
}
