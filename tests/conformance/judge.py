"""Runs a foreign suite's programs one by one, reads their TAP, and compares what failed with the list that is known."""

import argparse
import collections
import os
import pathlib
import pty
import re
import subprocess
import sys
import threading
import tty

LINE = re.compile(r"^(not )?ok\b\s*\d*\s*-?\s*(.*?)\s*(?:#\s*(SKIP|TODO)?\b(.*))?$", re.I)
PLAN = re.compile(r"^1\.\.(\d+)")
# Seconds for one program: far beyond the slowest, so that one that hangs does not hang us. More without KVM.
PATIENCE = int(os.environ.get("PATIENCE", "60"))

Result = collections.namedtuple("Result", "name verdict why")


class RuntimeTools:
    """Each program is one question: it passes as a whole or not."""

    heading = "runtime-tools"

    def __init__(self, folder):
        self.folder = folder
        found = sorted(folder.glob("validation/*/*.t"))
        self.programs = {path.stem: [str(path)] for path in found}

    def surroundings(self, runtime):
        return {"RUNTIME": runtime}, self.folder

    def tests(self, program):
        return []

    def results(self, program, status, points, planned):
        failed = [point.name for point in points if point.verdict == "failed"]
        if status or failed or not points or len(points) < (planned or 0):
            return [Result(program, "failed", "; ".join(failed[:2]) or f"exit status {status}")]
        passed = any(point.verdict == "passed" for point in points)
        return [Result(program, "passed" if passed else "skipped", points[0].why)]


class CrunTests:
    """Each TAP point is one test."""

    heading = "crun"

    def __init__(self, folder):
        self.folder = folder
        self.programs = {path.stem: [sys.executable, "-B", str(path)] for path in sorted(folder.glob("tests/test_*.py"))}

    def surroundings(self, runtime):
        # Its work folders lie where it is started.
        os.makedirs("/tmp/work", exist_ok=True)
        return {"OCI_RUNTIME": runtime, "INIT": str(self.folder / "tests/init")}, pathlib.Path("/tmp/work")

    def tests(self, program):
        table = (self.folder / f"tests/{program}.py").read_text().partition("all_tests = {")[2]
        return re.findall(r'^\s*"([^"]+)"\s*:', table, re.M)

    def results(self, program, status, points, planned):
        lost = (planned or 0) - len(points)
        if lost > 0 or (status and not points):
            return points + [Result(f"{program} (ended early)", "failed", f"exit status {status}")] * max(lost, 1)
        return points


def suite_in(folder):
    if (folder / "validation").is_dir():
        if not (folder / "runtimetest").exists():
            raise SystemExit(f"{folder} is not built: it has no runtimetest")
        return RuntimeTools(folder)
    if (folder / "tests/tests_utils.py").exists():
        if not (folder / "tests/init").exists():
            raise SystemExit(f"{folder} is not built: it has no tests/init")
        return CrunTests(folder)
    raise SystemExit(f"{folder} holds neither runtime-tools nor crun's tests")


def read_tap(text):
    points, planned = [], None
    for line in text.splitlines():
        plan = PLAN.match(line)
        point = LINE.match(line)
        if plan:
            planned = max(planned or 0, int(plan[1]))  # some programs speak TAP twice
        elif point:
            verdict = "skipped" if (point[3] or "").upper() == "SKIP" else "failed" if point[1] else "passed"
            points.append(Result(point[2], verdict, (point[4] or "").strip()))
    return points, planned


def ask(suite, program, runtime, logs):
    environment, folder = suite.surroundings(runtime)
    environment |= {"PYTHONUNBUFFERED": "1"}  # what was said before a hang counts
    points, wanted, status = [], None, 0
    with open(logs / f"{program}.log", "w+", errors="replace") as log:
        while wanted is None or wanted:
            hung, status, output = run(suite.programs[program], folder, environment, log)
            log.write(output)
            heard, planned = read_tap(output)
            points += heard
            tests = wanted or suite.tests(program)
            if not (hung and len(heard) < len(tests)):
                return suite.results(program, status, points, planned if wanted is None else None)
            # The one that hung is lost; those after it are not.
            points.append(Result(tests[len(heard)], "failed", f"it hung for {PATIENCE} s"))
            wanted = tests[len(heard) + 1:]
            environment["RUN_TESTS"] = " ".join(wanted)
    return suite.results(program, status, points, None)


def run(words, folder, environment, log):
    """Its input and output are a terminal: many a test is skipped without. Nobody's controlling one: no signal comes of it."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    said = []
    reader = threading.Thread(target=read_terminal, args=(master, said))
    reader.start()
    try:
        process = subprocess.Popen(
            words, cwd=folder, env={**os.environ, **environment}, stdin=slave, stdout=slave, stderr=log
        )
        try:
            hung, status = False, process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            hung, status = True, "none: it hung"
        # What it left running may hold the terminal for ever, and says nothing more that counts.
        os.write(slave, END)
    finally:
        reader.join()
        os.close(slave)
        os.close(master)
    return hung, status, b"".join(said).partition(END)[0].decode(errors="replace")


# No test prints that.
END = b"\0the end\0"


def read_terminal(master, said):
    while END not in b"".join(said[-2:]):
        said.append(os.read(master, 1 << 16))


def known_failures(path, headings):
    """The names in the first column of the tables below these headings."""
    names, inside = set(), False
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.startswith("#"):
            inside = line.lstrip("# ").rstrip() in headings
        row = re.match(r"^\|\s*`([^`]+)`", line)
        if inside and row:
            names.add(row[1])
    return names


def show(title, names):
    if names:
        print(f"\n{title}:")
        for name in names:
            print(f"  {name}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--suite", type=pathlib.Path, required=True)
    parser.add_argument("--runtime", required=True)
    parser.add_argument("--list", type=pathlib.Path, required=True)
    parser.add_argument("--logs", type=pathlib.Path, required=True)
    parser.add_argument("--place", help="the list's heading for what fails at a place only, behind the suite's name")
    parser.add_argument("programs", nargs="*")
    arguments = parser.parse_args()
    suite = suite_in(arguments.suite)
    logs = arguments.logs / f"{suite.heading}-{os.path.basename(arguments.runtime)}"
    logs.mkdir(parents=True, exist_ok=True)
    unknown = [name for name in arguments.programs if name not in suite.programs]
    if unknown:
        raise SystemExit(f"{arguments.suite} has no program {unknown[0]}; it has: {' '.join(suite.programs)}")
    results = []
    for program in arguments.programs or suite.programs:
        answers = ask(suite, program, arguments.runtime, logs)
        results += answers
        count = collections.Counter(result.verdict for result in answers)
        print(f"{program:<34}" + "  ".join(f"{count[verdict]} {verdict}" for verdict in sorted(count)), flush=True)

    by_verdict = collections.defaultdict(list)
    for result in results:
        by_verdict[result.verdict].append(result)
    everywhere = known_failures(arguments.list, {suite.heading})
    there = known_failures(arguments.list, {f"{suite.heading} {arguments.place}"})
    known = everywhere | there
    names = {result.name for result in by_verdict["failed"]}
    show("failed", [f"{r.name}: {r.why}" + (" (listed)" if r.name in known else "") for r in by_verdict["failed"]])
    show("skipped", [f"{r.name}: {r.why}" for r in by_verdict["skipped"]])
    passed = {result.name for result in by_verdict["passed"]}
    # At another place, what the host lacks is there.
    show("on the list, yet passed: take them off it", sorted((there if arguments.place else known) & passed))
    show("failed and not on the list", sorted(names - known))
    print(f"\nlogs: {logs}")
    print(f"{len(by_verdict['passed'])} passed, {len(by_verdict['failed'])} failed, {len(by_verdict['skipped'])} skipped")
    sys.exit(1 if names - known else 0)


main()
