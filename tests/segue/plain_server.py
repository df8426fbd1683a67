"""A server that knows nothing of libsegue: takes its listener by LISTEN_FDS, says READY=1, answers one
request a connection, and ends at TERM after what it has accepted. Each argument is a Python
statement that is run first.
"""

import os
import select
import signal
import socket
import sys

code = 0  # of its exit
for statement in sys.argv[1:]:
    exec(statement)  # pylint: disable=exec-used
assert int(os.environ["LISTEN_PID"]) == os.getpid() and int(os.environ["LISTEN_FDS"]) >= 1
listener = socket.socket(fileno=3)
listener.setblocking(False)
reading, writing = os.pipe()
os.set_blocking(writing, False)
signal.set_wakeup_fd(writing)
ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(b"READY=1\nSTATUS=plain", os.environ["NOTIFY_SOCKET"])
while not ended:
    ready = select.select([listener, reading], [], [])[0]
    if reading in ready:
        os.read(reading, 100)
    if ended or listener not in ready:
        continue
    try:
        client, _ = listener.accept()
    except BlockingIOError:
        continue
    with client:
        client.setblocking(True)
        data = b""
        while b"\r\n\r\n" not in data and (more := client.recv(65536)):
            data += more
        if data:
            body = b"hello, world\n"
            client.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nSegue-Pid: %d\r\n"
                           b"Content-Length: %d\r\n\r\n%s" % (os.getpid(), len(body), body))
sys.exit(code)
