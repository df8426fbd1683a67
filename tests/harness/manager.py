"""A stand-in for a service manager: it hands over sockets as systemd does, and listens on a
notification socket as systemd does.
"""

import array
import fcntl
import os
import socket
import struct

from harness.deadline import Expired, until

FIRST = 3  # sd_listen_fds(3)


def activation(sockets, names=None, pid="$$", count=None):
    """{before, pass_fds} for start(): the program finds the sockets as descriptors 3, 4, ... with
    LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES. pid and count lie where a test wants them to. The
    caller keeps its own copies, and closes what is in 'pass_fds' when the program has started."""
    high = [fcntl.fcntl(one.fileno(), fcntl.F_DUPFD_CLOEXEC, 200) for one in sockets]
    moves = " ".join(f"{FIRST + at}<&{fd}-" for at, fd in enumerate(high))
    script = f"exec {moves};" if high else ""
    script += f" export LISTEN_PID={pid} LISTEN_FDS={len(high) if count is None else count};"
    if names is not None:
        script += f" export LISTEN_FDNAMES='{':'.join(names)}';"
    # bash, since dash knows descriptors of one digit only.
    before = ["/bin/bash", "-c", script + ' exec "$@"', "bash"]
    return {"before": before, "pass_fds": tuple(high)}


def close_all(fds):
    for fd in fds:
        os.close(fd)


class Message:
    """One datagram: its assignments, who sent it, and whether descriptors came with it."""

    def __init__(self, text, pid, descriptors):
        self.text = text
        self.pid = pid
        self.descriptors = descriptors
        self.fields = dict(line.partition("=")[::2] for line in text.splitlines() if line)

    def __repr__(self):
        return f"<{self.text!r} from {self.pid}>"


class NotifySocket:
    """$NOTIFY_SOCKET, with the sender's pid from the kernel. A barrier (BARRIER=1 with a descriptor)
    is answered at once by closing that descriptor, unless hold_barriers is set."""

    def __init__(self, path, hold_barriers=False):
        self.path = str(path)
        self.messages = []
        self.hold_barriers = hold_barriers
        self.barriers = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(self.path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.release_barriers()
        self._socket.close()

    def release_barriers(self):
        close_all(self.barriers)
        self.barriers = []

    def receive(self, deadline=None):
        """The next message; it is in .messages as well."""
        deadline = until(deadline)
        self._socket.settimeout(deadline.left() or 0.001)
        room = socket.CMSG_SPACE(struct.calcsize("3i")) + socket.CMSG_SPACE(4 * 64)
        try:
            data, ancillary, _, _ = self._socket.recvmsg(65536, room, socket.MSG_CMSG_CLOEXEC)
        except TimeoutError as error:
            raise Expired(
                f"waited {deadline.seconds:g} s for a message after {self.messages}"
            ) from error
        pid, descriptors = None, []
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                pid = struct.unpack("3i", content)[0]
            elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                found = array.array("i")
                found.frombytes(content[: len(content) - len(content) % found.itemsize])
                descriptors += found
        message = Message(data.decode(), pid, len(descriptors))
        self.messages.append(message)
        if self.hold_barriers:
            self.barriers += descriptors
        else:
            close_all(descriptors)
        return message

    def wait_for(self, line, deadline=None):
        """The first message from now on that has this line, e.g. 'READY=1'."""
        deadline = until(deadline)
        while True:
            message = self.receive(deadline)
            if line in message.text.splitlines():
                return message
