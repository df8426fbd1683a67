"""What the kernel knows of a process, and the only ways in which tests end one.

A process is held by its pidfd, so that a signal can never reach another that got its pid. The test
process is a subreaper: a generation whose predecessor has gone becomes its child, and its exit
status arrives here.
"""

import ctypes
import os
import select
import signal
import struct

from harness.deadline import Expired, until

PR_SET_CHILD_SUBREAPER = 36


def become_subreaper():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot become a subreaper")


class Stat:
    """The fields of /proc/PID/stat that tests ask for."""

    def __init__(self, pid):
        with open(f"/proc/{pid}/stat", "rb") as file:
            head, _, tail = file.read().rpartition(b")")
        fields = tail.split()
        self.pid = pid
        self.name = head.partition(b"(")[2].decode(errors="replace")
        self.state = fields[0].decode()
        self.parent = int(fields[1])
        self.group = int(fields[2])
        self.session = int(fields[3])
        self.threads = int(fields[17])
        self.start_ticks = int(fields[19])

    @property
    def zombie(self):
        return self.state in "ZX"


def every_process():
    """A Stat for each process of the machine that did not vanish meanwhile."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            yield Stat(int(name))
        except (FileNotFoundError, ProcessLookupError):
            continue


def children(parent=None):
    """Stats of the children of a process (of this one), zombies too."""
    parent = parent or os.getpid()
    return [stat for stat in every_process() if stat.parent == parent]


def descendants():
    """Stats of the processes below this one, zombies too. Orphans of theirs come back here: see
    become_subreaper(). One whose parent has vanished meanwhile is among them."""
    below, seen = {}, {0}
    for stat in every_process():
        below.setdefault(stat.parent, []).append(stat)
        seen.add(stat.pid)
    found, at = [], [os.getpid(), *(set(below) - seen)]
    while at:
        some = below.pop(at.pop(), [])
        found += some
        at += [stat.pid for stat in some]
    return found


def of_session(session):
    """Stats of the processes of a session, zombies too."""
    return [stat for stat in every_process() if stat.session == session]


def descriptors(pid="self"):
    """{number: target} of the open descriptors, e.g. {3: 'socket:[1234]'}."""
    folder = f"/proc/{pid}/fd"
    found = {}
    for name in os.listdir(folder):
        try:
            found[int(name)] = os.readlink(f"{folder}/{name}")
        except FileNotFoundError:
            continue  # listdir's own descriptor, or one closed meanwhile
    if pid == "self":
        found = {fd: target for fd, target in found.items() if _is_open(fd)}
    return found


def _is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def environment(pid):
    """The environment that a process was started with, as a dict."""
    with open(f"/proc/{pid}/environ", "rb") as file:
        pairs = [entry.partition(b"=") for entry in file.read().split(b"\0") if entry]
    return {name.decode(): value.decode(errors="surrogateescape") for name, _, value in pairs}


def command_line(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return [word.decode(errors="surrogateescape") for word in file.read().split(b"\0")[:-1]]


def status(pid):
    """/proc/PID/status as a dict of strings, e.g. ['Umask'], ['SigIgn'], ['SigBlk']."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        pairs = [line.partition(":") for line in file]
    return {name: value.strip() for name, _, value in pairs}


def working_directory(pid):
    return os.readlink(f"/proc/{pid}/cwd")


def program(pid):
    return os.readlink(f"/proc/{pid}/exe")


def memory(pid):
    """{'Rss': bytes, 'Pss': bytes, 'Private_Dirty': bytes, ...} of the whole process."""
    found = {}
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        for line in file:
            words = line.split()
            if len(words) == 3 and words[2] == "kB":
                found[words[0].rstrip(":")] = int(words[1]) * 1024
    return found


def threads(pid):
    return sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))


def listening(pid):
    """The addresses that a process listens on, sorted: 'tcp://127.0.0.1:80', 'unix:///path'."""
    sockets = {target for target in descriptors(pid).values() if target.startswith("socket:")}
    inodes = {target[len("socket:[") : -1] for target in sockets}
    with open("/proc/net/tcp", encoding="ascii") as file:
        found = [_ipv4(words[1]) for words in _listeners(file, inodes)]
    with open("/proc/net/tcp6", encoding="ascii") as file:
        found += [_ipv6(words[1]) for words in _listeners(file, inodes)]
    with open("/proc/net/unix", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            words = line.rstrip("\n").split(None, 7)
            # Flag 0x10000: the socket listens.
            if len(words) == 8 and words[6] in inodes and int(words[3], 16) & 0x10000:
                found.append(f"unix://{words[7]}")
    return sorted(found)


def _listeners(file, inodes):
    """The kernel lists listening sockets (0A) first; the rest can be tens of thousands of lines."""
    next(file)
    for line in file:
        words = line.split()
        if words[3] != "0A":
            return
        if words[9] in inodes:
            yield words


def _ipv4(text):
    address, port = text.split(":")
    packed = struct.pack("=I", int(address, 16))
    return f"tcp://{'.'.join(str(byte) for byte in packed)}:{int(port, 16)}"


def _ipv6(text):
    import ipaddress

    address, port = text.split(":")
    words = [int(address[at : at + 8], 16) for at in range(0, 32, 8)]
    return f"tcp://[{ipaddress.IPv6Address(struct.pack('=4I', *words))}]:{int(port, 16)}"


def exit_code(info):
    """Of what waitid() returned: a number, negative for a signal."""
    return info.si_status if info.si_code == os.CLD_EXITED else -info.si_status


class Process:
    """A process held by its pidfd. As a context manager it closes the pidfd at the end."""

    def __init__(self, pid):
        self.pid = pid
        self.exit_code = None  # once reaped, by whomever of this test
        self.pidfd = os.pidfd_open(pid)

    def __repr__(self):
        return f"<process {self.pid}>"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def send(self, number):
        """False where the process is dead already."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return False
        return True

    @property
    def ended(self):
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def wait(self, deadline=None):
        """Blocks until the process has ended (it may still be a zombie)."""
        deadline = until(deadline)
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        while not poll.poll(deadline.left() * 1000 + 1):
            deadline.check(f"the end of process {self.pid}")

    def reap(self, deadline=None):
        """Waits for the end and returns the exit code (negative: a signal), or None where the
        process was another's child and its parent has reaped it."""
        if self.exit_code is not None:
            return self.exit_code
        self.wait(deadline)
        try:
            info = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return None
        if info is not None:
            self.exit_code = exit_code(info)
        return self.exit_code

    def stop(self, deadline=None):
        """SIGSTOP, and blocks until it has taken effect."""
        deadline = until(deadline)
        self.send(signal.SIGSTOP)
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        # Only a parent can wait for this, and a generation's parent may be its predecessor; so the
        # state is read again until it has changed. The kernel stops a process within microseconds.
        while Stat(self.pid).state != "T":
            if poll.poll(1):
                raise Expired(f"process {self.pid} ended instead of stopping")
            deadline.check(f"process {self.pid} to stop")

    def go_on(self):
        self.send(signal.SIGCONT)


def kill_all(stats):
    """Ends what is left, by pidfd, and reaps it. Returns a text for each that there was."""
    said = []
    for stat in stats:
        try:
            process = Process(stat.pid)
        except ProcessLookupError:
            continue
        with process:
            said.append(f"{stat.pid} ({stat.name}, state {stat.state})")
            process.send(signal.SIGKILL)
            try:
                process.reap(10)
            except Expired:
                said[-1] += ", which does not die"
    return said
