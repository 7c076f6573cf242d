"""Times runtimes side by side in one run, interleaved: run, exec, delete, state, a start storm, and idle monitors.

Nothing is asserted; medians and ratios are printed. A time is from posix_spawn to wait4, without a shell.
"""

import argparse
import contextlib
import gc
import os
import pathlib
import re
import signal
import statistics
import subprocess
import tempfile
import time

import bundle

ENVIRONMENT = {"PATH": os.environ["PATH"]}


class Timer:
    """Starts a program and waits for its end; its words are shown only if it fails."""

    def __init__(self, work):
        self.null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self.errors = f"{work}/errors.{os.getpid()}"

    def __call__(self, words):
        errors = os.open(self.errors, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        actions = [(os.POSIX_SPAWN_DUP2, self.null, 0), (os.POSIX_SPAWN_DUP2, self.null, 1)]
        actions += [(os.POSIX_SPAWN_DUP2, errors, 2)]
        begin = time.perf_counter_ns()
        pid = os.posix_spawn(words[0], words, ENVIRONMENT, file_actions=actions)
        _, status, _ = os.wait4(pid, 0)
        took = time.perf_counter_ns() - begin
        if status:
            os.lseek(errors, 0, os.SEEK_SET)
            said = os.read(errors, 4096).decode(errors="replace").strip()
            raise SystemExit(f"{' '.join(words)}: status {os.waitstatus_to_exitcode(status)}: {said}")
        os.close(errors)
        return took / 1e6


class Peer:
    """A runtime with runc's command line, with a state directory and bundles of its own."""

    def __init__(self, name, binary, bench):
        self.name, self.binary, self.bench = name, binary, bench
        self.short = re.sub(r"\W+", "-", name)
        self.base = [binary, "--root", f"{bench.work}/{self.short}-root"]
        self.bundles = {}

    def bundle(self, kind, worker=0):
        key = f"{self.short}-{kind}{worker}"
        if key not in self.bundles:
            args = ["/bin/sleep", "1000000"] if kind == "stay" else ["/bin/true"]
            seccomp = self.bench.seccomp if kind == "seccomp" else None
            self.bundles[key] = bundle.write(
                f"{self.bench.work}/{key}", self.bench.rootfs, f"{self.bench.cgroup}/{key}", args, seccomp=seccomp)
        return key, self.bundles[key]

    def run(self, kind, worker=0):
        key, folder = self.bundle(kind, worker)
        return [*self.base, "run", "--bundle", folder, key]

    def stay(self):
        key, folder = self.bundle("stay")
        self.bench.timer([*self.base, "run", "--detach", "--bundle", folder, key])
        return key

    def clear(self):
        for key in self.bundles:
            subprocess.run([*self.base, "delete", "--force", key], capture_output=True, check=False)


class Floor:
    """A static program that does by hand what the bundle asks for; it has no other command than run."""

    def __init__(self, name, entry, binary, bench):
        self.name, self.entry, self.binary, self.bench = name, entry, binary, bench
        self.filter = f"{bench.work}/filter"

    def has_filter(self):
        """The agent's side has written it."""
        return os.path.exists(self.filter)

    def run(self, kind, worker=0):
        groups = [f"{group}/floor{worker}" for group in self.bench.groups]
        filter_file = self.filter if kind == "seccomp" else "-"
        return [self.binary, self.entry, self.bench.rootfs, filter_file, *groups, "--", "/bin/true"]


class AgentSide:
    """The runtime as the agent uses it, in a process that obeys words."""

    def __init__(self, name, arguments, bench, ballast=0):
        self.name = name
        folder = bundle.write(f"{bench.work}/{name}", bench.rootfs, "set later", ["/bin/true"], seccomp=bench.seccomp)
        words = [arguments.agent_side, arguments.runtime, f"{folder}/config.json", bench.rootfs, folder,
                 f"{bench.cgroup}/{name}".lstrip("/")]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        if ballast:
            self.ask(f"ballast {ballast}")

    def ask(self, word):
        print(word, file=self.process.stdin)
        answer = self.process.stdout.readline().strip()
        if not answer:
            raise SystemExit(f"{self.name}: no answer to `{word}`")
        return answer

    def run(self):
        return int(self.ask("run")) / 1e6

    def end(self):
        if self.process.poll() is None:
            self.ask("clear")
        self.process.stdin.close()
        self.process.wait()


class Bench:
    def __init__(self, arguments):
        self.arguments, self.work = arguments, arguments.work
        self.rootfs, self.cgroup = f"{arguments.work}/rootfs", arguments.cgroup
        self.groups = [str(path) for path in hierarchies(arguments.cgroup)]
        self.seccomp = bundle.default_seccomp()
        self.timer = Timer(self.work)
        named = [("longshore", arguments.runtime), ("crun", arguments.crun), ("crun Debian", "/usr/bin/crun"),
                 ("runc", "/usr/sbin/runc")]
        self.peers = [Peer(name, binary, self) for name, binary in named if binary and os.path.exists(binary)]
        self.floors = [Floor("floor", "enters", arguments.floor, self)]
        if len(self.groups) > 1:  # v1
            self.floors.append(Floor("floor, moved", "moved", arguments.floor, self))

    def medians(self, runs, ask):
        """ask(column) is one measured thing in milliseconds; columns take turns, so that a slow moment hits all."""
        times = {column.name: [] for column in ask}
        for turn in range(-2, runs):  # two turns to warm up
            for column, question in ask.items():
                took = question()
                if turn >= 0:
                    times[column.name].append(took)
        return times

    def commands(self, kind, floor=True):
        columns = [*self.peers, *(self.floors if floor else [])]
        return {column: (lambda words=column.run(kind): self.timer(words)) for column in columns}

    def of_running(self, words):
        """A command about a container that stays."""
        return {peer: (lambda line=[*peer.base, *words(peer.bundle("stay")[0])]: self.timer(line)) for peer in self.peers}

    def delete_running(self):
        def one(peer):
            key = peer.stay()
            return self.timer([*peer.base, "delete", "--force", key])
        return {peer: (lambda peer=peer: one(peer)) for peer in self.peers}

    def storm(self, column, each, kind="plain", workers=4):
        """Containers per second, by workers that start the next one as soon as the last has ended. `each` of them so
        many that the making of the workers themselves does not count."""
        lines = [column.run(kind, worker) for worker in range(workers)]
        begin = time.perf_counter()
        with tempfile.TemporaryFile(dir=self.work) as errors:
            running = [subprocess.Popen([self.arguments.worker, str(each), *line], env=ENVIRONMENT, stderr=errors) for line in lines]
            if any([worker.wait() for worker in running]):
                errors.seek(0)
                raise SystemExit(f"{column.name}: a start of the storm failed: {errors.read().decode(errors='replace')}")
        return workers * each / (time.perf_counter() - begin)


def hierarchies(cgroup):
    """Our group in each hierarchy: made by the script that starts this one."""
    root = pathlib.Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return [root / cgroup.strip("/")]
    return sorted(path / cgroup.strip("/") for path in root.iterdir() if (path / cgroup.strip("/")).is_dir() and not path.is_symlink())


@contextlib.contextmanager
def compilers(count, source):
    """Busy neighbours: compilers that compile one file again and again."""
    loop = f"while :; do gcc -O2 -c -o /dev/null {source}; done"
    busy = [subprocess.Popen(["bash", "-c", loop], start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def show(title, times, base="longshore", better="least"):
    names = list(times)
    median = {name: statistics.median(times[name]) for name in names}
    print(f"\n{title} ({len(times[names[0]])} of each)")
    extreme, word = (min, "min") if better == "least" else (max, "max")
    print(f"  {'':<22}{'median':>9}{word:>9}{'longshore is':>16}")
    for name in names:
        ratio = "" if name == base or base not in median else f"{median[base] / median[name]:.2f} of it"
        print(f"  {name:<22}{median[name]:>9.2f}{extreme(times[name]):>9.2f}{ratio:>16}")


def parent(pid):
    return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def unshared(pid):
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    kib = dict(re.findall(r"^(\w+):\s+(\d+) kB", text, re.M))
    return int(kib["Private_Clean"]) + int(kib["Private_Dirty"]), int(kib["Rss"]), int(kib["Pss"])


def show_idle(side, bench, count):
    side.ask(f"idle {count}")
    group = next(path for path in map(pathlib.Path, bench.groups) if path.parent.name in ("pids", "cgroup"))
    monitors = (group / side.name / "monitors/cgroup.procs").read_text().split()
    # The nursery is among them: the one whose parent is the agent's side itself.
    figures = [unshared(pid) for pid in monitors if parent(pid) != side.process.pid]
    print(f"\nmonitors of {len(figures)} idle containers, KiB")
    for name, column in zip(("unshared (USS)", "resident (RSS)", "shared out (PSS)"), zip(*figures)):
        print(f"  {name:<22}median {statistics.median(column):>7.0f}   max {max(column):>7.0f}")


def rows(bench, runs):
    yield "run, network namespace and limits, ms", lambda: bench.medians(runs, bench.commands("plain"))
    yield "the same with podman's default seccomp profile, ms", lambda: bench.medians(runs, bench.commands("seccomp", bench.floors[0].has_filter()))
    yield "state of a running container, ms", lambda: bench.medians(runs, bench.of_running(lambda key: ["state", key]))
    yield "exec /bin/true, ms", lambda: bench.medians(runs, bench.of_running(lambda key: ["exec", key, "/bin/true"]))


def commands(bench, runs):
    try:
        for peer in bench.peers:
            version = subprocess.run([peer.binary, "--version"], capture_output=True, text=True, check=True).stdout
            print(f"{peer.name:<14}{version.splitlines()[0]}")
            peer.stay()
        for title, measure in rows(bench, runs):
            show(title, measure())
        for peer in bench.peers:
            peer.clear()
        show("delete --force of a running container, ms", bench.medians(runs, bench.delete_running()))
    finally:
        for peer in bench.peers:
            peer.clear()


def main():
    parser = argparse.ArgumentParser()
    for name in ("runtime", "agent-side", "floor", "work", "cgroup"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--worker", help="for the start storm: worker.c")
    parser.add_argument("--crun")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--idle", type=int, default=500)
    parser.add_argument("--busy-source", required=True)
    parser.add_argument("--commands-alone", action="store_true", help="the command line, without agent, storm and monitors")
    arguments = parser.parse_args()
    gc.disable()
    bench = Bench(arguments)
    if arguments.commands_alone:
        commands(bench, arguments.runs)
        return
    agent = AgentSide("agent", arguments, bench)
    large = AgentSide("agent of 200 MiB", arguments, bench, ballast=200)
    agent.ask(f"filter {bench.floors[0].filter}")
    try:
        commands(bench, arguments.runs)
        floors = {floor: question for floor, question in bench.commands("seccomp").items() if floor in bench.floors}
        sides = {agent: agent.run, large: large.run, **floors}
        show("create, start, wait, delete from the agent, with seccomp, ms", bench.medians(arguments.runs, sides), base=agent.name)
        rounds = max(arguments.runs // 5, 5)
        columns = [*bench.peers, *bench.floors]
        storm = lambda each: bench.medians(rounds, {column: (lambda column=column: bench.storm(column, each)) for column in columns})
        show("start storm of 4 workers, containers a second", storm(50), better="most")
        with compilers(2, arguments.busy_source):
            show("the same beside two busy compilers", storm(20), better="most")
        show_idle(agent, bench, arguments.idle)
    finally:
        for peer in bench.peers:
            peer.clear()
        for side in (agent, large):
            side.end()


main()
