"""The fixture for services under `segue run`."""

import pytest

from harness.supervised import Supervised


@pytest.fixture
def supervise(build, folder, _guard):
    """supervise('--workers', 4, program='hello', arguments=[...]) starts `segue run` with these
    options before an example (or a program by its path), waits until generation 1 serves, and
    returns the Supervised. listen: of the supervisor; None: the program binds for itself."""
    count = 0

    def start_one(*options, program="hello", arguments=(), listen=("http=tcp://127.0.0.1:0",),
                  own_listen=(), json=True, wait=True, **more):
        nonlocal count
        count += 1
        name = "service" if count == 1 else f"service{count}"
        words = [word for address in listen or () for word in ("--listen", address)]
        path = build.program(program) if isinstance(program, str) else program
        command = [path]
        for address in own_listen:
            command += ["--listen", address]
        if json:
            command += ["--log-format", "json"]
        segue = build.program("src/segue/segue")
        service = _guard.own(
            Supervised(segue, folder, *words, *options, "--", *command, *arguments,
                       name=name, **more))
        if wait:
            service.wait_serving()
        return service

    return start_one
