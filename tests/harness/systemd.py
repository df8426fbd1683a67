"""A real systemd as process 1 of its own namespaces, with units of the test's own.

A Machine has its own processes, mounts, network, host name and cgroups. Its files are those of this
machine under an overlay, so that whatever a test writes into it is gone with it; only the folder
'shared' is the same on both sides. Everything ends with the namespaces, and these end with the
process that asked for them, whatever becomes of it.

Needs root, cgroup2 and overlays; Unavailable says what of that is missing.
"""

import contextlib
import ctypes
import functools
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import threading

import pytest

from harness import builds, processes
from harness.deadline import Expired, until
from harness.http import Connection
from harness.log import Log
from harness.manager import NotifySocket

SYSTEMD = pathlib.Path("/lib/systemd/systemd")
CANNOT = 77  # exit code of the scripts below
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PREFIX = "segue-test-"
PR_SET_PDEATHSIG = 1
CLONE_NEWNET = 0x40000000


class Unavailable(Exception):
    """Why no systemd can be booted here."""


# Runs as process 1 of the new namespaces, in steps that say which of them cannot be had. The cgroup
# namespace comes last: its root is the cgroup that the process is in.
ENTER = """
cannot() { echo "cannot $1"; exit 77; }
echo 0 >"$CGROUP/cgroup.procs" || cannot "move a process into $CGROUP"
unshare --cgroup true || cannot "make a cgroup namespace"
exec unshare --cgroup /bin/sh -c "$SETUP"
"""

SETUP = """
cannot() { echo "cannot $1"; exit 77; }
new() { mkdir -p "$2" && mount -t "$1" "$1" "$2" || cannot "mount a fresh $1"; }
same() { mkdir -p "$root$1" && mount --rbind "$1" "$root$1" || cannot "mount $1 once more"; }
read_only() { mount -o remount,bind,ro "$root$1" || cannot "mount $1 read-only"; }

new tmpfs "$BASE"
root=$BASE/root
mkdir "$BASE/upper" "$BASE/work" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$BASE/upper,workdir=$BASE/work" "$root" ||
    cannot "mount an overlay of /"
if mountpoint -q /usr; then same /usr; fi
new proc "$root/proc"
new sysfs "$root/sys"
new tmpfs "$root/run"
new tmpfs "$root/tmp"
new tmpfs "$root/dev"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup" || cannot "mount a fresh cgroup2"
for name in null zero full random urandom tty; do
    : >"$root/dev/$name"
    mount --bind "/dev/$name" "$root/dev/$name" || cannot "mount /dev/$name once more"
done
same "$SHARED"
for folder in $READ_ONLY; do same "$folder"; read_only "$folder"; done

# What systemd and its services say goes through a fifo to our standard output.
mkfifo "$root/dev/kmsg"
cat <>"$root/dev/kmsg" &

# No unit of this machine runs there: of systemd's own there are only the targets that every service
# asks for, empty.
rm -rf "$root/etc/systemd"
units=$root/etc/systemd/system
mkdir -p "$units/service.d"
for name in test sysinit basic sockets multi-user shutdown; do
    printf '%s\\n' '[Unit]' 'DefaultDependencies=no' >"$units/$name.target"
done
{
    echo '[Service]'
    echo 'StandardOutput=append:/dev/kmsg'
    echo 'StandardError=append:/dev/kmsg'
    printf '%s\\n' "$DROP_IN"
} >"$units/service.d/test.conf"

exec env -i container=other PATH="$PATH" NOTIFY_SOCKET="$SHARED/notify" \\
    SYSTEMD_UNIT_PATH=/etc/systemd/system SYSTEMD_GENERATOR_PATH=/nowhere chroot "$root" \\
    /lib/systemd/systemd --unit=test.target --log-target=kmsg --log-level=info --show-status=no
"""


def _libc():
    return ctypes.CDLL(None, use_errno=True)


def _cgroup():
    """The folder of this process's cgroup in the hierarchy of version 2."""
    mount = None
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            fields, _, kind = line.partition(" - ")
            if kind.split()[0] == "cgroup2":
                mount = fields.split()
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        own = [line.rstrip("\n")[len("0::"):] for line in file if line.startswith("0::")]
    if mount is None or not own:
        raise Unavailable("no cgroup2 is mounted here")
    below = os.path.relpath(own[0], mount[3])
    folder = pathlib.Path(mount[4]) / ("." if below.startswith("..") else below)
    return folder if folder.is_dir() else pathlib.Path(mount[4])


@functools.cache
def version():
    said = subprocess.run([SYSTEMD, "--version"], capture_output=True, text=True, check=False)
    found = re.match(r"systemd (\d+)", said.stdout)
    return int(found.group(1)) if found else 0


def check():
    """Raises Unavailable for what can be told without trying."""
    if os.getuid() != 0:
        raise Unavailable("only root can boot a systemd of its own")
    if not SYSTEMD.exists():
        raise Unavailable(f"{SYSTEMD} is not there; install the package systemd")
    for tool in ("unshare", "nsenter", "mount"):
        if shutil.which(tool, path=PATH) is None:
            raise Unavailable(f"the tool {tool} is not there")
    _cgroup()


def _make_cgroup():
    """A cgroup of our own, beside those of other tests; what a killed one left behind goes."""
    parent = _cgroup()
    for stale in parent.glob(PREFIX + "*"):
        pid = stale.name[len(PREFIX):].partition("-")[0]
        if not os.path.exists(f"/proc/{pid}"):
            with contextlib.suppress(OSError):
                _remove_cgroup(stale)
    name = tempfile.mktemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent)
    try:
        os.mkdir(name)
    except OSError as error:
        raise Unavailable(f"no cgroup can be made in {parent}: {error.strerror}") from error
    return pathlib.Path(name)


def _remove_cgroup(folder):
    for path, _, _ in os.walk(folder, topdown=False):
        os.rmdir(path)


def _die_with_us():
    """For a child between fork and exec."""
    _libc().prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Machine:
    """A booted systemd. shared: a folder that both sides see at the same path, and may write to; the
    tree, and the folders of read_only, are there to be read."""

    def __init__(self, read_only=()):
        check()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="segue-"))
        self.shared = self.folder / "shared"
        self.shared.mkdir()
        (self.folder / "base").mkdir()
        self.units = []
        self.cgroup = None
        self._outside = self._init = None
        self.log = Log(self.folder / "systemd.log")
        try:
            self.cgroup = _make_cgroup()
            self._boot([builds.ROOT, *read_only])
        except BaseException:
            self.close()
            raise

    def __repr__(self):
        return f"<systemd {self._init.pid}>"

    def _boot(self, read_only):
        variables = "".join(f"Environment={name}={value}\n" for name, value in
                            builds.sanitizer_environment(self.shared).items())
        environment = {
            "PATH": PATH, "CGROUP": self.cgroup, "SETUP": SETUP, "BASE": self.folder / "base",
            "READ_ONLY": " ".join(map(str, read_only)), "SHARED": self.shared,
            "DROP_IN": variables,
        }
        command = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc", "--net",
                   "/bin/sh", "-c", ENTER]
        with NotifySocket(self.shared / "notify") as notify:
            try:
                with open(os.devnull, "rb") as nothing:
                    child = subprocess.Popen(
                        command, stdin=nothing, stdout=self.log.descriptor,
                        stderr=self.log.descriptor, start_new_session=True, cwd="/",
                        env={name: str(value) for name, value in environment.items()},
                        preexec_fn=_die_with_us)
            finally:
                self.log.started()
            child.returncode = 0  # Reaped here, not by subprocess.
            self._outside = processes.Process(child.pid)
            self._wait_booted(notify)
        self._init = processes.Process(processes.children(self._outside.pid)[0].pid)

    def _wait_booted(self, notify):
        deadline = until(None)
        while True:
            with contextlib.suppress(Expired):
                if "READY" in notify.receive(0.1).fields:
                    return
            if self._outside.ended:
                code = self._outside.reap()
                self.log.wait_end(10)
                said = self.log.text()
                if code == CANNOT or "unshare" in said:
                    raise Unavailable(f"no systemd can be booted here: {said}")
                raise AssertionError(f"systemd ended with {code}: {said}")
            deadline.check(f"systemd to boot:\n{self.log.text()}")

    def close(self):
        """Ends everything that runs there; nothing of it is left."""
        if self._outside is not None:
            if self._init is not None:
                self._init.send(signal.SIGKILL)
            else:
                self._outside.send(signal.SIGKILL)
            self._outside.reap()
            self._outside.close()
        if self._init is not None:
            self._init.close()
        self.log.started()
        self.log.wait_end(10)
        if self.cgroup is not None:
            _remove_cgroup(self.cgroup)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def running(self):
        return not self._init.ended

    # Files, commands, the network.

    def path(self, inside):
        """A path of the machine as this process reaches it."""
        return pathlib.Path(f"/proc/{self._init.pid}/root{inside}")

    def put(self, inside, content):
        """Writes a file (a text), or links a program (a path)."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content)
            return
        unfinished = path.with_name(f".{path.name}.part")
        unfinished.symlink_to(content)
        os.replace(unfinished, path)

    def command(self, *words):
        """What runs a command inside, as a list for Popen."""
        return ["nsenter", f"--target={self._init.pid}", "--all", "--root", "--wd", "--",
                "/usr/bin/env", "-i", f"PATH={PATH}", *map(str, words)]

    def run(self, *words, check_code=True, deadline=None):
        """Runs a command inside; (exit code, what it said)."""
        done = subprocess.run(
            self.command(*words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False, timeout=until(deadline).left())
        if check_code and done.returncode != 0:
            raise AssertionError(f"{words} ended with {done.returncode}: {done.stdout}")
        return done.returncode, done.stdout

    def systemctl(self, *words, **options):
        return self.run("systemctl", "--no-pager", *words, **options)

    @contextlib.contextmanager
    def network(self):
        """This thread is in the machine's network: sockets that it makes, programs it starts."""
        libc = _libc()
        own = f"/proc/self/task/{threading.get_native_id()}/ns/net"
        with open(own, "rb") as before, open(f"/proc/{self._init.pid}/ns/net", "rb") as there:
            self._setns(libc, there)
            try:
                yield
            finally:
                self._setns(libc, before)

    @staticmethod
    def _setns(libc, file):
        if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "cannot enter a network namespace")

    def connect(self, port, **options):
        """A Connection to a port inside."""
        with self.network():
            return Connection(("127.0.0.1", port), **options)

    def accepts(self, port):
        """Somebody listens on a port inside."""
        try:
            self.connect(port).close()
        except ConnectionRefusedError:
            return False
        return True

    # Units.

    def install(self, file, name=None):
        """Puts a unit file there, exactly as it is; its Unit. name: of an instance of a template."""
        self.put(f"/etc/systemd/system/{file.name}", file.read_text())
        self.units.append(Unit(self, name or file.name, file.name))
        return self.units[-1]

    def clean_up(self):
        """Stops and takes away what was installed; a text for each process that is left."""
        wrong = []
        for unit in reversed(self.units):
            unit.clean_up()
        for unit in self.units:
            wrong += [f"{unit} left process {pid} ({processes.command_line(pid)})"
                      for pid in unit.pids]
            processes.kill_all([processes.Stat(pid) for pid in unit.pids])
        self.units = []
        self.systemctl("daemon-reload")
        return wrong

    def sanitizer_reports(self, since=0):
        """A text for each, those in the log from a point on; their files are taken away."""
        found = [line for line in self.log.lines[since:] if ": runtime error: " in line]
        for name, text in builds.sanitizer_reports(self.shared):
            found.append(f"sanitizer report in {name}:\n{text}")
            (self.shared / name).unlink()
        return found

    def outside(self, inside_pid):
        """The pid by which this process knows a process of the machine."""
        for stat in processes.every_process():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if processes.status(stat.pid)["NSpid"].split()[1:] == [str(inside_pid)]:
                    if self._owns(stat.pid):
                        return stat.pid
        raise ProcessLookupError(f"{self} has no process {inside_pid}")

    def _owns(self, pid):
        namespaces = [os.stat(f"/proc/{one}/ns/pid").st_ino for one in (pid, self._init.pid)]
        return namespaces[0] == namespaces[1]


def inside(pid):
    """The pid by which the machine knows a process, from the one by which this process does."""
    return int(processes.status(pid)["NSpid"].split()[-1])


class Unit:
    """A unit of a Machine. Pids are those that this process sees."""

    def __init__(self, machine, name, file):
        self.machine = machine
        self.name = name
        self.file = file
        self._held = []

    def __repr__(self):
        return f"<unit {self.name}>"

    def __getattr__(self, verb):
        """unit.start(), .stop("--no-block"), ...: systemctl VERB OPTIONS NAME; (exit code, words)."""
        if verb.startswith("_"):
            raise AttributeError(verb)
        return functools.partial(self._systemctl, verb.replace("_", "-"))

    def _systemctl(self, verb, *words, **options):
        return self.machine.systemctl(verb, *words, self.name, **options)

    def drop_in(self, *lines):
        """[Service] settings over those of the unit file."""
        text = "\n".join(["[Service]", *lines, ""])
        self.machine.put(f"/etc/systemd/system/{self.name}.d/drop-in.conf", text)
        self.machine.systemctl("daemon-reload")

    def show(self, *properties):
        """The values of properties of the unit, in the order asked for; alone: its value."""
        wanted = [f"--property={name}" for name in properties]
        _, said = self.machine.systemctl("show", *wanted, self.name)
        found = dict(line.partition("=")[::2] for line in said.splitlines())
        values = tuple(found[name] for name in properties)
        return values if len(values) > 1 else values[0]

    @property
    def main_pid(self):
        """The main pid as systemd has it, 0 for none."""
        pid = int(self.show("MainPID"))
        return self.machine.outside(pid) if pid else 0

    @property
    def main(self):
        """The Process of the main pid; clean_up() closes it."""
        process = processes.Process(self.main_pid)
        self._held.append(process)
        return process

    @property
    def cgroup(self):
        return self.machine.cgroup / self.show("ControlGroup").lstrip("/")

    @property
    def pids(self):
        """The processes of the unit's cgroup, in order."""
        group = self.show("ControlGroup")
        if not group:
            return []
        found = []
        with contextlib.suppress(FileNotFoundError, OSError):
            for path, _, _ in os.walk(self.machine.cgroup / group.lstrip("/")):
                found += pathlib.Path(path, "cgroup.procs").read_text().split()
        return sorted(map(int, found))

    def clean_up(self):
        """Stops the unit and takes it away, its drop-ins too."""
        self.stop(check_code=False)
        self.reset_failed(check_code=False)
        for process in self._held:
            process.close()
        self.machine.path(f"/etc/systemd/system/{self.file}").unlink(missing_ok=True)
        folder = self.machine.path(f"/etc/systemd/system/{self.name}.d")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def systemd_session():
    """One booted systemd for all tests of this worker."""
    folders = [pathlib.Path(os.environ[name]).resolve() for name in os.environ
               if name.startswith("SEGUE_BUILD_")]
    try:
        machine = Machine(folders)
    except Unavailable as error:
        pytest.skip(str(error))
    yield machine
    machine.close()


@pytest.fixture
def machine(systemd_session, build, folder):
    """The booted systemd, with the build's programs in /usr/local/bin. What a test installs is
    stopped and taken away after it, and nothing of it may run then."""
    assert systemd_session.running, "systemd has ended"
    for program in ("examples/hello", "src/segue/segue"):
        with contextlib.suppress(AssertionError):
            path = build.program(program)
            systemd_session.put(f"/usr/local/bin/{path.name}", path)
    # For the report of a failure.
    (folder / "systemd.log").symlink_to(systemd_session.log.path)
    mark = systemd_session.log.mark_line()
    yield systemd_session
    wrong = systemd_session.clean_up()
    wrong += systemd_session.sanitizer_reports(mark)
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)
