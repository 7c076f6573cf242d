"""Runs inside the guest: containers from the command line, under both cgroup drivers, on systemd and pure cgroup v2."""

import json
import os
import shutil
import subprocess
import time

# Not below /run, which systemd mounts noexec.
WORK = "/var/lib/job/containers"
ROOT = "/sys/fs/cgroup"


failed = []


def check(what, holds, detail=""):
    """Goes on after a failure: the guest is slow to start, and all that is wrong shows in one run."""
    if not holds:
        failed.append(what)
    print(f"passed: {what}" if holds else f"FAILED: {what} {detail}", flush=True)


def read(path):
    with open(path) as file:
        return file.read().strip()


def command(driver, *args):
    return ["longshore-runtime", "--root", f"{WORK}/state", "--cgroup-manager", driver, *args]


def runtime(*args, driver="cgroupfs", code=0):
    done = subprocess.run(command(driver, *args), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    detail = f"{done.returncode} {done.stdout} {done.stderr}"
    check(f"[{driver}] {' '.join(args)[:60]}", (done.returncode == 0) == (code == 0), detail)
    return done.stdout if code == 0 else done.stderr


def run_detached(name, driver):
    """Its output goes nowhere: a pipe would be held open by the container."""
    run = command(driver, "run", "-d", "--bundle", f"{WORK}/{name}", name)
    nothing = subprocess.DEVNULL
    with open(f"{WORK}/{name}.err", "w") as errors:
        done = subprocess.run(run, stdin=nothing, stdout=nothing, stderr=errors, timeout=120)
    check(f"[{driver}] run -d {name}", done.returncode == 0, read(f"{WORK}/{name}.err"))


def systemctl(name, unit):
    return subprocess.run(["systemctl", "show", "-P", name, unit], stdout=subprocess.PIPE, text=True).stdout.strip()


def bundle(name, path, args, resources):
    folder = f"{WORK}/{name}"
    os.makedirs(f"{folder}/rootfs/bin")
    for empty in ("proc", "dev", "sys", "tmp"):
        os.mkdir(f"{folder}/rootfs/{empty}")
    shutil.copy("/job/bin/busybox", f"{folder}/rootfs/bin/busybox")
    for applet in ("sh", "sleep", "cat", "dd", "true"):
        os.symlink("busybox", f"{folder}/rootfs/bin/{applet}")
    subprocess.run(["longshore-runtime", "spec", "--bundle", folder], check=True)
    with open(f"{folder}/config.json") as file:
        spec = json.load(file)
    spec["process"].update(args=args, terminal=False)
    spec["root"]["readonly"] = False
    spec["linux"].setdefault("resources", {}).update(resources)
    if path is None:
        spec["linux"].pop("cgroupsPath", None)
    else:
        spec["linux"]["cgroupsPath"] = path
    with open(f"{folder}/config.json", "w") as file:
        json.dump(spec, file)


LIMITS = {
    "memory": {"limit": 67108864, "swap": 67108864, "reservation": 33554432},
    "cpu": {"shares": 512, "quota": 20000, "period": 100000, "cpus": "0"},
    "pids": {"limit": 33},
    "unified": {"memory.high": "60000000"},
}


def files_are(group, **wanted):
    for name, value in wanted.items():
        file = name.replace("_", ".", 1) if name != "memory_swap_max" else "memory.swap.max"
        check(f"{file} is {value}", read(f"{ROOT}/{group}/{file}") == value, read(f"{ROOT}/{group}/{file}"))


def knows(unit, **wanted):
    for name, value in wanted.items():
        check(f"systemd knows {name} {value}", systemctl(name, unit) == value, systemctl(name, unit))


def limited(name, group, driver, unit=None):
    pid = json.loads(runtime("state", name, driver=driver))["pid"]
    check("init is in its group", read(f"/proc/{pid}/cgroup") == f"0::/{group}", read(f"/proc/{pid}/cgroup"))
    files_are(group, memory_max="67108864", memory_swap_max="0", memory_low="33554432", memory_high="59998208",
              cpu_weight="59", cpu_max="20000 100000", cpuset_cpus="0", pids_max="33")
    out = runtime("exec", name, "cat", "/proc/self/cgroup", driver=driver)
    check("exec enters the group", out.strip() in ("0::/", f"0::/{group}"), out)
    script = "dd if=/dev/zero of=/dev/null count=1 && exec 3</dev/null && echo fine"
    done = runtime("exec", name, "sh", "-c", script, driver=driver)
    check("the usual devices are open", "fine" in done, done)
    if unit:
        knows(unit, MemoryMax="67108864", CPUWeight="59", CPUQuotaPerSecUSec="200ms", Delegate="yes")


def updated(name, group, driver, unit=None):
    limits = ["--memory", "50331648", "--memory-swap", "100663296", "--cpu-share", "1024", "--pids-limit", "44"]
    runtime("update", *limits, name, driver=driver)
    for _ in range(2):
        files_are(group, memory_max="50331648", memory_swap_max="50331648", cpu_weight="100",
                  pids_max="44", cpu_max="20000 100000")
        if not unit:
            break
        # After the reload systemd writes its own idea of the limits, which must be the same.
        knows(unit, CPUWeight="100", MemoryMax="50331648", TasksMax="44")
        subprocess.run(["systemctl", "daemon-reload"], check=True)


def paused(name, group, driver):
    runtime("pause", name, driver=driver)
    check("it is frozen", "frozen 1" in read(f"{ROOT}/{group}/cgroup.events"))
    check("it says so", json.loads(runtime("state", name, driver=driver))["status"] == "paused")
    runtime("resume", name, driver=driver)
    check("it runs on", "frozen 0" in read(f"{ROOT}/{group}/cgroup.events"))


def counted(name, driver):
    event = json.loads(runtime("events", "--stats", name, driver=driver))
    data = event["data"]
    check("statistics have runc's shape", event["type"] == "stats" and data["memory"]["usage"]["usage"] > 0, str(event))
    check("statistics tell pressure", "psi" in data["cpu"] or not os.path.exists(f"{ROOT}/cpu.pressure"), str(data["cpu"]))


def removed(name, group, driver, unit=None):
    runtime("delete", "--force", name, driver=driver)
    check("its group is gone", not os.path.exists(f"{ROOT}/{group}"))
    if unit:
        state = systemctl("LoadState", unit)
        check("its unit is gone", state == "not-found", state)


def under_cgroupfs():
    bundle("fs", "/longshore-test/fs", ["sleep", "1000"], LIMITS)
    run_detached("fs", "cgroupfs")
    group = "longshore-test/fs"
    limited("fs", group, "cgroupfs")
    counted("fs", "cgroupfs")
    updated("fs", group, "cgroupfs")
    paused("fs", group, "cgroupfs")
    runtime("pause", "fs")
    removed("fs", group, "cgroupfs")
    os.rmdir(f"{ROOT}/longshore-test")


def under_systemd():
    bundle("sd", "longshore-test.slice:test:sd", ["sleep", "1000"], LIMITS)
    run_detached("sd", "systemd")
    unit = "test-sd.scope"
    group = f"longshore.slice/longshore-test.slice/{unit}"
    check("systemd agrees on the group", systemctl("ControlGroup", unit) == f"/{group}", systemctl("ControlGroup", unit))
    limited("sd", group, "systemd", unit)
    counted("sd", "systemd")
    updated("sd", group, "systemd", unit)
    paused("sd", group, "systemd")
    removed("sd", group, "systemd", unit)
    # Without a path, and twice: nothing of the first is in the way of the second.
    bundle("twice", None, ["true"], {})
    for _ in range(2):
        runtime("run", "--bundle", f"{WORK}/twice", "twice", driver="systemd")
    check("nothing is left of it", systemctl("LoadState", "longshore-twice.scope") == "not-found")
    bundle("wrong", "/a/b", ["true"], {})
    error = runtime("run", "--bundle", f"{WORK}/wrong", "wrong", driver="systemd", code=1)
    check("a path is refused by its form", "SLICE:PREFIX:NAME" in error, error)


def below_a_delegated_scope():
    """What is above a scope that systemd has delegated stays as systemd has it."""
    scope_around = ["systemd-run", "--quiet", "--scope", "--unit", "holder", "-p", "Delegate=yes"]
    holder = subprocess.Popen([*scope_around, "sleep", "1000"])
    scope = f"{ROOT}/system.slice/holder.scope"
    while not os.path.exists(scope) or not read(f"{scope}/cgroup.procs"):
        time.sleep(0.05)
    os.mkdir(f"{scope}/leaf")
    for pid in read(f"{scope}/cgroup.procs").split():
        with open(f"{scope}/leaf/cgroup.procs", "w") as file:
            file.write(pid)
    above = [f"{ROOT}/cgroup.subtree_control", f"{ROOT}/system.slice/cgroup.subtree_control"]
    before = [read(path) for path in above]
    bundle("below", "/system.slice/holder.scope/c", ["sleep", "1000"], LIMITS)
    run_detached("below", "cgroupfs")
    check("controllers above the scope are left alone", [read(path) for path in above] == before)
    limited("below", "system.slice/holder.scope/c", "cgroupfs")
    removed("below", "system.slice/holder.scope/c", "cgroupfs")
    holder.kill()
    holder.wait()


os.makedirs(WORK)
for part in (under_cgroupfs, below_a_delegated_scope, under_systemd):
    try:
        part()
    except Exception as error:
        check(f"{part.__name__} comes to its end", False, repr(error))
if failed:
    raise SystemExit(f"FAILED: {len(failed)} checks of containers")
print("passed: containers under both cgroup drivers", flush=True)
