"""The application that gunicorn serves. A deployment writes the number of the version beside it."""

import os
import pathlib
import time

GENERATION = pathlib.Path(__file__).with_name("generation").read_text(encoding="ascii").strip()


def app(environ, start_response):
    environ["wsgi.input"].read()
    if environ["PATH_INFO"] == "/slow":
        time.sleep(0.3)
    start_response("200 OK", [
        ("Content-Type", "text/plain"),
        ("Content-Length", "13"),
        ("Segue-Generation", GENERATION),
        ("Segue-Pid", str(os.getpid())),
    ])
    return [b"hello, world\n"]
