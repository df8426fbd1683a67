"""gunicorn for a reload (HUP) and for an upgrade (USR2).

docs.gunicorn.org, "Settings" and "Design", are where the reasons below come from.
"""

bind = "127.0.0.1:@PORT@"
pidfile = "@FOLDER@/gunicorn.pid"

# "Design", "How Many Workers?": "we recommend (2 x $num_cores) + 1 as the number of workers to start off
# with".
workers = @WORKERS@

# Measured with both. The default class, sync, keeps no connection: it says "Connection: close" in each
# answer, and is meant to stand behind a proxy. "Design": with threads (gthread) connections can be kept.
worker_class = "@CLASS@"
threads = 4 if worker_class == "gthread" else 1

# "Settings", keepalive: "When Gunicorn is deployed behind a load balancer, it often makes sense to set this
# to a higher value." Its 2 s would close most of the connections without any restart.
keepalive = 3600
worker_connections = 4000

# FAQ, "How do I avoid Gunicorn excessively blocking in os.fchmod?"
worker_tmp_dir = "/dev/shm"

# Not set: preload_app. "Signal Handling", "Reload the configuration": with it HUP does not load the new
# version of the application.
