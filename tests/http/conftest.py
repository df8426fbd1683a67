import pathlib

import pytest


@pytest.fixture
def server(start, compile_c):
    """server('--option', ...) starts tests/http/server.c."""

    def start_one(*arguments, **more):
        program = compile_c(pathlib.Path("tests/http/server.c"), http=True)
        return start(program, *arguments, **more)

    return start_one
