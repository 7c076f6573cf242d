"""The bundle that every runtime of the bench runs: what `runc spec` describes, with limits, in one place."""

import json
import os

CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
QUIET = ["nosuid", "noexec", "nodev"]


def mount(destination, kind, source, options):
    return {"destination": destination, "type": kind, "source": source, "options": options}


def config(rootfs, cgroup, args, seccomp=None):
    linux = {
        "cgroupsPath": cgroup,
        "resources": {
            "devices": [{"allow": False, "access": "rwm"}],
            "memory": {"limit": 128 << 20},
            "cpu": {"quota": 50_000, "period": 100_000},
            "pids": {"limit": 64},
        },
        "namespaces": [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount")],
        "maskedPaths": [
            "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
            "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
        ],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    }
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        linux["namespaces"].append({"type": "cgroup"})
    if seccomp:
        linux["seccomp"] = seccomp
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {name: CAPABILITIES for name in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": rootfs, "readonly": True},
        "hostname": "bench",
        "mounts": [
            mount("/proc", "proc", "proc", []),
            mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts",
                  ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", "shm", [*QUIET, "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", QUIET),
            mount("/sys", "sysfs", "sysfs", [*QUIET, "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", [*QUIET, "relatime", "ro"]),
        ],
        "linux": linux,
    }


def default_seccomp(path="/usr/share/containers/seccomp.json"):
    """podman's default profile as podman gives it to a runtime: its conditions resolved for this host."""
    with open(path) as file:
        profile = json.load(file)
    machine = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}[os.uname().machine]
    short = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    native = next(entry for entry in profile["archMap"] if entry["architecture"] == machine)

    def holds(condition, every):
        answers = [name in CAPABILITIES for name in condition.get("caps") or []]
        answers += [short in condition["arches"]] if condition.get("arches") else []
        return every(answers)

    rules = []
    for rule in profile["syscalls"]:
        wanted = holds(rule.get("includes") or {}, all) and not holds(rule.get("excludes") or {}, any)
        if wanted:
            kept = {key: rule[key] for key in ("names", "action", "args") if rule.get(key)}
            if rule["action"] == "SCMP_ACT_ERRNO":
                kept["errnoRet"] = rule.get("errnoRet", 1)
            rules.append(kept)
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile.get("defaultErrnoRet", 1),
        "architectures": [machine, *native["subArchitectures"]],
        "syscalls": rules,
    }


def write(folder, *arguments, **named):
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/config.json", "w") as file:
        json.dump(config(*arguments, **named), file)
    return folder
