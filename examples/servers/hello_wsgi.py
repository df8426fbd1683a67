"""The application that gunicorn.conf.py is the configuration for."""

import os


def app(environ, start_response):
    environ["wsgi.input"].read()
    body = b"hello, world\n"
    start_response("200 OK" if environ["PATH_INFO"] == "/hello" else "404 Not Found", [
        ("Content-Type", "text/plain"),
        ("Content-Length", str(len(body))),
        ("Segue-Generation", os.environ.get("SEGUE_GENERATION", "0")),
    ])
    return [body]
