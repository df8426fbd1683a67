"""gunicorn that can be replaced under load.

    segue run --listen :8080 -- gunicorn --config gunicorn.conf.py hello_wsgi:app

gunicorn takes its listening socket over (LISTEN_FDS) and says READY=1 by itself, but before its workers
have loaded the application; with preload_app it has loaded it by then.

At TERM a threaded worker drops its kept connections, and loses what is on its way on them. The hook below
makes it accept no more, give each one more answer with "Connection: close", and stop after LINGER
seconds. It uses what gunicorn 20.1 calls private. LINGER=0 is gunicorn alone.
"""

import os
import signal
import threading

LINGER = float(os.environ.get("LINGER", 5))

preload_app = True
worker_class = "gthread"
threads = 8
keepalive = 75  # Its default is 2 s, after which gunicorn closes and says nothing.
graceful_timeout = 25 + int(LINGER)


def post_worker_init(worker):
    """Called in each worker when its signals are set and before it accepts."""

    def linger(_number, _frame):
        for sock in worker.sockets:
            worker.poller.unregister(sock)
        worker.max_keepalived = 0
        threading.Timer(LINGER, worker.handle_exit, (signal.SIGTERM, None)).start()

    if LINGER and hasattr(worker, "tpool"):
        signal.signal(signal.SIGTERM, linger)
