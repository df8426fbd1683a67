"""doc/control.md as a schema: its tables, and whether a line that was sent is what they say.

check_line() takes any line of a supervisor (or of `segue --json`); check_status() the object of
`segue status --json`. Both raise an AssertionError that names the member.
"""

import re

from harness.builds import ROOT

DOCUMENT = ROOT / "doc" / "control.md"
PARTS = {"listeners": "listener", "generations": "generation", "workers": "worker",
         "program": "program", "script_file": "script file", "upgrade": "upgrade", "last_upgrade": "last upgrade"}
TYPES = {
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "true": lambda value: value is True,
    "null": lambda value: value is None,
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "array of strings": lambda value: isinstance(value, list)
    and all(isinstance(word, str) for word in value),
}


class Table:
    """One table of the document: the section it stands in, its label, its rows as dicts."""

    def __init__(self, section, label, columns):
        self.section = section
        self.label = label
        self.columns = columns
        self.rows = []

    def add(self, cells):
        row = dict(zip(self.columns, cells, strict=True))
        first = self.columns[0]
        if not row[first] and self.rows:
            row[first] = self.rows[-1][first]  # an empty first cell is the one above
        self.rows.append(row)


def tables():
    found, section, label, table = [], "", "", None
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section, label = line[3:], ""
        if match := re.fullmatch(r"`([\w ]+)`:", line):
            label = match[1]
        if not line.startswith("|"):
            table = None
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if table is None:
            table = Table(section, label, cells)
            found.append(table)
        elif not set(line) <= set("|-"):
            table.add(cells)
    return found


TABLES = tables()


def table(section, first, label=""):
    """The one table of a section (and label) whose first column is called so."""
    found = [table for table in TABLES
             if (table.section, table.label, table.columns[0]) == (section, label, first)]
    assert len(found) == 1, f"{len(found)} tables '{first}' in '{section}' {label}"
    return found[0]


def members(section, label=""):
    """{member: type} of a section."""
    return {row["member"]: row["type"] for row in table(section, "member", label).rows}


def events():
    """{event: {further members}}, alive too."""
    return {row["event"]: set(row["further members"].replace(",", " ").split())
            for row in table("Events", "event").rows}


def exits():
    """{exit code: {outcomes}}"""
    found = {}
    for row in table("The end", "exit").rows:
        found.setdefault(int(row["exit"]), set()).add(row["outcome"])
    return found


def of_type(value, text):
    return any(TYPES[word](value) for word in text.split(" or "))


def check_members(value, types, what, required):
    unknown = set(value) - set(types)
    assert not unknown, f"{what}: {sorted(unknown)} is not documented"
    missing = set(required) - set(value)
    assert not missing, f"{what}: {sorted(missing)} is missing"
    for name, member in value.items():
        assert of_type(member, types[name]), f"{what}: {name} is {member!r}, not {types[name]}"


def check_event(event):
    known = events()
    assert event["event"] in known, f"{event['event']} is not documented"
    if event["event"] == "alive":
        assert event == {"event": "alive"}
        return
    common = {"event", "generation", "ms"}
    allowed = common | {"predecessor", "workers"} | known[event["event"]]
    types = {name: kind for name, kind in members("Events").items() if name in allowed}
    assert allowed <= set(members("Events")), f"{event['event']} has members without a type"
    check_members(event, types, event["event"], common)


def check_end(end):
    check_members(end, members("The end"), "the end", {"end", "exit", "message"})
    known = exits()
    assert end["exit"] in known, f"exit {end['exit']} is not documented"
    if "outcome" in end:
        assert end["outcome"] in known[end["exit"]], f"{end['outcome']} with exit {end['exit']}"
    if "status" in end:
        check_status(end["status"])


def check_line(line):
    if "end" in line:
        check_end(line)
    else:
        check_event(line)


def check_status(status, label=""):
    types = members("The status", label)
    check_members(status, types, f"status {label}".strip(), types)
    for name, value in status.items():
        if name in PARTS and value is not None:
            for part in value if isinstance(value, list) else [value]:
                check_status(part, PARTS[name])
