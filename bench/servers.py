"""The servers that are measured, each started in a fresh folder and ended by its own process id."""

import contextlib
import os
import pathlib
import select
import socket
import tempfile

from harness import processes
from harness.deadline import Deadline
from harness.http import get
from harness.load import Load
from harness.service import Service
from harness.supervised import Supervised

GREETING = "hello, world\n"
TICK = os.sysconf("SC_CLK_TCK")

# As close to hello as its directives come: as many header fields, about as many bytes.
NGINX = """
daemon off;
worker_processes 1;
worker_rlimit_nofile {descriptors};
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
{user}
events {{
    worker_connections {connections};
}}
http {{
    access_log off;
    server_tokens off;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_header_timeout 1h;
    default_type text/plain;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = /hello {{
            return 200 "hello, world\\n";
        }}
    }}
}}
"""


def keep_to(core, pid):
    """A process, and what it starts later, runs on one core; the n-th of those there are."""
    cores = sorted(os.sched_getaffinity(0))
    if core is not None:
        os.sched_setaffinity(pid, {cores[core % len(cores)]})


class Server:
    """A service with an address that is asked for once."""

    def __init__(self, service, address):
        self.service = service
        self.address = address
        self.url = f"http://{address[0]}:{address[1]}/hello"

    def pids(self):
        return self.service.running

    def cpu_seconds(self):
        """utime + stime of its processes."""
        total = 0
        for pid in self.pids():
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICK

    def memory(self):
        """The proportional set size of its processes, in bytes."""
        return sum(processes.memory(pid)["Pss"] for pid in self.pids())

    def answer_bytes(self):
        """How long one answer is, head and body."""
        with socket.create_connection(self.address, timeout=10) as one:
            one.sendall(b"GET /hello HTTP/1.1\r\nHost: bench\r\n\r\n")
            data = b""
            while not data.endswith(GREETING.encode()):
                data += one.recv(65536)
        return len(data)


@contextlib.contextmanager
def _owned(service):
    try:
        yield service
    finally:
        wrong = service.finish()
        if wrong:
            raise RuntimeError("\n".join(wrong))


@contextlib.contextmanager
def hello(build, folder, *options, core=None):
    """The example, with one loop."""
    folder = _fresh(folder)
    command = [build.program("hello"), "--listen", "tcp://127.0.0.1:0", "--threads", 1,
               "--pid-file", folder / "pid", "--log-format", "json", *options]
    with _owned(Service(command, folder, pid_file=folder / "pid", name="hello",
                        preexec=lambda: keep_to(core, 0))) as service:
        service.wait_serving()
        yield Server(service, service.address)


@contextlib.contextmanager
def supervised(build, folder, *options, workers=1, core=None):
    """The same under `segue run`. Its processes are the supervisor, the relay of the workers' output,
    and the workers."""
    folder = _fresh(folder)
    words = ["--listen", "http=tcp://127.0.0.1:0", "--workers", workers, "--", build.program("hello"),
             "--threads", 1, "--log-format", "json", *options]
    with _owned(Supervised(build.program("src/segue/segue"), folder, *words, name="hello",
                           preexec=lambda: keep_to(core, 0))) as service:
        service.wait_serving()
        yield Server(service, service.address)


@contextlib.contextmanager
def nginx(folder, core=None):
    """Debian's, with one worker."""
    folder = _fresh(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(NGINX.format(
        folder=folder, port=port, user=user, descriptors=12000, connections=11000))
    command = ["/usr/sbin/nginx", "-p", folder, "-e", folder / "error.log", "-c", folder / "nginx.conf"]
    with _owned(Service(command, folder, name="nginx", pid_file=folder / "nginx.pid",
                        preexec=lambda: keep_to(core, 0))) as service:
        _wait_answer(("127.0.0.1", port), service)
        yield Server(service, ("127.0.0.1", port))


def _wait_answer(address, service):
    """nginx does not say when it serves; it is asked until it answers or has ended."""
    deadline = Deadline(30)
    while not service.first.ended:
        deadline.check("nginx's first answer")
        try:
            assert get(address).body == GREETING.encode()
            return
        except ConnectionRefusedError:
            select.select([], [], [], 0.01)
    raise RuntimeError(f"nginx has ended: {service.log.text()}")


def _fresh(folder):
    return pathlib.Path(tempfile.mkdtemp(dir=folder))


@contextlib.contextmanager
def load(build, folder, *arguments, core=None):
    """segue-load; its result by .result() or .stop()."""
    program = build.program("src/load/segue-load")
    one = Load(program, _fresh(folder), *arguments)
    keep_to(core, one.first.pid)
    with _owned(one):
        yield one
