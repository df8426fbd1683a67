"""What seldom happens under 'segue run': settings that cannot be followed here, requests at the wrong
moment, and the loss of what the supervisor has beside its workers."""

import os
import pathlib
import signal
import subprocess

import pytest

from functional import eventually
from harness import processes

NOBODY = 65534
USAGE = 2

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="as root only")


@pytest.fixture
def segue(build):
    """segue('run', ...) runs the command to its end."""

    def run(*words, **options):
        return subprocess.run(
            [build.program("src/segue/segue"), *map(str, words)], capture_output=True, text=True,
            stdin=subprocess.DEVNULL, timeout=30, check=False, **options,
        )

    return run


# Settings.


@as_root
@pytest.mark.parametrize("group", ["nogroup", NOBODY], ids=["name", "number"])
def test_a_group_alone_is_that_of_the_workers(supervise, group):
    service = supervise("--group", group)
    (worker,) = service.workers()
    status = pathlib.Path(f"/proc/{worker['pid']}/status").read_text(encoding="ascii")
    ids = {line.split(":")[0]: line.split(":")[1].split() for line in status.splitlines()}
    assert ids["Gid"] == [str(NOBODY)] * 4 and ids["Groups"] == [str(NOBODY)]
    assert ids["Uid"] == ["0"] * 4


@as_root
@pytest.mark.parametrize("option, sentence", [
    ("--user", "there is no user 'no-such-one' (see --user)"),
    ("--group", "there is no group 'no-such-one' (see --group)"),
])
def test_who_is_not_there_cannot_run_workers(segue, folder, option, sentence):
    done = segue("run", "--control", folder / "c", option, "no-such-one", "--", "true")
    assert done.returncode == USAGE and sentence in done.stderr, done
    assert not (folder / "c").exists()


@as_root
@pytest.mark.parametrize("option", ["--user", "--group"])
def test_only_root_gives_workers_another_user(segue, folder, option):
    done = segue("run", "--control", folder / "c", option, "nobody" if option == "--user" else "nogroup",
                 "--", "true", user=NOBODY, group=NOBODY, extra_groups=[])
    assert done.returncode == USAGE and "--user and --group need root" in done.stderr, done


def test_a_log_file_that_cannot_be_opened_is_named(segue, folder):
    path = folder / "missing" / "log"
    done = segue("run", "--control", folder / "c", "--log-file", path, "--", "true")
    assert done.returncode == 1, done
    assert done.stderr == f"segue run: log file {path}: No such file or directory\n"


def test_a_pid_file_that_a_service_holds_is_left_to_it(supervise, segue, folder):
    path = folder / "held.pid"
    service = supervise("--pid-file", path)
    done = segue("run", "--control", folder / "other", "--pid-file", path, "--", "true")
    assert done.returncode == 1, done
    assert f"pid file {path} is held by a service that runs (pid {service.pid})" in done.stderr
    assert path.read_text(encoding="ascii").strip() == str(service.pid)


@as_root
@pytest.mark.parametrize("environment, sentence", [
    ({}, "neither SEGUE_RUNTIME_DIR nor XDG_RUNTIME_DIR names one"),
    ({"SEGUE_RUNTIME_DIR": "/" + "x" * 200}, "too long a path; set SEGUE_RUNTIME_DIR to a shorter one"),
], ids=["none", "long"])
def test_without_a_usable_folder_for_the_control_socket_nothing_starts(segue, environment, sentence):
    done = segue("run", "--", "true", user=NOBODY, group=NOBODY, extra_groups=[], env=environment)
    assert done.returncode != 0 and sentence in done.stderr, done


def test_a_client_without_a_folder_of_services_says_which_variable_names_it(segue):
    done = segue("status", user=NOBODY, group=NOBODY, extra_groups=[], env={})
    assert "neither SEGUE_RUNTIME_DIR nor XDG_RUNTIME_DIR names the folder" in done.stderr, done


# Requests at the wrong moment.


@pytest.fixture
def gated(supervise, folder):
    """A service whose workers are ready when the file 'gate' is there."""
    path = folder / "gate"

    def start(*words, **more):
        return supervise("--ready", f"exec:test -e {path}", *words, **more)

    start.path = path
    return start


def test_an_upgrade_is_refused_while_the_first_generation_starts(gated):
    service = gated(wait=False)
    service.log.wait_for("started")
    answer = service.ask("upgrade")
    assert answer.end["outcome"] == "refused", answer
    assert "generation 1 starts, and none serves yet" in answer.message
    assert "no generation serves" in service.ask("restart", 0).message
    assert "no worker serves" in service.ask("kill", "USR1").message
    gated.path.touch()
    service.wait_serving()


def test_a_worker_that_is_being_restarted_is_left_alone(gated):
    gated.path.touch()
    service = gated()
    gated.path.unlink()
    (worker,) = service.workers()
    client = service.popen("restart", "--json", 0)
    service.log.wait_for("started", where=lambda event: event["pid"] != worker["pid"])
    answer = service.ask("restart", "0")
    assert answer.end["outcome"] == "refused" and "being restarted already" in answer.message, answer
    gated.path.touch()
    out, err = client.communicate(timeout=30)
    assert client.returncode == 0, (out, err)


# What is beside the workers.


def relay_of(service):
    """The process that relays the workers' output."""
    return [stat.pid for stat in processes.children(service.pid)
            if pathlib.Path(f"/proc/{stat.pid}/comm").read_text(encoding="ascii") == "segue-relay\n"]


def test_a_relay_that_dies_is_replaced_and_its_workers_are_heard_on(supervise):
    service = supervise()
    # It gives itself its name when it runs, which may be after the first generation serves.
    eventually(lambda: len(relay_of(service)), 1)
    (before,) = relay_of(service)
    os.kill(before, signal.SIGKILL)
    service.log.wait_for("warning", where=lambda event: "died; a new one is started" in event["text"])
    eventually(lambda: len([pid for pid in relay_of(service) if pid != before]), 1)
    (worker,) = service.workers()
    mark = service.log.mark()
    service.upgrade()
    # Its words about its end come through the pipe that it has had from its start.
    service.log.wait_for("gone", since=mark, where=lambda event: event["pid"] == worker["pid"])


def test_a_log_that_cannot_be_opened_anew_goes_on_where_it_was(supervise, folder):
    (folder / "logs").mkdir()
    path = folder / "logs" / "log"
    service = supervise("--log-file", path, wait=False)
    eventually(lambda: path.exists() and '"event":"serving"' in path.read_text(), True)
    (folder / "logs").rename(folder / "elsewhere")
    service.send(signal.SIGUSR1)
    text = "the log file could not be opened anew: No such file or directory"
    eventually(lambda: text in (folder / "elsewhere" / "log").read_text(), True)


def test_the_question_to_a_stopped_supervisor_can_be_interrupted(supervise):
    service = supervise()
    service.first.stop()
    client = service.popen("status")
    # Before it blocks the signal, that ends it without a word.
    eventually(lambda: int(processes.status(client.pid)["SigBlk"], 16) >> (signal.SIGINT - 1) & 1, 1)
    client.send_signal(signal.SIGINT)
    out, err = client.communicate(timeout=30)
    service.first.go_on()
    assert (client.returncode, out, err) == (130, "", "segue: interrupted\n")


def test_another_mode_of_the_listeners_is_no_change_of_an_upgrade(supervise, folder):
    path = folder / "a.conf"
    path.write_text("listen-mode 600\n")
    service = supervise("--config", path)
    path.write_text("listen-mode 660\n")
    answer = service.ask("upgrade")
    assert answer.code == 3 and "listen-mode" in answer.message, answer


def test_what_a_manager_told_the_supervisor_alone_is_not_the_workers(supervise):
    service = supervise(env={"INVOCATION_ID": "1", "SUPERVISOR_ENABLED": "1", "SEGUE_OWN": "1"})
    (worker,) = service.workers()
    environment = processes.environment(worker["pid"])
    assert "INVOCATION_ID" not in environment and "SUPERVISOR_ENABLED" not in environment
    assert environment["SEGUE_OWN"] == "1"
