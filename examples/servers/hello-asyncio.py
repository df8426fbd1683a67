#!/usr/bin/python3
"""A small HTTP server on Python's asyncio that can be replaced under load.

    segue run --listen :8080 -- /usr/bin/python3 hello-asyncio.py

It takes its listening socket over, says READY=1 when it accepts, and at TERM accepts no more. Each
kept connection then gets one more answer, with "Connection: close"; one on which no request comes
within LINGER seconds is closed. LINGER=0 closes the idle ones at once, which loses what is on its way.
"""

import asyncio
import os
import re
import signal
import socket
import sys

LINGER = float(os.environ.get("LINGER", 5))
HEADERS = f"Content-Length: 13\r\nSegue-Generation: {os.environ.get('SEGUE_GENERATION', 0)}\r\n".encode()


def inherited():
    """The first socket of sd_listen_fds(3)."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        sys.exit("no socket is meant for me: start me by segue run --listen, without a wrapper")
    return socket.socket(fileno=3)


def notify(text):
    """sd_notify(3)."""
    if path := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
            to.sendto(text, "\0" + path[1:] if path[0] == "@" else path)


async def serve(sock, idle, stopping):
    reader, writer = await asyncio.open_connection(sock=sock)
    close = False
    try:
        while not close:
            idle.add(writer)
            head = await reader.readuntil(b"\r\n\r\n")
            idle.discard(writer)
            length = re.search(rb"\ncontent-length: *(\d+)", head, re.I)
            await reader.readexactly(int(length[1]) if length else 0)
            found = head.startswith((b"GET /hello ", b"POST /hello "))
            close = stopping.is_set() or b"connection: close" in head.lower()
            status = b"HTTP/1.1 200 OK\r\n" if found else b"HTTP/1.1 404 Not Found\r\n"
            last = b"Connection: close\r\n" if close else b""
            writer.write(status + HEADERS + last + b"\r\nhello, world\n")
            await writer.drain()
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
        pass
    finally:
        idle.discard(writer)
        writer.close()


async def main():
    loop, listener, stopping = asyncio.get_running_loop(), inherited(), asyncio.Event()
    idle, served = set(), set()

    def accept():
        # A callback rather than loop.sock_accept(): cancelling that may lose a connection.
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return  # The other generation was faster.
        sock.setblocking(False)
        task = asyncio.create_task(serve(sock, idle, stopping))
        served.add(task)
        task.add_done_callback(served.discard)

    listener.setblocking(False)
    loop.add_reader(listener, accept)
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    notify(b"READY=1")
    await stopping.wait()
    loop.remove_reader(listener)
    loop.call_later(LINGER, lambda: [writer.close() for writer in idle])
    await asyncio.gather(*served)


asyncio.run(main())
