"""A service that replaces itself in the bluntest way, for tests of the harness and the tools.

    stand_in.py PID_FILE

Environment: CODE, the exit code after TERM; IGNORE, ignore TERM and INT; CRASH, exit with this code
as generation 2; STAY, go only after the successor has gone.
"""

import json
import os
import signal
import socket
import sys

generation = int(os.environ.get("GENERATION", "1"))


def say(event):
    line = {"event": event, "generation": generation, "pid": os.getpid()}
    os.write(2, (json.dumps(line) + "\n").encode())  # From handlers too, which print() is not for.


def upgrade(*_):
    successor = os.fork()
    if successor == 0:
        os.environ.update(GENERATION=str(generation + 1), LISTENER=str(listener.fileno()))
        os.execv(sys.executable, [sys.executable, *sys.argv])
    if "STAY" in os.environ:
        os.waitid(os.P_PID, successor, os.WEXITED | os.WNOWAIT)
    os._exit(0)


def end(number, _):
    say(signal.Signals(number).name)
    os._exit(int(os.environ.get("CODE", "0")))


if generation > 1:
    listener = socket.socket(fileno=int(os.environ["LISTENER"]))
    if "CRASH" in os.environ:
        os._exit(int(os.environ["CRASH"]))
else:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
listener.set_inheritable(True)
with open(sys.argv[1], "w", encoding="ascii") as file:
    file.write(str(os.getpid()))
signal.signal(signal.SIGUSR2, upgrade)
for stop in (signal.SIGTERM, signal.SIGINT):
    signal.signal(stop, signal.SIG_IGN if "IGNORE" in os.environ else end)
say("serving")
while True:
    connection, _ = listener.accept()
    with connection:
        connection.recv(4096)
        head = f"Content-Length: 2\r\nSegue-Generation: {generation}\r\nSegue-Pid: {os.getpid()}"
        connection.sendall(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\nhi".encode())
