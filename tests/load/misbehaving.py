"""A small server whose every misbehaviour is a script: a function that gets each connection.

Each accepted connection is served by a thread of its own. A script reads requests with request(),
sends whatever bytes it likes and ends the stream in order (close) or with a reset.
"""

import select
import socket
import struct
import threading


def answer(body=b"hello", status=b"200 OK", headers=b"", length=True):
    """The bytes of one answer."""
    head = b"HTTP/1.1 " + status + b"\r\n" + headers
    if length:
        head += b"Content-Length: %d\r\n" % len(body)
    return head + b"\r\n" + body


class Connection:
    """A connection as the scripts see it; number counts from 0 in the order of accept."""

    def __init__(self, sock, number):
        self.sock = sock
        self.number = number
        self.unread = b""
        self.body = b""
        self.followed = threading.Event()

    def more(self):
        try:
            data = self.sock.recv(65536)
        except ConnectionError:
            data = b""
        self.unread += data
        return bool(data)

    def request(self):
        """Reads one request; its head, or None at the end of the stream."""
        while b"\r\n\r\n" not in self.unread:
            if not self.more():
                return None
        head, _, self.unread = self.unread.partition(b"\r\n\r\n")
        size = 0
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                size = int(value)
        while len(self.unread) < size:
            if not self.more():
                return None
        self.body, self.unread = self.unread[:size], self.unread[size:]
        return head

    def send(self, data):
        self.sock.sendall(data)

    def hold(self):
        """Neither reads nor ends anything until the next connection is accepted, or the with block
        ends: what the client has not sent by then it cannot send."""
        self.followed.wait()

    def close(self):
        """Ends the stream in order: nothing unread may be left, or the kernel resets."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
            while self.sock.recv(65536):
                pass
        except OSError:
            pass
        self.sock.close()

    def reset(self):
        if self.sock.family == socket.AF_UNIX:
            self.sock.close()
            return
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Server:
    """Serves every connection by script(connection) until the with block ends. receive_buffer: of each
    connection, in bytes; the kernel takes no more from a client than the script reads and this."""

    def __init__(self, script, address=("127.0.0.1", 0), backlog=1024, receive_buffer=None):
        self.script = script
        family = socket.AF_UNIX if isinstance(address, (str, bytes)) else (
            socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        self.listener = socket.socket(family, socket.SOCK_STREAM)
        if receive_buffer is not None:
            # Before listen(): a window that was offered is never taken back.
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.listener.bind(address)
        self.listener.listen(backlog)
        self.wake, self.woken = socket.socketpair()
        self.accepted = 0
        self.last = None
        self.open = set()
        self.lock = threading.Lock()
        self.threads = []
        self.errors = []

    @property
    def port(self):
        return self.listener.getsockname()[1]

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/hello"

    def serve(self, connection):
        try:
            self.script(connection)
        except OSError:
            pass
        except Exception as error:  # shown by the test, whose counts would only be odd
            self.errors.append(error)
        finally:
            connection.sock.close()
            with self.lock:
                self.open.discard(connection)

    def accept(self):
        while True:
            readable, _, _ = select.select([self.listener, self.woken], [], [])
            if self.woken in readable:
                return
            sock, _ = self.listener.accept()
            connection = Connection(sock, self.accepted)
            self.accepted += 1
            self.follow(connection)
            with self.lock:
                self.open.add(connection)
            thread = threading.Thread(target=self.serve, args=(connection,), daemon=True)
            thread.start()
            self.threads.append(thread)

    def follow(self, connection):
        """The connection, or the end (None), comes after the last one."""
        if self.last is not None:
            self.last.followed.set()
        self.last = connection

    def __enter__(self):
        self.acceptor = threading.Thread(target=self.accept, daemon=True)
        self.acceptor.start()
        return self

    def __exit__(self, *_):
        self.wake.close()
        self.acceptor.join(10)
        self.follow(None)
        with self.lock:
            for connection in self.open:
                try:
                    connection.sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        for thread in self.threads:
            thread.join(10)
        self.listener.close()
        self.woken.close()
        assert not self.errors, self.errors
