"""What the manual says of `segue run` is what the code has; its C program does what it claims."""

import re
import socket

import pytest

from harness.builds import ROOT

STATES = r'X\((\w+), "([\w-]+)", "(\w+)"\)'
OPTIONS = {"start": "--start-timeout", "drain": "--drain-timeout", "kill": "--kill-timeout",
           "preflight": "--preflight-timeout", "reap": "", "abandon": "", "none": ""}


def section(number):
    text = (ROOT / "doc/manual.md").read_text()
    return re.search(rf"^## {number}\. .*?(?=^## |\Z)", text, re.M | re.S).group(0)


def tables(number):
    """The tables of a section, each a list of rows without the head."""
    parts = re.findall(r"(?:^\|.*\n)+", section(number), re.M)
    return [[[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines()[2:]]
            for part in parts]


def states(kind):
    """{state: what limits the stay} of the code's table."""
    header = (ROOT / "src/segue/table.h").read_text()
    macro = re.search(rf"^#define {kind}_STATES\(X\)(.*?)(?<!\\)$", header, re.M | re.S).group(1)
    return {text: limit for name, text, limit in re.findall(STATES, macro) if name != "GONE"}


@pytest.mark.parametrize("place, kind", enumerate(["WORKER", "SERVICE"]), ids=["worker", "service"])
def test_each_state_that_waits_has_its_deadline_in_the_manual(place, kind):
    rows = {row[0]: row for row in tables(15)[place]}
    assert list(rows) == list(states(kind))
    settings = (ROOT / "src/segue/settings.c").read_text()
    for state, limit in states(kind).items():
        assert (rows[state][1] == "none") == (limit == "none"), state
        option = rows[state][2].strip("`")
        assert option == OPTIONS[limit], state
        if option:
            line = re.search(rf'\{{ "{option[2:]}",[^}}]*?\((\w+)\)"', settings)
            assert rows[state][1].replace(" ", "") == line.group(1), state


def test_the_variables_that_a_worker_does_not_get_are_those_of_the_code():
    code = (ROOT / "src/segue/terms.c").read_text()
    names = re.search(r"private_names\[\] = \{(.*?)\};", code, re.S).group(1)
    taken = set(re.findall(r'"([\w*]+)"', names))
    set_anew = {name.strip("`") for row in tables(13)[0] for name in row[0].split(", ")}
    said = re.search(r"supervisor alone: (.*?)Standard input", section(13), re.S).group(1)
    assert set(re.findall(r"`([A-Z_*]+)`", said)) - {"PWD"} == taken - set_anew


def test_the_exit_codes_of_an_upgrade_are_those_of_the_control_socket():
    document = (ROOT / "doc/control.md").read_text()
    there = set(re.findall(r"^\| (\d+) \| [\w-]+ \|", document, re.M))
    here = {code for row in tables(9)[0] for code in row[0].split(", ")}
    assert here == there


def greeting(address):
    """(worker, generation, served) of one connection."""
    with socket.create_connection(address, timeout=30) as client:
        line = client.makefile().readline()
    return [int(number) for number in re.findall(r"\d+", line)]


def test_the_program_of_the_manual_counts_on_whatever_the_number_of_workers(build, folder, compile_c, supervise):
    (source,) = re.findall(r"^```c\n(.*?)^```", section(19), re.S | re.M)
    file = folder / "greet.conf"
    file.write_text("workers 3\n")
    service = supervise("--config", file, program=compile_c(source), json=False)
    asked, generation = 0, 1
    for workers in (3, 2, 4, 1):
        if workers != 3:
            file.write_text(f"workers {workers}\n")
            service.upgrade()
            generation += 1
        for _ in range(20):
            worker, number, served = greeting(service.address)
            asked += 1
            assert worker < workers and number == generation
    # One worker has all: the others' counts, and its own.
    assert served == asked
    assert [one["kind"] for one in service.workers()] == ["segue"]
