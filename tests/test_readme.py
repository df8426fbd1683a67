"""What the README shows of `segue run` is what happens: its commands are run, and the lines compared."""

import os
import pathlib
import re
import shutil
import signal
import subprocess

import pytest

from functional import eventually
from harness.builds import ROOT
from harness.supervised import Supervised

HEADING = "Any server, under a supervisor"

def transcript():
    """[(command, remark, [lines of output])] of the display below the heading."""
    text = (ROOT / "README.md").read_text()
    part = text[text.index(f"## {HEADING}\n") :].split("\n## ")[0]
    found = []
    for line in re.findall(r"^    (.*)$|^$", part, re.M):
        if line.startswith("$ "):
            command, _, remark = line[2:].partition("  # ")
            found.append((command.strip(), remark.strip(), []))
        elif line and found:
            found[-1][2].append(line)
    return found


def shape(lines):
    """Lines without what differs from run to run: numbers, identities, and the width of columns.
    A drain may be told of more than once."""
    out = []
    for line in lines:
        line = re.sub(r"(build-id|sha256):[0-9a-f]{12}$", r"\1:X", line.rstrip())
        line = re.sub(r"(?<=\S) {2,}", "  ", re.sub(r"\d+(\.\d+)*", "N", line))
        if line and out[-1:] != [line]:
            out.append(line)
    return out


def prepare(commands, build, folder):
    """The commands before `segue run`, in a copy of the clone: where they lead to, with `segue` in PATH."""
    shutil.copytree(ROOT / "examples", folder / "clone/examples")
    (folder / "clone/build/src").mkdir(parents=True)
    (folder / "clone/build/src/segue").symlink_to(build.program("src/segue/segue").parent)
    before = {path for path in (folder / "clone").iterdir()}
    script = "\n".join(["set -e", *commands, "pwd", "command -v segue"])
    done = subprocess.run(["/bin/sh", "-c", script], cwd=folder / "clone", check=True, capture_output=True, text=True)
    where, found = done.stdout.splitlines()
    assert os.path.samefile(found, build.program("src/segue/segue"))
    assert {path for path in (folder / "clone").iterdir()} == before, "build/ alone is not the clone's"
    return where


@pytest.fixture
def service(build, folder, _guard):
    """The README's service, made as it says, on a port of its own."""
    steps = transcript()
    place = next(i for i, step in enumerate(steps) if step[0].startswith("segue run"))
    assert not any(output for _, _, output in steps[: place + 1])
    folder = prepare([command for command, _, _ in steps[:place]], build, folder)
    (command, _, _), *rest = steps[place:]
    words = command.split()
    assert words[-1] == "&"
    words = [word.replace(":8080", ":0") for word in words[2:-1]]
    segue = build.program("src/segue/segue")
    one = _guard.own(Supervised(segue, pathlib.Path(folder), *words))
    one.wait_serving()
    one.rest, one.folder = rest, folder
    return one


def identity(service):
    return service.status()["generations"][0]["program"]["script_file"]["identity"]


def test_the_commands_of_the_readme_do_what_it_shows(service, build):
    segue = build.program("src/segue/segue")
    verbs = []
    for command, remark, shown in service.rest:
        name, verb, *words = command.split()
        assert name == "segue"
        verbs.append(verb)
        if verb == "status":
            eventually(lambda: identity(service).startswith("sha256:"), True)
        done = subprocess.run([segue, verb, "--control", service.control, *words], cwd=service.folder, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        said = done.stdout.replace(service.folder, "/srv/app")
        assert shape(said.splitlines()) == shape(shown), done.stdout
        assert done.returncode == int(re.sub(r"\D", "", remark) or 0)
    assert verbs == ["upgrade", "upgrade", "status"]
    assert os.path.exists(f"/proc/{service.pid}")
    service.first.send(signal.SIGTERM)
    service.wait_end()
