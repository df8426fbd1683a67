"""The manual pages: well formed, and the same as the code about options, exit codes and functions."""

import re
import subprocess

import pytest

from harness.builds import ROOT

PAGES = ["segue.1", "segue-load.1", "libsegue.3", "segue-http.3", "segue.conf.5", "segue.7", "segue-control.7"]


def source(build, page):
    """A page in mdoc: as it is built, or as it stands in the tree."""
    built = build.folder / "doc/man" / page
    return built if built.exists() else ROOT / "doc/man" / page


def text(build, page):
    done = subprocess.run(
        ["mandoc", "-T", "ascii", "-O", "width=400", source(build, page)],
        capture_output=True, text=True, check=True,
    )
    return re.sub(".\b", "", done.stdout)


def section(page, name):
    return re.search(rf"^{name}\n(.*?)(?=^[A-Z]|\Z)", page, re.M | re.S).group(1)


def help_of(build, program, *words):
    done = subprocess.run([build.program(program), *words, "--help"], capture_output=True, text=True, check=True)
    return done.stdout


def declared(header):
    """Functions of a public header."""
    code = re.sub(r"/\*.*?\*/", "", (ROOT / "include" / header).read_text(), flags=re.S)
    return set(re.findall(r"\b(segue_\w+)\(", code)) - set(re.findall(r"\(\*(segue_\w+)\)", code))


def rows_of(header, name):
    """Rows of an X macro, state by state, in the words that the table prints."""
    code = re.sub(r"/\*.*?\*/", "", (ROOT / header).read_text(), flags=re.S)

    def entries(macro):
        body = re.search(rf"^#define {macro}\(X\)(.*?)(?<!\\)$", code, re.M | re.S).group(1)
        return [re.split(r",\s*", entry) for entry in re.findall(r"X\(([^)]*)\)", body)]

    words = {
        kind: {entry[0]: entry[1].strip('"') for entry in entries(f"{name}_{kind}S")}
        for kind in ("STATE", "EVENT", "ACTION")
    }
    return [
        (words["STATE"][state], words["EVENT"][event], words["STATE"][following], words["ACTION"][action])
        for state, event, following, action in entries(f"{name}_ROWS")
    ]


def printed_rows(page):
    """The same rows as a page shows them: an empty first cell repeats the one above."""
    rows, state = [], None
    for line in page.splitlines():
        cells = line.split()
        if len(cells) == 4:
            state = cells.pop(0)
        if len(cells) == 3:
            rows.append((state, *cells))
    return rows


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_well_formed(build, page):
    done = subprocess.run(["mandoc", "-T", "lint", source(build, page)], capture_output=True, text=True, check=False)
    # Which other pages this machine has is not the page's doing.
    wrong = [line for line in done.stdout.splitlines() if "referenced manual not found" not in line]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES)
def test_a_page_refers_to_pages_that_exist(build, page):
    ours = {name.rpartition(".")[0] for name in PAGES}
    for name, number in re.findall(r"^\.Xr (\S+) (\d)", source(build, page).read_text(), re.M):
        if name in ours or name.startswith(("segue", "libsegue")):
            assert f"{name}.{number}" in PAGES


def test_every_page_is_one_of_these():
    found = {path.name.removesuffix(".in") for path in (ROOT / "doc/man").glob("*.[0-9]*")}
    assert found == set(PAGES)


@pytest.mark.parametrize("page, header", [("libsegue.3", "segue.h"), ("segue-http.3", "segue/http.h")])
def test_every_public_function_is_in_its_page(build, page, header):
    shown = text(build, page)
    for name in declared(header):
        assert f" {name}(" in section(shown, "SYNOPSIS"), name
    subsections = set(re.findall(r"^   (segue_.*)$", section(shown, "FUNCTIONS"), re.M))
    assert {name for line in subsections for name in line.split(", ")} == declared(header)


def test_every_event_and_state_of_the_library_is_explained(build):
    names = set(re.findall(r"^\s(SEGUE_\w+?)(?: = 1)?,", (ROOT / "include/segue.h").read_text(), re.M))
    assert len(names) > 25
    entries = set(re.findall(r"^     (SEGUE_\w+)", text(build, "libsegue.3"), re.M))
    assert names - entries == set()


def test_every_option_of_run_is_in_the_page_with_its_default(build):
    page = text(build, "segue.1")
    entries = re.search(r"^   Options of run\n(.*?)^   \w", page, re.M | re.S).group(1)
    helped = help_of(build, "src/segue/segue", "run")
    options = re.findall(r"^  (?:-(\w), |    )--([\w-]+)(?: \S+)?(.*(?:\n {30,}.*)*)", helped, re.M)
    assert len(options) > 25
    for letter, name, words in options:
        found = re.search(rf"^     (-\w, )?--{name}(?: .*)?$((?:\n(?:             .*|))+)", entries, re.M)
        assert found, name
        assert (found[1] or "") == (f"-{letter}, " if letter else ""), name
        default = re.search(r" \(([\w-]+)\)$", words)
        if default and default[1] not in ("none", "unchanged"):
            assert f"Default: {default[1]}." in " ".join(found[2].split()), name
    named = re.findall(r"^     (?:-\w, )?--([\w-]+)", entries, re.M)
    assert sorted(named) == sorted(name for _, name, _ in options)


def test_every_setting_is_in_the_page_of_the_file(build):
    helped = help_of(build, "src/segue/segue", "run")
    options = set(re.findall(r"^  (?:-\w, |    )--([\w-]+)", helped, re.M)) - {"help", "config"}
    entries = re.findall(r"^     ([a-z-]+) \S", section(text(build, "segue.conf.5"), "SETTINGS"), re.M)
    assert set(entries) - {"program"} >= options and "program" in entries


def test_every_command_and_its_options_are_in_the_page(build):
    page = text(build, "segue.1")
    commands = re.findall(r"^  (\w+)  ", help_of(build, "src/segue/segue"), re.M)
    assert len(commands) == 9
    for command in commands:
        usage = re.findall(rf"^     segue {command} ?(.*)$", section(page, "SYNOPSIS"), re.M)
        assert len(usage) == 1, command
        if command == "run":
            continue
        options = set(re.findall(r"--[a-z-]+", help_of(build, "src/segue/segue", command)))
        assert options == set(re.findall(r"--[a-z-]+", usage[0])), command


def test_every_exit_code_of_the_command_is_in_the_page(build):
    enum = re.search(r"enum control_exit \{(.*?)\}", (ROOT / "src/segue/control.h").read_text(), re.S).group(1)
    codes = re.findall(r"= (\d+)", enum)
    assert len(codes) == 9
    assert re.findall(r"^     (\d+)  ", section(text(build, "segue.1"), "EXIT STATUS"), re.M) == codes


def test_every_option_and_outcome_of_the_load_client_is_in_the_page(build):
    page = text(build, "segue-load.1")
    helped = help_of(build, "src/load/segue-load")
    options = re.findall(r"^  --([\w-]+)", helped, re.M)
    assert len(options) > 20
    assert sorted(re.findall(r"^     --([\w-]+)", page, re.M)) == sorted(options)
    outcomes = re.findall(r"^  (\w+)  +(.+)$", helped.split("Outcomes of a request")[1].split("TIME and")[0], re.M)
    assert len(outcomes) > 15
    for name, meaning in outcomes:
        assert re.search(rf"^     {name}\s+{re.escape(meaning)}$", page, re.M), name
    assert re.findall(r"^     (\d)  ", section(page, "EXIT STATUS"), re.M) == ["0", "1", "2", "3", "4"]


def test_the_options_of_the_http_module_are_in_its_page(build):
    helped = re.findall(r"^  --([\w-]+)", help_of(build, "hello"), re.M)
    entries = re.findall(r"^     --([\w-]+)", section(text(build, "segue-http.3"), "OPTIONS"), re.M)
    assert set(helped) - {"delay"} == set(entries)


@pytest.mark.parametrize("name, heading", [("SERVICE", "STATES OF A SERVICE"), ("WORKER", "STATES OF A WORKER")])
def test_the_tables_of_the_supervisor_are_those_of_the_code(build, name, heading):
    rows = rows_of("src/segue/table.h", name)
    assert len(rows) > 30
    shown = printed_rows(section(text(build, "segue.7"), heading))
    assert [row for row in shown if row[0] != "state"] == rows


def test_the_table_of_the_library_and_the_messages_are_those_of_the_protocol(build):
    page = text(build, "segue.7")
    protocol = (ROOT / "doc/protocol.md").read_text()

    def cells(heading):
        part = re.search(rf"^## {heading}\n(.*?)^#", protocol, re.M | re.S).group(1)
        return [[cell.strip() for cell in line.strip("|").split("|")]
                for line in part.splitlines() if line.startswith("| ")][1:]

    rows, state = [], None
    for row in cells("The table"):
        state = row[0] or state
        rows.append((state, *row[1:]))
    assert len(rows) > 50
    shown = printed_rows(section(page, "STATES OF A PROGRAM ON LIBSEGUE"))
    assert [row for row in shown if row[0] != "state"] == rows
    messages = [row[0] for row in cells("Messages")]
    assert len(messages) > 20
    assert re.findall(r"^     ([A-Z_]+)  ", section(page, "MESSAGES"), re.M) == messages
