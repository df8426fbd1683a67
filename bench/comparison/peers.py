"""The peers. Each is configured and restarted as its own documentation says: peers.d/README.md has the
sources, and each file there the reasons.
"""

import os
import pathlib
import select
import shutil
import signal
import subprocess

from comparison.failures import WORDS
from comparison.services import CONFIGURATION, Followed, Peer, send
from harness.deadline import Deadline
from harness.service import Service
from harness.supervised import Supervised

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXITS = f"#!/bin/sh\necho '{WORDS}' >&2\nexit 1\n"
HANGS = "#!/bin/sh\nexec sleep 600\n"


class Program(Peer):
    """A peer whose version is a program file."""

    program = None  # a path in its folder

    def install(self, source):
        # A link, as deployments flip one; a copy of hello would not find its libraries.
        self.program = self.folder / pathlib.Path(source).name
        self.program.symlink_to(source)
        return self.program

    def break_next(self, how):
        os.replace(self.program, self.program.with_suffix(".good"))
        if how == "missing":
            return "the program file is gone"
        self.program.write_text(EXITS if how == "exits" else HANGS, encoding="ascii")
        self.program.chmod(0o755)
        return f"the program is a script that {'exits with 1' if how == 'exits' else 'sleeps'}"

    def repair(self):
        os.replace(self.program.with_suffix(".good"), self.program)


class SelfUpgrade(Program):
    key, title = "segue", "Segue, self-upgrade"
    summary = "hello on Segue's library"
    commands = ("hello --listen 127.0.0.1:PORT --threads 1 --pid-file hello.pid", "kill -USR2 PID")
    slow = "/hello?delay=300ms"
    hasty = ("--start-timeout", "5s")

    def begin(self, *options):
        pid_file = self.folder / "hello.pid"
        command = [self.install(self.build.program("hello")), "--listen", f"127.0.0.1:{self.port}",
                   "--threads", 1, "--pid-file", pid_file, "--idle-timeout", "1h", *options]
        self.service = Service(command, self.folder, pid_file=pid_file, name=self.key)

    def masters(self):
        return set()

    def signal(self):
        self.service.send(signal.SIGUSR2)


class Supervision(Program):
    """Under `segue run`."""

    commands = ("segue run --listen http=127.0.0.1:PORT -- PROGRAM", "segue upgrade")
    hasty = ("--start-timeout", "5s")
    client = None

    def worker(self):
        """The words after --."""
        raise NotImplementedError

    def begin(self, *options):
        self.service = Supervised(
            self.build.program("src/segue/segue"), self.folder, "--listen",
            f"http=tcp://127.0.0.1:{self.port}", *options, "--", *self.worker(), name=self.key)

    def masters(self):
        return self.pids() - {worker["pid"] for worker in self.service.workers()}

    def signal(self):
        self.finish_client()
        self.client = subprocess.Popen(
            [self.service.segue, "upgrade", "--control", self.service.control],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def finish_client(self):
        """(exit code, last line) of the last `segue upgrade`, or None."""
        if self.client is None:
            return None
        out, _ = self.client.communicate(timeout=60)
        code, self.client = self.client.returncode, None
        return code, (out.strip().splitlines() or [""])[-1]

    def told(self):
        if self.client is not None and self.client.poll() is not None:
            code, line = self.finish_client()
            self._said = [f"exit code {code}: {line}"]
        return self._said

    _said = []

    def stop(self, gently=True):
        if not gently and self.client is not None:
            self.client.kill()
        super().stop(gently)
        self.finish_client()


class SupervisedHello(Supervision):
    key, title = "segue-run", "`segue run`, hello"
    summary = "the same hello as a worker of the supervisor"
    slow = "/hello?delay=300ms"

    def worker(self):
        return [self.install(self.build.program("hello")), "--threads", 1, "--idle-timeout", "1h"]


class SupervisedGo(Supervision):
    key, title = "segue-run-go", "`segue run`, plain Go"
    summary = ("examples/servers/hello.go, which knows nothing of Segue: it takes LISTEN_FDS over, says READY=1, "
               "and gives each kept connection 5 s for one last answer")
    slow = "/hello?delay=300ms"
    alike = "segue-run"
    sources = (ROOT / "examples/servers/hello.go",)

    @classmethod
    def prepare(cls, build):
        go_program(build, *cls.sources)

    def worker(self):
        return [self.install(go_program(self.build, *self.sources))]


class Nginx(Program):
    key, title = "nginx-reload", "nginx, reload"
    summary = "HUP: new workers with the new configuration"
    proxy = True
    commands = ("nginx -p FOLDER -c nginx.conf", "nginx -t && kill -HUP MASTER")
    remark = ("from 1.27.4 on it has `keepalive_min_timeout`, with which a worker that shuts down leaves idle "
              "connections open for a while; Debian's 1.22.1 does not know it.")
    application = False

    def begin(self):
        self.configuration = self.folder / "nginx.conf"
        pid_file = self.folder / "nginx.pid"
        self.service = Followed([*self._command(self.install("/usr/sbin/nginx"))], self.folder,
                                pid_file=pid_file, name=self.key)

    def _command(self, program):
        return [program, "-p", self.folder, "-e", self.folder / "error.log", "-c", self.configuration]

    def deploy(self):
        self.fill("nginx.conf", USER="user root;" if os.geteuid() == 0 else "")

    def check(self):
        self.run(*self._command(self.program), "-t", "-q")

    def signal(self):
        self.service.send(signal.SIGHUP)

    def told(self):
        log = self.folder / "error.log"
        return log.read_text(encoding="utf-8").splitlines() if log.exists() else []

    def break_next(self, how):
        if how == "hangs":
            return None
        if how == "missing":
            self.configuration.unlink()
            return "the configuration file is gone"
        self.configuration.write_text("nonsense;\n", encoding="ascii")
        return "the configuration has an error"

    def repair(self):
        self.deploy()


class NginxUpgrade(Nginx):
    key, title = "nginx-upgrade", "nginx, binary upgrade"
    summary = "USR2: a new master with new workers; then WINCH and QUIT to the first one"
    commands = ("nginx -p FOLDER -c nginx.conf", "kill -USR2 MASTER; kill -WINCH MASTER; kill -QUIT MASTER")
    application, remark = True, ""
    break_next, repair = Program.break_next, Program.repair
    first = None

    def check(self):
        # nginx ignores USR2 while the master before the last is there.
        settle(self.folder / "nginx.pid.oldbin")

    def staying(self):
        return set()

    def signal(self):
        self.first = self.service.pid
        send(self.first, signal.SIGUSR2)

    def answered(self):
        send(self.first, signal.SIGWINCH)

    def ended(self, left):
        if left == {self.first}:
            send(self.first, signal.SIGQUIT)


class Haproxy(Program):
    key, title = "haproxy", "HAProxy, reload"
    summary = "master-worker mode, listening sockets passed on (expose-fd listeners)"
    proxy = True
    commands = ("haproxy -W -f haproxy.cfg", "haproxy -c -q -f haproxy.cfg && kill -USR2 MASTER")
    application = False
    idle_close = "# option idle-close-on-response is not set"

    def begin(self):
        self.configuration = self.folder / "haproxy.cfg"
        pid_file = self.folder / "haproxy.pid"
        self.service = Service([self.install("/usr/sbin/haproxy"), "-W", "-f", self.configuration, "-p",
                                pid_file], self.folder, name=self.key, pid_file=pid_file)

    def deploy(self):
        self.fill("haproxy.cfg", IDLE_CLOSE=self.idle_close)

    def check(self):
        self.run(self.program, "-c", "-q", "-f", self.configuration)

    def masters(self):
        return {self.service.first.pid}

    def signal(self):
        self.service.first.send(signal.SIGUSR2)

    def break_next(self, how):
        if how == "hangs":
            return super().break_next(how)
        if how == "missing":
            self.configuration.unlink()
            return "the configuration file is gone"
        self.configuration.write_text("nonsense\n", encoding="ascii")
        return "the configuration has an error"

    def repair(self):
        if self.program.with_suffix(".good").exists():
            super().repair()
        self.deploy()


class HaproxyIdle(Haproxy):
    key, title = "haproxy-idle", "HAProxy, reload, idle-close-on-response"
    summary = "the same with the option that keeps idle connections until their next response"
    idle_close = "option idle-close-on-response"
    alike = "haproxy"


class Gunicorn(Peer):
    key, title = "gunicorn-hup", "gunicorn, HUP"
    summary = "threaded workers; new ones load the application again"
    commands = ("gunicorn --config gunicorn.conf.py hello_wsgi:app", "kill -HUP MASTER")
    worker_class = "gthread"

    def begin(self):
        self.workers = 2 * len(os.sched_getaffinity(0)) + 1
        self.application_file = self.folder / "hello_wsgi.py"
        shutil.copy2(CONFIGURATION / "hello_wsgi.py", self.application_file)
        configuration = self.fill("gunicorn.conf.py", WORKERS=self.workers, CLASS=self.worker_class)
        self.service = Service(["/usr/bin/gunicorn", "--config", configuration, "hello_wsgi:app"], self.folder,
                               env={"PYTHONDONTWRITEBYTECODE": "1"}, name=self.key,
                               pid_file=self.folder / "gunicorn.pid")

    def signal(self):
        self.service.send(signal.SIGHUP)

    def break_next(self, how):
        self.application_file.unlink()
        if how == "missing":
            return "the application's file is gone"
        text = "import sys\nsys.exit(1)\n" if how == "exits" else "import time\ntime.sleep(600)\n"
        self.application_file.write_text(text, encoding="ascii")
        return f"the application {'exits' if how == 'exits' else 'sleeps'} when it is imported"

    def repair(self):
        shutil.copy2(CONFIGURATION / "hello_wsgi.py", self.application_file)


class GunicornSync(Gunicorn):
    key, title = "gunicorn-sync", "gunicorn, HUP, sync workers"
    summary = "the same with the default class of workers, which keeps no connection"
    alike = "gunicorn-hup"
    worker_class = "sync"
    shapes = ("new", "get", "post", "idle")
    note = {"slow": "a sync worker serves one request at a time: 8 slow ones would hold all of them"}


class GunicornUpgrade(Gunicorn):
    key, title = "gunicorn-usr2", "gunicorn, USR2"
    summary = "the same with a new master; then TERM to the first one"
    commands = ("gunicorn --config gunicorn.conf.py hello_wsgi:app", "kill -USR2 MASTER; kill -TERM MASTER")
    first = None

    def check(self):
        # gunicorn ignores USR2 until the new master has taken the first one's pid file over.
        settle(self.folder / "gunicorn.pid.2")

    def staying(self):
        return set()

    def signal(self):
        # The master that has no other above it; gunicorn.pid is absent while the new one renames its own.
        (self.first,) = {stat.pid for stat in self.service.members()
                         if not stat.zombie and stat.parent not in self.pids()}
        send(self.first, signal.SIGUSR2)

    def answered(self):
        send(self.first, signal.SIGTERM)


class Starter(Peer):
    key, title = "starter", "Server::Starter, Starlet"
    summary = "start_server starts plackup again and ends the last one a second later; keeps no connection"
    commands = ("start_server --port=127.0.0.1:PORT ... -- plackup -s Starlet ... hello.psgi",
                "kill -HUP START_SERVER")
    workers = 32

    def begin(self):
        self.file = self.fill("hello.psgi")
        command = ["/usr/bin/start_server", f"--port=127.0.0.1:{self.port}",
                   f"--pid-file={self.folder}/start_server.pid", f"--status-file={self.folder}/status", "--",
                   "/usr/bin/plackup", "-s", "Starlet", "-E", "deployment", f"--max-workers={self.workers}",
                   "--max-reqs-per-child=100000", self.file]
        self.service = Service(command, self.folder, name=self.key,
                               pid_file=self.folder / "start_server.pid")

    def staying(self):
        return {self.service.first.pid}

    def signal(self):
        self.service.first.send(signal.SIGHUP)

    def break_next(self, how):
        self.file.unlink()
        if how == "missing":
            return "the application's file is gone"
        self.file.write_text("exit 1;\n" if how == "exits" else "sleep 600;\n", encoding="ascii")
        return f"the application {'exits' if how == 'exits' else 'sleeps'} when it is loaded"

    def repair(self):
        self.fill("hello.psgi")


class Tableflip(Program):
    key, title = "tableflip", "Go, tableflip"
    summary = "Shutdown() of net/http when the next version is ready"
    commands = ("tableflip --listen 127.0.0.1:PORT --pid-file pid", "kill -HUP PID")
    hasty = ("--upgrade-timeout", "5s")
    sources = (CONFIGURATION / "tableflip.go", CONFIGURATION / "hello.go")

    @classmethod
    def prepare(cls, build):
        go_program(build, *cls.sources)

    def begin(self, *options):
        program = go_program(self.build, *self.sources)
        pid_file = self.folder / "pid"
        self.service = Service([self.install(program), "--listen", f"127.0.0.1:{self.port}",
                                "--pid-file", pid_file, *options],
                               self.folder, pid_file=pid_file, name=self.key)

    def masters(self):
        return set()

    def signal(self):
        self.service.send(signal.SIGHUP)


class Grace(Program):
    key, title = "grace", "Go, grace"
    sources = (CONFIGURATION / "grace.go", CONFIGURATION / "hello.go")
    summary = "the next version ends the last one by TERM"
    commands = ("grace --listen 127.0.0.1:PORT", "kill -USR2 PID")

    @classmethod
    def prepare(cls, build):
        go_program(build, *cls.sources)

    def begin(self):
        program = go_program(self.build, *self.sources)
        self.service = Service([self.install(program), "--listen", f"127.0.0.1:{self.port}"], self.folder,
                               name=self.key)

    def masters(self):
        return set()

    def signal(self):
        self.service.send(signal.SIGUSR2)


PEERS = [SelfUpgrade, SupervisedHello, SupervisedGo, Nginx, NginxUpgrade, Haproxy, HaproxyIdle, Gunicorn,
         GunicornSync, GunicornUpgrade, Starter, Tableflip, Grace]


def go_program(build, *sources):
    """Compiles Go against Debian's packages alone: no module, no network."""
    folder = build.folder / "go"
    folder.mkdir(exist_ok=True)
    target = folder / (sources[0].parent.name + "-" + sources[0].stem)
    newest = max(source.stat().st_mtime for source in sources)
    if not target.exists() or target.stat().st_mtime < newest:
        environment = {**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOFLAGS": "",
                       "GOCACHE": str(folder / "cache"), "CGO_ENABLED": "0"}
        subprocess.run(["go", "build", "-o", target, *sources], env=environment, check=True)
    return target


def settle(pid_file, seconds=3):
    """Waits until no living process is named by a file that a peer has for the time of its upgrade; then
    it takes the next one. Where that does not come, it is the peer's to answer the signal."""
    deadline = Deadline(seconds)
    while deadline.left():
        try:
            os.kill(int(pid_file.read_text(encoding="ascii")), 0)
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return
        select.select([], [], [], 0.01)
