"""What the harness gives to pytest: fixtures, guards, C unit tests as cases, and the count.

A test that asks for the fixture 'build' (every fixture that starts a program does) runs against
the sanitized build; with --all against the plain one too; marked 'plain' against that one only,
marked 'threads' with --all against the thread sanitizer's as well.
"""

import json
import pathlib
import resource
import signal
import subprocess
import sys
import zlib

import pytest

from harness import builds, processes
from harness.builds import Build
from harness.guard import Guard
from harness.load import Load
from harness.service import Service
from harness.supervised import supervise  # pylint: disable=unused-import
from harness.systemd import machine, systemd_session  # pylint: disable=unused-import


def pytest_addoption(parser):
    group = parser.getgroup("segue")
    group.addoption("--all", action="store_true", help="long forms, and every build")
    group.addoption("--build", choices=sorted(builds.FOLDERS), help="this build only")
    group.addoption("--results", metavar="FILE", help="write the outcome of each case as JSON")


def catch_again():
    """A job in the background, or under nohup, is started with some signals ignored; what the tests
    start would inherit that."""
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2,
                   signal.SIGCHLD):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    catch_again()
    processes.become_subreaper()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if config.getoption("--results") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Results(config), "segue-results")


# Which builds.


def _builds(config, markers):
    chosen = config.getoption("--build")
    if chosen:
        return [chosen]
    if "plain" in markers:
        return ["plain"]
    names = ["sanitized"]
    if config.getoption("--all"):
        names.append("plain")
        if "threads" in markers:
            names.append("threads")
    return names


def pytest_generate_tests(metafunc):
    if "build" in metafunc.fixturenames:
        markers = {marker.name for marker in metafunc.definition.iter_markers()}
        metafunc.parametrize("build", _builds(metafunc.config, markers), indirect=True)


def pytest_collection_modifyitems(config, items):
    long = [item for item in items if item.get_closest_marker("long")]
    if long and not config.getoption("--all"):
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not item.get_closest_marker("long")]
    if hasattr(config, "workerinput"):
        # xdist gives out runs of neighbours, and neighbours take equally long. An order that is the
        # same for every worker, and unrelated to that, spreads the slow ones.
        items.sort(key=lambda item: zlib.crc32(item.nodeid.encode()))


# Guards.

GUARD = pytest.StashKey()


class NotGivenBack(Exception):
    """What a test left behind."""

    def __init__(self, wrong):
        super().__init__("\n".join(wrong))


@pytest.fixture(autouse=True)
def _guard(request):
    guard = request.node.stash[GUARD] = Guard()
    yield guard
    wrong = guard.finish()
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    guard = item.stash.get(GUARD, None)
    if guard is None:
        return
    if report.failed:
        item.stash[FAILED] = True
        for name, text in guard.logs():
            report.sections.append((f"{guard.folder}/{name}", text))
    if call.when == "teardown" and not item.stash.get(FAILED, False):
        guard.remove()


FAILED = pytest.StashKey()


# Fixtures.

ANY_PORT = "tcp://127.0.0.1:0"


@pytest.fixture
def build(request):
    """The Build that the test runs against."""
    found = Build(request.param)
    if not found.exists:
        pytest.fail(f"{found.folder} is not built; tools/build {found.name}", pytrace=False)
    return found


@pytest.fixture
def folder(_guard):
    """A fresh folder with a short path."""
    return _guard.folder


@pytest.fixture
def start(build, folder, _guard):
    """start('hello', '--delay', '1s', ...) starts an example (or a program by its path) with a
    port of its own, a pid file and a JSON log, waits until it serves, and returns the Service.
    listen=[...] for other listeners; bare=True for exactly these arguments and no waiting;
    before=[...] for what stands before the program (env, nohup, harness.manager.activation())."""
    count = 0

    def start_one(
        program, *arguments, listen=(ANY_PORT,), bare=False, wait=True, before=(), **more
    ):
        nonlocal count
        count += 1
        name = "service" if count == 1 else f"service{count}"
        command = [*before, build.program(program) if isinstance(program, str) else program]
        if not bare:
            more.setdefault("pid_file", folder / f"{name}.pid")
            for address in listen:
                command += ["--listen", address]
            command += ["--pid-file", more["pid_file"], "--log-format", "json"]
        service = _guard.own(Service([*command, *arguments], folder, name=name, **more))
        if wait and not bare:
            service.wait_serving()
        return service

    return start_one


@pytest.fixture
def stand_in(folder, _guard):
    """stand_in(env=...) starts stand_in.py, a service that needs no build, for tests of tools."""

    def start_one(*, before=(), **options):
        pid_file = folder / "stand_in.pid"
        program = pathlib.Path(__file__).with_name("stand_in.py")
        command = [*before, sys.executable, program, pid_file]
        service = _guard.own(Service(command, folder, pid_file=pid_file, **options))
        service.wait_serving()
        return service

    return start_one


@pytest.fixture
def load(build, folder, _guard):
    """load(service, '--keepalive', 10, '--post', 2) starts segue-load against a Service (or with a
    URL in its place); a Load."""
    count = 0

    def start_one(*arguments):
        nonlocal count
        count += 1
        arguments = [word.url if isinstance(word, Service) else word for word in arguments]
        name = "load" if count == 1 else f"load{count}"
        program = build.program("src/load/segue-load")
        return _guard.own(Load(program, folder, *arguments, name=name))

    return start_one


@pytest.fixture
def tell(record_property):
    """tell(text): a line of the report, whether the test passes or not."""
    return lambda text: record_property("told", text)


@pytest.fixture
def compile_c(build):
    """compile_c(source text or pathlib.Path) compiles a program against this build's libsegue."""
    return build.compile


# C unit tests: each case of each unit-* program of a build is a case here, and so are the seeds of
# each fuzz-* program.


def pytest_collect_file(file_path, parent):
    if file_path.name == "unit.h" and file_path.parent.name == "unit":
        return UnitFile.from_parent(parent, path=file_path)
    return None


class UnitFile(pytest.File):
    """Stands for all unit programs: which exist is known by the build, not by the tree."""

    def collect(self):
        for name in _builds(self.config, {"threads"}):
            for program in Build(name).unit_programs():
                listed = subprocess.run(
                    [program, "--list"], capture_output=True, check=True, text=True, timeout=30
                )
                for case in listed.stdout.split():
                    yield UnitCase.from_parent(
                        self, name=f"{program.name}::{case}[{name}]", command=[program, case]
                    )
            for target, program in Build(name).fuzz_programs().items():
                corpus = builds.ROOT / "tests/fuzz/corpus" / target
                yield UnitCase.from_parent(
                    self, name=f"{program.name}::corpus[{name}]", command=[program, corpus]
                )


class UnitCase(pytest.Item):
    """One case of a unit program, or the seeds of a fuzz target."""

    def __init__(self, *, command, **more):
        super().__init__(**more)
        self.command = command

    def runtest(self):
        guard = self.stash[GUARD] = Guard()
        try:
            done = subprocess.run(
                self.command,
                cwd=guard.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=100,
                check=False,
            )
        finally:
            wrong = guard.finish()
        if done.returncode == 77:
            pytest.skip(done.stdout.strip())
        if done.returncode != 0:
            wrong.insert(0, f"{done.stdout}{self.command[0].name} exited with {done.returncode}")
        if wrong:
            raise NotGivenBack(wrong)

    def repr_failure(self, excinfo, style=None):
        if excinfo.errisinstance(NotGivenBack):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self):
        return self.path, None, self.name


# The count.


def pytest_terminal_summary(terminalreporter):
    for reports in list(terminalreporter.stats.values()):
        for report in reports:
            for name, text in getattr(report, "user_properties", []):
                if name == "told" and report.when == "call":
                    terminalreporter.write_line(text)


class Results:
    """The worst outcome of each case: a case that passes and then leaks has failed, once."""

    RANK = {"passed": 0, "skipped": 1, "failed": 2}

    def __init__(self, config):
        self.path = pathlib.Path(config.getoption("--results"))
        self.cases = {}

    def _note(self, name, outcome, seconds=0.0):
        case = self.cases.setdefault(name, {"outcome": "passed", "seconds": 0.0})
        case["outcome"] = max(case["outcome"], outcome, key=self.RANK.get)
        case["seconds"] += seconds

    def pytest_runtest_logreport(self, report):
        self._note(report.nodeid, report.outcome, report.duration)

    def pytest_collectreport(self, report):
        if report.failed:
            self._note(f"collecting {report.nodeid}", "failed")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self):
        self.path.write_text(json.dumps(self.cases, indent=1))

    @pytest.hookimpl(hookwrapper=True)
    def pytest_terminal_summary(self, terminalreporter):
        yield
        # ./test closes with a count of its own; a second one would be in its way.
        terminalreporter.summary_stats = lambda: None
