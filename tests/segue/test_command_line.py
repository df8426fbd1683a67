"""The command line: help, the sentence for whatever is wrong, and 'segue check'.

What each value means is the unit test's (unit-config); here it is the program that is asked.
"""

import os
import re
import subprocess

import pytest

from harness.builds import ROOT

COMMANDS = ["run", "upgrade", "status", "list", "stop", "cut", "restart", "kill", "check"]
USAGE = 2

# A bad value of each option, and what the sentence has to say of it.
BAD = {
    "name": ("No", "1 to 63 characters"),
    "listen": ("8080", "'8080' is a port alone; write :8080"),
    "listen-mode": ("rw", "octal, 1 to 777"),
    "workers": ("0", "1 to 64"),
    "ready": ("soon", "one of auto, segue"),
    "start-timeout": ("30", "500ms, 30s"),
    "drain-timeout": ("x", "500ms, 30s"),
    "stop-signal": ("BYE", "TERM"),
    "kill-timeout": ("-1s", "500ms, 30s"),
    "preflight": ("", "leave it out"),
    "preflight-timeout": ("0", "1ms or more"),
    "restart": ("yes", "always|on-failure|never"),
    "restart-limit": ("-1", "0 to"),
    "restart-delay": ("0", "1ms or more"),
    "restart-delay-max": ("1", "500ms, 30s"),
    "restart-reset": ("1d", "500ms, 30s"),
    "user": ("", "leave it out"),
    "group": ("", "leave it out"),
    "chdir": ("", "leave it out"),
    "env": ("a b=x", "NAME=VALUE"),
    "pid-file": ("", "leave it out"),
    "log": ("off", "plain|prefix|direct"),
    "log-format": ("xml", "text|json"),
    "log-file": ("", "leave it out"),
    "orphans": ("kill", "drain|serve"),
    "control": ("/" * 100, "longer than 99 bytes"),
    "config": ("/nowhere/a.conf", "--config /nowhere/a.conf: No such file"),
}


@pytest.fixture
def segue(build):
    """segue('run', '--workers', 0) runs the command to its end."""

    def run(*words, **options):
        return subprocess.run(
            [build.program("src/segue/segue"), *map(str, words)], capture_output=True, text=True,
            stdin=subprocess.DEVNULL, timeout=30, check=False, **options,
        )

    return run


def sentence(done, code=USAGE):
    """What a refusal says: one line on standard error, nothing else."""
    assert (done.returncode, done.stdout) == (code, ""), done
    assert len(done.stderr.splitlines()) == 1 and done.stderr.endswith("\n"), done.stderr
    return done.stderr.rstrip("\n")


def run_options(segue):
    """{long option: (letter, argument)} of 'segue run --help'."""
    done = segue("run", "--help")
    assert done.returncode == 0 and done.stderr == ""
    found = re.findall(r"^  (?:-(\w), |    )--([\w-]+)(?: (\S+))?", done.stdout, re.M)
    return {name: (letter, argument) for letter, name, argument in found}


# Help.


def test_help_names_every_command(segue):
    done = segue("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"^  (\w+)  ", done.stdout, re.M) == COMMANDS


def test_the_version_is_the_librarys(segue):
    version = re.search(r'SEGUE_VERSION "(.*)"', (ROOT / "include/segue.h").read_text()).group(1)
    assert segue("--version").stdout == f"segue {version}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_its_own_help(segue, command):
    done = segue(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: segue {command} ") and not done.stdout.endswith("\n\n")


def test_lines_of_help_fit_a_terminal(segue):
    for words in [["--help"], *([command, "--help"] for command in COMMANDS)]:
        assert [line for line in segue(*words).stdout.splitlines() if len(line) > 100] == []


def test_help_has_every_option(segue):
    assert set(run_options(segue)) == {*BAD, "help"}


def test_help_behind_the_program_is_the_programs(segue, folder):
    done = segue("run", "--config", folder / "none", "--", "./server", "--help")
    assert "none: No such file" in sentence(done)


# What is wrong.


def test_without_a_command_help_is_offered(segue):
    assert "segue --help" in sentence(segue())


def test_an_unknown_command_is_named(segue):
    assert sentence(segue("upgrad")) == "segue: there is no command 'upgrad'; did you mean 'segue upgrade'?"
    assert sentence(segue("xyzzy")) == "segue: there is no command 'xyzzy'; 'segue --help' lists them"


@pytest.mark.parametrize("option", BAD)
def test_a_bad_value_is_named_with_its_cause_and_what_would_help(segue, option):
    value, words = BAD[option]
    for arguments in ([f"--{option}", value], [f"--{option}={value}"]):
        said = sentence(segue("run", *arguments, "--", "/bin/true"))
        assert said.startswith("segue run: ") and value in said and words in said, said
        assert f"--{option}" in said


@pytest.mark.parametrize("option", BAD)
def test_an_option_without_its_value_is_refused(segue, option):
    for words in ([], ["--", "./server"]):
        said = sentence(segue("run", f"--{option}", *words))
        assert said.startswith(f"segue run: --{option} needs a value: --{option} ")


@pytest.mark.parametrize("option", [option for option in BAD if option != "config"])
def test_a_bad_value_in_a_file_is_named_with_its_line(segue, folder, option):
    value, words = BAD[option]
    file = folder / "a.conf"
    file.write_text(f"# a service\nprogram /bin/true\n{option} {value}\n")
    said = sentence(segue("check", file))
    assert said.startswith(f"segue check: {file}:3: {option}"), said
    assert (words if value else "needs a value") in said, said


def test_an_option_that_is_nearly_one_is_guessed(segue):
    assert "did you mean --workers?" in sentence(segue("run", "--worker", 2, "--", "x"))
    assert "did you mean --pid-file?" in sentence(segue("run", "--pidfile", "x", "--", "x"))


def test_the_option_of_run_that_names_the_service_is_explained_where_there_is_none(segue):
    for words in (["--name", "x"], ["--name=x"]):
        said = sentence(segue("upgrade", *words))
        assert "no option '--name'; the service's name stands by itself: segue upgrade x" in said
    assert said.endswith("segue upgrade x")
    assert sentence(segue("upgrade", "--name", "--", "./server")).endswith("segue upgrade SERVICE")


def test_a_program_without_dashes_before_it_is_explained(segue):
    assert "segue run [OPTION]... -- ./server" in sentence(segue("run", "./server"))
    assert "segue run -- ./server" in sentence(segue("run"))
    assert "segue run -- ./server" in sentence(segue("run", "--workers", 2))


@pytest.mark.parametrize("word", ["x\ny", "\x1b[2J", "x" * 5000])
def test_no_sentence_is_broken_by_what_was_typed(segue, word):
    for arguments in (["--" + word], ["--workers", word, "--", "x"], ["--config", word], [word]):
        assert sentence(segue("run", *arguments)).isprintable()
    assert sentence(segue("check", word)).isprintable()
    assert sentence(segue(word)).isprintable()


# segue check.

WHOLE = """\
# Everything, and a comment.
name hello
listen http=127.0.0.1:8080
listen unix:///tmp/hello.sock
workers 4
ready http://127.0.0.1:90{worker}/health
start-timeout 1m
stop-signal QUIT
restart on-failure
env GREETING=hello, world
env DEBUG
log prefix
program /bin/echo --motto "a b" c\\x20d
"""


def check(segue, folder, text, **options):
    file = folder / "a.conf"
    file.write_text(text)
    return segue("check", file, **options)


def test_check_prints_what_it_understood_in_the_form_of_a_file(segue, folder):
    done = check(segue, folder, WHOLE)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    for line in WHOLE.splitlines()[1:-1]:
        assert line in lines
    assert 'program /bin/echo --motto "a b" "c d"' in lines
    # What was left out is there with its default, or as a comment.
    assert {"drain-timeout 30s", "kill-timeout 5s", "# user is not set"} <= set(lines)
    again = check(segue, folder, done.stdout)
    assert again.stdout == done.stdout


def test_check_of_a_file_that_is_not_there_says_so(segue, folder):
    assert "none: No such file or directory" in sentence(segue("check", folder / "none"))
    assert "Is a directory" in sentence(segue("check", folder))
    assert "segue check FILE" in sentence(segue("check"))
    assert "segue check FILE" in sentence(segue("check", "a", "b"))


def test_a_file_without_end_is_refused(segue, folder):
    with open(folder / "large.conf", "wb") as large:
        large.truncate(2 << 20)
    assert "larger than 1 MiB" in sentence(segue("check", folder / "large.conf"))
    os.mkfifo(folder / "fifo.conf")
    for path in ("/dev/zero", folder / "fifo.conf"):
        assert f"{path}: it is not a regular file" in sentence(segue("check", path))


@pytest.mark.parametrize("text, words", [
    ("user nobody-here\nprogram /bin/true", "user nobody-here: there is no such user"),
    ("group nobody-here\nprogram /bin/true", "group nobody-here: there is no such group"),
    ("chdir /nowhere\nprogram /bin/true", "chdir /nowhere: No such file"),
    ("chdir /bin/true\nprogram /bin/true", "chdir /bin/true: it is not a folder"),
    ("pid-file /nowhere/x\nprogram /bin/true", "pid-file /nowhere/x: its folder: No such file"),
    ("log-file /nowhere/x\nprogram /bin/true", "log-file /nowhere/x: its folder"),
    ("listen unix:///nowhere/x\nprogram /bin/true", "listen /nowhere/x: its folder"),
    ("program /nowhere/server", "program /nowhere/server: No such file"),
    ("program no-such-program", "program no-such-program: there is no such program in PATH"),
    ("program /bin", "program /bin: Is a directory"),
    ("program /etc/passwd", "program /etc/passwd: it may not be executed"),
    ("listen :80\nlisten 127.0.0.1:80\nprogram true", ":2: listen 127.0.0.1:80: it cannot be bound beside :80"),
    ("listen a=:80\nlisten a=:81\nprogram true", ":2: listen a=:81: a=:80 is called 'a' already"),
])
def test_check_looks_whether_it_could_run_here(segue, folder, text, words):
    said = sentence(check(segue, folder, text))
    assert said.startswith(f"segue check: {folder}/a.conf:") and words in said, said


def test_a_program_is_looked_for_where_it_will_run(segue, folder):
    (folder / "below").mkdir()
    (folder / "below/server").write_text("#!/bin/sh\n")
    os.chmod(folder / "below/server", 0o755)
    done = check(segue, folder, f"chdir {folder}/below\nprogram ./server\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert "./server: No such file" in sentence(check(segue, folder, "program ./server\n", cwd="/"))
    here = check(segue, folder, "program server\n", env={**os.environ, "PATH": f"/nowhere:{folder}/below"})
    assert (here.returncode, here.stderr) == (0, "")


def test_users_and_groups_may_be_numbers(segue, folder):
    assert check(segue, folder, "user 54321\ngroup 54321\nprogram /bin/true\n").returncode == 0


def test_a_file_is_read_by_run_as_by_check(segue, folder):
    file = folder / "a.conf"
    file.write_text("workers many\nprogram /bin/true\n")
    said = sentence(segue("run", "--config", file))
    assert said == "segue run: " + sentence(segue("check", file)).removeprefix("segue check: ")


# What seldom is so where a command is typed.


def test_check_without_a_path_looks_where_programs_usually_are(segue, folder):
    assert check(segue, folder, "program true\n", env={}).returncode == 0
    assert "no such program in PATH" in sentence(check(segue, folder, "program no-such\n", env={}))


def test_check_passes_over_a_file_of_path_that_may_not_be_executed(segue, folder):
    (folder / "tool").write_text("#!/bin/sh\n")
    done = check(segue, folder, "program tool\n", env={"PATH": str(folder)})
    assert "program tool: it may not be executed" in sentence(done)


def test_check_says_that_its_output_could_not_be_written(build, folder):
    (folder / "a.conf").write_text("program true\n")
    with open("/dev/full", "wb") as full:
        done = subprocess.run([build.program("src/segue/segue"), "check", folder / "a.conf"], stdout=full,
                              stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (
        1, "segue check: standard output: No space left on device\n"), done


@pytest.mark.parametrize("words, said", [
    (("--ready", "http://a b/"), "a blank cannot stand in a URL; write %20"),
    ((f"--{'x' * 60}",), "there is no option --" + "x" * 58 + "; 'segue run --help' lists them"),
], ids=["blank", "long"])
def test_an_odd_value_of_run_has_its_sentence(segue, words, said):
    assert sentence(segue("run", *words, "--", "true")).endswith(said)


def test_a_folder_of_the_control_socket_that_is_not_there_is_named(segue, folder):
    path = folder / "missing" / "c"
    done = segue("run", "--control", path, "--", "true")
    assert (done.returncode, done.stdout) == (1, ""), done
    assert f"control socket {path}: folder {path.parent}: No such file or directory" in done.stderr


def test_a_working_directory_that_is_gone_is_named_where_the_control_socket_needs_it(build, folder):
    gone = folder / "gone"
    gone.mkdir()
    program = build.program("src/segue/segue")
    script = f"rmdir {gone} && exec {program} run --control c -- true"
    done = subprocess.run(["/bin/sh", "-c", script], cwd=gone, capture_output=True, text=True, timeout=30,
                          check=False)
    assert done.returncode == 1, done
    assert "--control c: the working directory: No such file or directory" in done.stderr


def test_a_program_that_is_nowhere_in_path_is_named(segue, folder):
    done = segue("run", "--control", folder / "c", "--", "no-such-program")
    assert done.returncode == 1, done
    assert "generation 1 failed: there is no program 'no-such-program' in PATH; write its path" in done.stderr
