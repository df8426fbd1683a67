"""What operators ask of `segue run`, by command and by signal: many at once, interrupted, in the
middle of something else, and by who may not. Loads count every request and never retry.
"""

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from functional import HOLD, asking, eventually
from harness.http import Closed, Connection
from scenes import PLAIN, Run, gate, unharmed

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes the groups")

MIXED = ("--new", 2, "--keepalive", 4, "--post", 4, "--pipeline", "2:4", "--idle", "10:50ms",
         "--duration", "1h")


@pytest.fixture
def run(supervise, folder):
    return lambda *options, **more: Run(supervise, folder, *options, **more)


@pytest.fixture
def held_upgrade(run, folder):
    """held_upgrade(...) -> (service under upgrade, let): the successor waits at a gate; let()."""
    with gate(folder) as let:

        def start(*options, **more):
            one = run(*options, **more)
            one.behave(f"listen:gate:{folder}/gate")
            return one, let

        yield start


class Client:
    """A bare client of the control socket."""

    def __init__(self, one, request=None):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.socket.settimeout(30)
        self.socket.connect(str(one.service.control))
        if request is not None:
            self.send(json.dumps(request).encode() + b"\n")

    def send(self, data):
        self.socket.sendall(data)
        return self

    def end(self):
        """The last line."""
        with self.socket, self.socket.makefile("rb") as lines:
            return json.loads(lines.readlines()[-1])


def in_flight(one):
    """A connection with a request that has been begun, and not yet been read whole."""
    client = Connection(one.address)
    client.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n" + HOLD).response()
    return client


# Many at once.

EXACT = r"generation 2 starts; it may take (\d+) s more; ask again then"


def test_of_two_upgrades_at_once_one_runs_and_the_other_is_told_exactly(held_upgrade):
    one, let = held_upgrade("--start-timeout", "20s")
    clients = [one.service.popen("upgrade", "--json") for _ in range(2)]
    one.log.wait_for("gate")
    eventually(lambda: sum(client.poll() is not None for client in clients), 1)
    refused, runs = sorted(clients, key=lambda client: client.poll() is None)
    out, _ = refused.communicate()
    end = json.loads(out.splitlines()[-1])
    assert refused.returncode == 3 and end["outcome"] == "refused"
    left = int(re.fullmatch(EXACT, end["message"]).group(1))
    assert 10 < left <= 20
    one.configure()
    let()
    out, _ = runs.communicate(timeout=30)
    assert runs.returncode == 0, out
    assert [event["generation"] for event in one.log.find("upgrade")] == [2]


@pytest.mark.parametrize("count", [20, pytest.param(100, marks=pytest.mark.long)])
def test_of_many_upgrades_at_once_exactly_one_runs(held_upgrade, count):
    one, let = held_upgrade("--start-timeout", "20s")
    with asking(one.address):
        clients = [Client(one, {"verb": "upgrade"}) for _ in range(count)]
        one.log.wait_for("gate")
        # Whoever is still told something is the one that runs.
        waiting = {client.socket.fileno(): client for client in clients}
        ends = []
        while len(ends) < count - 1:
            ready = select.select(list(waiting), [], [], 30)[0]
            assert ready, ends
            for fd in ready:
                line = waiting[fd].socket.recv(65536, socket.MSG_PEEK)
                if b'"end":true' in line:
                    ends.append(waiting.pop(fd).end())
                else:
                    # Its events; read, so that the next look finds what follows.
                    waiting[fd].socket.recv(len(line))
        assert {end["exit"] for end in ends} == {3}
        for end in ends:
            assert re.fullmatch(EXACT, end["message"]), end
        one.configure()
        let()
        (runs,) = waiting.values()
        assert runs.end()["exit"] == 0
    assert len(one.log.find("upgrade")) == 1
    one.upgrade()


@pytest.mark.parametrize("by", [signal.SIGUSR2, signal.SIGHUP])
def test_a_signal_in_the_middle_of_an_upgrade_is_refused_in_the_log(held_upgrade, by):
    one, let = held_upgrade()
    one.service.first.send(by)
    one.log.wait_for("gate")
    one.service.first.send(by)
    text = one.log.wait_for("refused")["text"]
    assert re.search("the upgrade is refused: generation 2 starts; it may take [0-9]+ s more", text)
    let()
    one.service.wait_generation(2)


def test_while_an_upgrade_is_checked_the_answer_says_so(run, folder):
    with gate(folder) as let:
        one = run("--preflight", "head -c 1 gate")
        running = one.service.popen("upgrade", "--json")
        one.state("checking")
        end = Client(one, {"verb": "upgrade"}).end()
        assert end["exit"] == 3
        answer = r"generation 2 is being checked; it may take (\d+) s more; ask again then"
        assert 0 < int(re.fullmatch(answer, end["message"]).group(1)) <= 10
        let()
        assert running.communicate(timeout=30) and running.returncode == 0


# The client's end.


@pytest.mark.parametrize("by, code", [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_an_upgrade_goes_on_without_the_client_that_asked_for_it(held_upgrade, by, code):
    one, let = held_upgrade()
    client = one.service.popen("upgrade")
    one.log.wait_for("gate")
    client.send_signal(by)
    out, err = client.communicate(timeout=30)
    assert client.returncode == code
    assert by == signal.SIGKILL or "goes on" in out + err, (out, err)
    let()
    one.service.wait_generation(2)
    last = one.service.status()["last_upgrade"]
    assert last["generation"] == 2 and last["outcome"] == "upgraded"


# Nonsense.


def test_a_flooded_control_socket_costs_an_upgrade_under_load_nothing(supervise, load):
    service = supervise("--workers", 2)
    running = load(*MIXED, service).wait_running()
    flood = []

    class One:  # What Client asks of a Run.
        pass

    one = One()
    one.service = service
    try:
        for generation in range(2, 6):
            for words in (b"", b'{"verb":"upg', b"what?\n", b"\0" * 1000, b"x" * 66000):
                for _ in range(10):
                    flood.append(Client(one))
                    try:
                        flood[-1].send(words)
                    except (BrokenPipeError, ConnectionResetError):
                        pass  # It was told so, and closed.
            # 128 clients and no more: whoever says half a message is let go for this.
            for client in flood[:-60]:
                client.socket.close()
            del flood[:-60]
            assert service.upgrade().end["generation"] == generation
    finally:
        for client in flood:
            client.socket.close()
    result = running.stop()
    assert result.lost == 0 and result.closed == 0, result


@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
def test_a_user_who_may_not_is_refused_and_changes_nothing(run, folder, build):
    one = run()
    pid = one.pids()
    # Nothing but the answer stands in the way.
    folder.chmod(0o755)
    os.chmod(one.service.control, 0o777)
    program = folder / "segue"
    shutil.copy2(build.program("src/segue/segue"), program)
    one.service.segue = program

    def ask(*words):
        done = subprocess.run([program, words[0], "--json", "--control", one.service.control,
                               *words[1:]], capture_output=True, text=True, timeout=30,
                              check=False, user=65534, group=65534, extra_groups=[],
                              env={**os.environ, "ASAN_OPTIONS": "detect_leaks=1"})
        return done.returncode, done.stdout

    for words in (("upgrade",), ("stop", "--now"), ("status",), ("kill", "KILL"), ("restart", "0")):
        code, out = ask(*words)
        assert code == 6, (words, out)
    assert one.pids() == pid and not one.log.find("upgrade")


# Stop.


def test_at_term_what_is_in_flight_is_answered(run, folder):
    one = run("--pid-file", folder / "pid")
    client = in_flight(one)
    one.service.first.send(signal.SIGTERM)
    one.worker("stopping")
    assert (folder / "pid").exists()
    client.again().send(b"y").response()
    client.close()
    one.service.wait_end()
    assert one.service.exit_codes[one.pid] == 0
    assert not (folder / "pid").exists() and not one.service.control.exists()


@pytest.mark.parametrize("first, second", [(signal.SIGTERM, signal.SIGTERM),
                                           (signal.SIGINT, signal.SIGINT),
                                           (signal.SIGTERM, signal.SIGQUIT),
                                           (signal.SIGQUIT, None)])
def test_the_second_signal_or_quit_ends_at_once(run, first, second):
    one = run("--workers", 2)
    client = in_flight(one)
    one.service.first.send(first)
    if second:
        one.worker("stopping")
        one.service.first.send(second)
    with pytest.raises(Closed):
        client.again().response()
    client.close()
    one.service.wait_end()
    assert one.service.exit_codes[one.pid] == 0
    # A helper of the leak sanitizer may be in a worker's group when that is ended.
    one.service.expected_exits.add(-signal.SIGKILL)


@pytest.mark.parametrize("now", [(), ("--now",)])
def test_the_stop_command_waits_for_the_end(run, now):
    one = run()
    client = in_flight(one)
    stop = one.service.popen("stop", "--json", *now)
    if now:
        with pytest.raises(Closed):
            client.again().response()
    else:
        one.worker("stopping")
        assert stop.poll() is None
        client.again().send(b"y").response()
    client.close()
    out, err = stop.communicate(timeout=30)
    assert stop.returncode == 0, (out, err)
    assert json.loads(out.splitlines()[-1])["outcome"] == "stopped"
    one.service.wait_end()


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGQUIT])
def test_a_stop_while_a_successor_starts_ends_both(held_upgrade, by):
    one, _ = held_upgrade()
    upgrade = one.service.popen("upgrade", "--json")
    one.log.wait_for("gate")
    one.service.first.send(by)
    out, err = upgrade.communicate(timeout=30)
    assert upgrade.returncode == 7, (out, err)
    one.service.wait_end()
    assert one.service.exit_codes[one.pid] == 0
    assert not one.log.find("serving", generation=2)
    (failed,) = one.log.find("failed")
    assert failed["generation"] == 2 and failed["text"] == "generation 2 failed: the service stops"


def test_an_interrupt_of_the_whole_group_during_a_drain_cuts_nothing(run):
    one = run()
    client = in_flight(one)
    upgrade = one.service.popen("upgrade", "--json")
    one.worker("draining")
    one.service.send_group(signal.SIGINT)
    one.state("stopping")
    answer = client.again().send(b"y").response()
    assert answer.generation == 1
    client.close()
    upgrade.communicate(timeout=30)
    one.service.wait_end()
    assert one.service.exit_codes[one.pid] == 0


def test_the_exit_code_is_the_services(supervise):
    service = supervise(program=sys.executable, arguments=[PLAIN, "code = 3"], json=False)
    service.first.send(signal.SIGTERM)
    service.wait_end()
    assert service.exit_codes[service.pid] == 3
    service.expected_exits = {0, 3}


def test_a_supervisor_that_is_stopped_before_anything_serves_leaves_nothing(run, folder):
    with gate(folder):
        one = run(config=("--behave", f"start:gate:{folder}/gate"), wait=False)
        one.log.wait_for("gate")
        one.service.first.send(signal.SIGTERM)
        one.service.wait_end()
        assert one.service.exit_codes[one.pid] in (0, 1)
        one.service.expected_exits = {0, 1}


def test_a_stop_while_a_worker_is_started_again_is_no_failure(run, folder):
    with gate(folder):
        one = run()
        one.behave(f"listen:gate:{folder}/gate")
        one.process(one.pids()[0]).send(signal.SIGKILL)
        one.log.wait_for("gate")
        one.service.first.send(signal.SIGTERM)
        one.service.wait_end()
        assert one.service.exit_codes[one.pid] == 0


# The other commands.


def test_a_worker_is_replaced_under_load_and_nothing_is_lost(supervise, load):
    service = supervise("--workers", 3)
    before = [worker["pid"] for worker in service.workers()]
    running = load(*MIXED, service).wait_running()
    for index in (1, 0, 1):
        answer = service.ask("restart", index)
        assert answer.code == 0, answer
        eventually(lambda: len(service.workers()), 3)
    result = running.stop()
    assert result.lost == 0 and result.closed == 0, result
    after = {worker["worker"]: worker["pid"] for worker in service.workers()}
    assert after[2] in before and not {after[0], after[1]} & set(before)
    assert not service.log.find("crashed")
    assert service.ask("restart", 3).code == 3


def test_a_worker_that_is_replaced_during_an_upgrade_hands_over_like_any_other(held_upgrade):
    one, let = held_upgrade("--workers", 2)
    upgrade = one.service.popen("upgrade", "--json")
    one.log.wait_for("gate")
    one.configure()
    assert one.service.ask("restart", 0).code == 0
    replacement, owners, clients = one.pids(1)[0], set(), []
    while replacement not in owners:
        clients.append(Connection(one.address))
        owners.add(clients[-1].get().pid)
    let()
    out, err = upgrade.communicate(timeout=30)
    assert upgrade.returncode == 0, (out, err)
    for client in clients:
        answer = client.again().get()
        assert answer.header("Connection") is None and answer.pid in one.pids()
        client.close()


def test_a_replacement_that_fails_leaves_the_worker_in_its_place(run):
    one = run("--workers", 2)
    with unharmed(one):
        one.behave("listen:exit:1")
        answer = one.service.ask("restart", 1)
        assert answer.code == 1, answer
        assert answer.message == ("the replacement of worker 1 failed: it exited with status 1 "
                                  "before it was ready; the worker serves as before")


def held_restart(held):
    """A service with one worker, whose replacement waits at a gate; who waits for it."""
    one, let = held()
    restart = one.service.popen("restart", "--json", 0)
    one.log.wait_for("gate")
    return one, restart, let


def how_it_ended(command):
    out, _ = command.communicate(timeout=30)
    end = json.loads(out.splitlines()[-1])
    assert end["exit"] == command.returncode
    return end["exit"], end["outcome"], end["message"]


def test_a_replacement_that_an_upgrade_overtakes_failed_for_that(held_upgrade):
    one, restart, _ = held_restart(held_upgrade)
    one.configure()
    assert one.service.ask("upgrade").code == 0
    assert how_it_ended(restart) == (
        1, "failed", "the replacement of worker 0 failed: generation 2 has taken over meanwhile")


def test_a_replacement_that_a_stop_overtakes_is_lost_for_that(held_upgrade):
    one, restart, _ = held_restart(held_upgrade)
    assert one.service.ask("stop").code == 0
    assert how_it_ended(restart) == (
        7, "lost", "the replacement of worker 0 failed: the service is being stopped")


def test_where_the_worker_has_ended_too_nobody_says_that_it_serves_as_before(held_upgrade):
    one, restart, _ = held_restart(held_upgrade)
    (replacement,) = [event["pid"] for event in one.log.find("started", generation=1)][1:]
    one.service.process(one.pids()[0]).send(signal.SIGKILL)
    one.log.wait_for("crashed")
    one.service.process(replacement).send(signal.SIGKILL)
    assert how_it_ended(restart) == (
        1, "failed", "the replacement of worker 0 failed: it was killed by signal 9 (Killed) before it was ready")


def test_a_drain_that_is_cut_is_counted_to_who_waits(run):
    one = run()
    clients = [in_flight(one) for _ in range(3)]
    upgrade = one.service.popen("upgrade", "--json")
    one.worker("draining")
    answer = one.service.ask("cut")
    assert answer.code == 0 and answer.message == "the drain of 1 worker was cut"
    out, err = upgrade.communicate(timeout=30)
    end = json.loads(out.splitlines()[-1])
    assert upgrade.returncode == 4 and end["outcome"] == "cut", (out, err)
    for client in clients:
        with pytest.raises(Closed):
            client.again().response()
        client.close()
    assert end["cut"] == 3 and end["connections"] == 3
    assert one.service.ask("cut").code == 3


def test_who_waits_hears_how_many_connections_drain_and_never_a_count_of_before(supervise):
    """The HTTP module tells how many it has once a second, and ten times in a drain."""
    service = supervise()
    eventually(lambda: service.workers()[0]["connections"], 0)
    clients = [in_flight(service) for _ in range(20)]
    upgrade = service.popen("upgrade", "--json")
    told = []
    while not told or told[-1] is None:
        event = json.loads(upgrade.stdout.readline())
        if event.get("event") == "draining":
            told.append(event["connections"])
    assert told[0] is None and told[-1] == len(clients)
    for client in clients:
        client.send(b"y").response()
        client.close()
    out, err = upgrade.communicate(timeout=30)
    assert upgrade.returncode == 0, (out, err)
    assert json.loads(out.splitlines()[-1])["connections"] == len(clients)


def test_a_signal_goes_to_each_worker_of_the_generation_that_serves(run):
    one = run("--workers", 2)
    before = one.pids()
    answer = one.service.ask("kill", "KILL")
    assert answer.code == 0 and answer.message == "KILL (9) was sent to 2 workers"
    for worker in range(2):
        one.log.wait_for("crashed", where=lambda event, at=worker: f"worker 1:{at} " in event["text"])
    eventually(lambda: len(set(one.pids()) - set(before)), 2)


def test_usr1_goes_only_to_workers_that_handle_it(supervise):
    handle = ('if os.environ["SEGUE_WORKER"] == "0": signal.signal(signal.SIGUSR1, lambda *_: '
              'os.write(2, b"usr1 of %d\\n" % os.getpid()))')
    service = supervise("--workers", 2, program=sys.executable, arguments=[PLAIN, handle],
                        json=False)
    pids = [worker["pid"] for worker in service.workers()]
    service.first.send(signal.SIGUSR1)
    service.log.wait_for_line(f"usr1 of {pids[0]}")
    assert [worker["pid"] for worker in service.workers()] == pids
    assert not service.log.find("crashed")


@needs_root
def test_usr1_goes_to_a_worker_that_is_of_many_groups(supervise):
    """They stand before the signals in what the kernel tells of a process, and take thousands of bytes."""
    handle = ("signal.signal(signal.SIGUSR1, lambda *_: os.write(2, b'usr1\\n')); "
              "os.setgroups(range(100000, 100400))")
    service = supervise(program=sys.executable, arguments=[PLAIN, handle], json=False)
    service.first.send(signal.SIGUSR1)
    service.log.wait_for_line("usr1")


@pytest.mark.parametrize("number", [signal.SIGURG, signal.SIGWINCH, signal.SIGCONT, signal.SIGPIPE,
                                    signal.SIGCHLD])
def test_nothing_else_is_forwarded(supervise, number):
    handle = (f"signal.signal({int(number)}, lambda *_: os.write(2, b'forwarded\\n'))"
              if number != signal.SIGCHLD else "")
    service = supervise(program=sys.executable, arguments=[PLAIN, handle], json=False)
    service.first.send(number)
    # The next thing that it does is behind it.
    assert service.status()["state"] == "serving"
    service.stop()
    assert "forwarded" not in service.log.text()


# The configuration file.


@pytest.fixture
def configured(supervise, folder):
    """configured(...) writes the file; the service that runs by it."""
    path = folder / "service.conf"

    def start(*lines):
        def write(*lines):
            path.write_text("".join(f"{line}\n" for line in lines))

        write(*lines)
        service = supervise("--config", path, listen=None)
        service.write = write
        return service

    return start


LISTEN = "listen http=tcp://127.0.0.1:0"


def test_hup_reads_the_file_again_and_the_number_of_workers_changes_under_load(configured, load):
    service = configured(LISTEN, "workers 1")
    running = load(*MIXED, service).wait_running()
    for generation, workers in enumerate([4, 2, 1], 2):
        service.write(LISTEN, f"workers {workers}")
        service.first.send(signal.SIGHUP)
        service.wait_generation(generation)
        eventually(lambda: [one["number"] for one in service.status()["generations"]], [generation])
        assert len(service.workers()) == workers
    result = running.stop()
    assert result.lost == 0 and result.closed == 0, result


@pytest.mark.parametrize(
    "lines, reason",
    [
        (["listen http=tcp://127.0.0.1:1"], "'listen' has changed, which an upgrade cannot do"),
        ([LISTEN, "pid-file /tmp/elsewhere"], "'pid-file' has changed, which an upgrade cannot do"),
        ([LISTEN, "workers many"], "service.conf:2: "),
        ([LISTEN, "wrokers 2"], "service.conf:2: "),
    ],
)
def test_a_file_that_cannot_be_followed_refuses_the_upgrade(configured, lines, reason):
    service = configured(LISTEN)
    pid = service.workers()[0]["pid"]
    service.write(*lines)
    service.first.send(signal.SIGHUP)
    assert reason in service.log.wait_for("refused")["text"]
    answer = service.ask("upgrade")
    assert answer.code == 3 and reason in answer.message, answer
    assert service.workers()[0]["pid"] == pid
    service.write(LISTEN)
    service.upgrade()
