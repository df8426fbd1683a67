"""Every call that can fail for want of something, during an upgrade, fails once: no descriptors, no
memory, no space, no room in a buffer, an interruption, a transfer cut short, a broken pipe. Here in
self-upgrade; tests/segue/test_system_calls_supervised.py has the supervised shape. What must hold is
said in faultcalls/runs.py, which calls and how they may fail in faultcalls/shim.c.
"""

import pytest

from faultcalls.runs import SUBJECT, TIMES, SelfUpgrade, check, everything


ROLES = pytest.mark.parametrize("role", ["predecessor", "successor"])


@pytest.fixture
def shape(build, start, folder):
    def make(count, env):
        listen = ["tcp://127.0.0.1:0", f"admin=unix://{folder}/admin{count}"]
        return start(SUBJECT, "--threads", "1", *TIMES, listen=listen, env=env)

    one = SelfUpgrade(make, folder, build)
    yield one
    one.close()


@ROLES
@pytest.mark.timeout(900)
def test_whichever_call_of_an_upgrade_fails_a_generation_serves(shape, request, tell, role):
    check(shape, f"self {role}", False, everything(request), tell)


# A sanitizer's allocator is its own.
@pytest.mark.plain
@ROLES
@pytest.mark.timeout(900)
def test_whichever_allocation_of_an_upgrade_fails_a_generation_serves(shape, request, tell, role):
    check(shape, f"self {role}", True, everything(request), tell)
