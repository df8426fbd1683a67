"""Every call that can fail for want of something, during an upgrade under `segue run`, fails once: in
the supervisor, the predecessor and the successor. See tests/test_system_calls.py.
"""

import pytest

from faultcalls.runs import SUBJECT, TIMES, Supervised, check, everything


ROLES = pytest.mark.parametrize("role", ["predecessor", "successor", "supervisor"])


@pytest.fixture
def shape(build, supervise, folder):
    def make(count, env):
        listen = ["http=tcp://127.0.0.1:0", f"admin=unix://{folder}/admin{count}"]
        return supervise(*TIMES, listen=listen, program=SUBJECT, arguments=["--threads", "1"], env=env)

    one = Supervised(make, folder, build)
    yield one
    one.close()


@ROLES
@pytest.mark.timeout(900)
def test_whichever_call_of_an_upgrade_fails_a_worker_serves(shape, request, tell, role):
    check(shape, f"supervised {role}", False, everything(request), tell)


# A sanitizer's allocator is its own.
@pytest.mark.plain
@ROLES
@pytest.mark.timeout(900)
def test_whichever_allocation_of_an_upgrade_fails_a_worker_serves(shape, request, tell, role):
    check(shape, f"supervised {role}", True, everything(request), tell)
