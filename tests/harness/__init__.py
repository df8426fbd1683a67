"""What the functional tests are made of: real processes, real sockets, no sleeping.

    processes   what the kernel knows of a process; pidfds; waiting for the end
    log         a program's log as events, waited for
    service     a server program with all its generations
    load        the counting client, segue-load
    http        an exact HTTP/1.1 client on a bare socket
    manager     a stand-in for systemd: sockets handed over, notifications received
    systemd     a real systemd, booted in namespaces of its own
    builds      the build folders, and C programs compiled against them
    guard       what a test must have given back when it ends
    plugin      the fixtures and hooks that give all this to pytest
"""
