"""An exact HTTP/1.1 client on a bare socket: what is sent is what was written, byte by byte, and
what comes back is read strictly. It never retries and never hides an end of file.
"""

import socket

from harness.deadline import Expired, until


class Malformed(AssertionError):
    """The server sent what is no HTTP/1.1 response."""


class Closed(AssertionError):
    """The connection ended. .received is what came before, .reset whether by a reset."""

    def __init__(self, received, reset=False):
        how = "was reset" if reset else "ended"
        super().__init__(f"the connection {how} after {received[:200]!r}")
        self.received = bytes(received)
        self.reset = reset


class Response:
    def __init__(self, version, status, reason, headers, body=b""):
        self.version = version
        self.status = status
        self.reason = reason
        self.headers = headers  # a list of (name, value), as sent
        self.body = body

    def __repr__(self):
        return f"<response {self.status} {self.body[:60]!r}>"

    def all(self, name):
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def header(self, name, default=None):
        """The value of a header that comes at most once."""
        values = self.all(name)
        if len(values) > 1:
            raise Malformed(f"{name} comes {len(values)} times")
        return values[0] if values else default

    @property
    def generation(self):
        return int(self.header("Segue-Generation"))

    @property
    def pid(self):
        return int(self.header("Segue-Pid"))


def request(method="GET", target="/hello", headers=(), body=None, host="test", version="1.1"):
    """The bytes of a well-formed request."""
    lines = [f"{method} {target} HTTP/{version}", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b"")


class Connection:
    """address: (host, port), or a unix path ('@name': abstract). Use as a context manager."""

    def __init__(self, address, deadline=None, receive_buffer=None):
        self.deadline = until(deadline)
        if isinstance(address, str):
            family = socket.AF_UNIX
            address = "\0" + address[1:] if address.startswith("@") else address
        else:
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.buffer = bytearray()
        try:
            if receive_buffer is not None:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self.socket.settimeout(self.deadline.left() or 0.001)
            self.socket.connect(address)
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def again(self, deadline=None):
        """A new deadline for what follows; the connection itself, for chaining."""
        self.deadline = until(deadline)
        return self

    def send(self, data):
        self.socket.settimeout(self.deadline.left() or 0.001)
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed(self.buffer, reset=True) from error
        except TimeoutError as error:
            raise Expired(f"waited {self.deadline.seconds:g} s to send") from error
        return self

    def end_sending(self):
        self.socket.shutdown(socket.SHUT_WR)
        return self

    def get(self, target="/hello", **options):
        return self.ask("GET", target, **options)

    def ask(self, method="GET", target="/hello", **options):
        """Sends one request, reads one response."""
        self.send(request(method, target, **options))
        return self.response(head=method == "HEAD")

    def _fill(self):
        """More bytes into the buffer; False at the end of file."""
        self.socket.settimeout(self.deadline.left() or 0.001)
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError as error:
            raise Closed(self.buffer, reset=True) from error
        except TimeoutError as error:
            raise Expired(
                f"waited {self.deadline.seconds:g} s for more than {bytes(self.buffer[:200])!r}"
            ) from error
        self.buffer += data
        return bool(data)

    def _line(self):
        while b"\r\n" not in self.buffer:
            if not self._fill():
                raise Closed(self.buffer)
        line, _, rest = self.buffer.partition(b"\r\n")
        self.buffer = rest
        if b"\r" in line or b"\n" in line:
            raise Malformed(f"bare CR or LF in {bytes(line)!r}")
        return line.decode("latin-1")

    def _exactly(self, count):
        while len(self.buffer) < count:
            if not self._fill():
                raise Closed(self.buffer)
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    def _fields(self):
        headers = []
        while line := self._line():
            name, colon, value = line.partition(":")
            if not colon or not name or name != name.strip():
                raise Malformed(f"header line {line!r}")
            headers.append((name, value.strip(" \t")))
        return headers

    def response(self, head=False, interim=False):
        """Reads one response, to its last byte and no further. interim: a 1xx too."""
        while True:
            version, _, rest = self._line().partition(" ")
            code, _, reason = rest.partition(" ")
            if version not in ("HTTP/1.1", "HTTP/1.0") or len(code) != 3 or not code.isdigit():
                raise Malformed(f"status line {version!r} {rest!r}")
            response = Response(version, int(code), reason, self._fields())
            if response.status >= 200:
                break
            if interim:
                return response
        response.body = b"" if head else self._body(response)
        return response

    def _body(self, response):
        coding = response.header("Transfer-Encoding")
        length = response.header("Content-Length")
        if response.status in (204, 304):
            return b""
        if coding is not None:
            if length is not None or coding.lower() != "chunked":
                raise Malformed(f"Transfer-Encoding {coding!r} with Content-Length {length!r}")
            return self._chunks()
        if length is not None:
            if not length.isdigit():
                raise Malformed(f"Content-Length {length!r}")
            return self._exactly(int(length))
        return self.rest()

    def _chunks(self):
        body = b""
        while size := int(self._line().partition(";")[0], 16):
            body += self._exactly(size)
            if self._line():
                raise Malformed("no CRLF after a chunk")
        self._fields()
        return body

    def rest(self):
        """Everything up to the end of file."""
        while self._fill():
            pass
        data = bytes(self.buffer)
        self.buffer.clear()
        return data

    def is_idle(self):
        """Nothing has come and the connection is open, as of now."""
        self.socket.setblocking(False)
        try:
            self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return not self.buffer
        except ConnectionResetError:
            return False
        return False


def get(address, target="/hello", **options):
    """One request on a connection of its own."""
    with Connection(address) as connection:
        return connection.get(target, **options)
