"""The protocol's model is the code's, spin finds no fault in it, and finds those put into it.

doc/protocol.md says what the runs cover. Each is exhaustive within its bounds.
"""

import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
MODEL = ROOT / "doc" / "model" / "upgrade.pml"
PROTOCOL = ROOT / "doc" / "protocol.md"
LIFECYCLE = ROOT / "src" / "core" / "lifecycle.c"
NAMES = ROOT / "src" / "core" / "lifecycle.h"
WIRE = ROOT / "src" / "core" / "wire.h"

# Rows of the code that the model leaves out, each with its reason; IGNORE rows are its "else".
ROWS_LEFT_OUT = {
    ("GONE", "UPGRADE"): "a generation that is gone is not asked; its process ends",
}

# Messages that the model leaves out: they carry data and decide nothing. OFFERED stands for all
# that comes before it.
MESSAGES_LEFT_OUT = {"LISTENER", "DROPPED", "PID_FILE", "WANT_STATE", "BLOB", "STATE"}

SHORT = {
    "no_fault_and_no_deadline": "-DSLOTS=3 -DQUIET",
    "everything_with_two": "-DSLOTS=2 -DCONNS=2 -DBREAKS=2 -DKILLS=2 -DSTOPS=2 -DDECLINES=1 -DCHECKS=1",
    "two_kills": "-DSLOTS=3 -DKILLS=2 -DTRIGGERS=3 -DCHECKS=1",
    "a_stop": "-DSLOTS=3 -DSTOPS=1",
    "a_term_to_the_group": "-DSLOTS=3 -DGROUP",
    "nonsense": "-DSLOTS=3 -DBREAKS=2",
}
LONG = {
    "long_a_kill_and_a_stop": "-DSLOTS=3 -DKILLS=1 -DSTOPS=1",
    "long_two_stops": "-DSLOTS=3 -DSTOPS=2",
    "long_nonsense_and_a_stop": "-DSLOTS=3 -DBREAKS=1 -DSTOPS=1",
    "long_two_connections_and_a_kill": "-DSLOTS=3 -DKILLS=1 -DCONNS=2",
    "long_two_kills_and_a_stop": "-DSLOTS=3 -DKILLS=2 -DSTOPS=1 -DTRIGGERS=3 -DCHECKS=1",
    "long_two_connections": "-DSLOTS=3 -DKILLS=1 -DCONNS=2 -DDECLINES=1 -DSTOPS=1",
    "long_two_connections_in_a_group": "-DSLOTS=3 -DGROUP -DCONNS=2 -DDECLINES=1",
    "long_two_connections_and_nonsense": "-DSLOTS=3 -DBREAKS=1 -DCONNS=2 -DDECLINES=1",
}
# Each breaks one rule of doc/protocol.md, in a scope that is part of one above.
MUTANTS = {
    "TAKE_BACK_ON_TIMEOUT": "-DSLOTS=2",
    "NO_PIDFD_PROOF": "-DSLOTS=2 -DBREAKS=1",
    "PROOF_BEFORE_READING": "-DSLOTS=2 -DKILLS=1",
    "EOF_BEFORE_KILL": "-DSLOTS=2",
    "TOUCH_BEFORE_ACK": "-DSLOTS=2 -DKILLS=1",
    "LEAVE_WITHOUT_A_LOOK": "-DSLOTS=2 -DKILLS=1",
    "READY_LEAVES_SILENTLY": "-DSLOTS=2 -DGROUP",
    "HEARS_THE_ABANDONED": "-DSLOTS=3",
    "INTRODUCE_AT_COMMIT": "-DSLOTS=3 -DKILLS=1",
    "DRAINED_ADOPTS": "-DSLOTS=3",
}


pytestmark = pytest.mark.timeout(300)


def code_rows():
    """(state, event) -> (next, action), of the table in C."""
    rows, state = {}, None
    for line in LIFECYCLE.read_text().splitlines():
        if found := re.match(r"\s*\[SG_STATE_(\w+)\] = \{$", line):
            state = found[1]
        elif found := re.match(
            r"\s*\[SG_EVENT_(\w+)\] = \{ SG_STATE_(\w+), SG_ACTION_(\w+) \},$", line
        ):
            assert (state, found[1]) not in rows
            rows[state, found[1]] = (found[2], found[3])
    return rows


def names(path, macro):
    """The names in an X-macro list: name -> the rest of its entry."""
    text = path.read_text().split(f"#define {macro}(X)")[1].split("\n#define")[0].split("\nenum")[0]
    text = text.split("#define SG_MESSAGE_ENUM")[0]
    return dict(re.findall(r"X\((\w+), ([^)]*)\)", text))


def model_rows():
    rows = {}
    pattern = r"^\tROW\((\w+), (\w+), (\w+), (\w+)\)$"
    for state, event, following, action in re.findall(pattern, MODEL.read_text(), re.M):
        assert (state, event) not in rows
        rows[state, event] = (following, action)
    return rows


def changes(rows):
    return {key: step for key, step in rows.items() if step[1] != "IGNORE"}


def test_the_code_s_table_is_total_and_was_read_whole():
    states, events = names(NAMES, "SG_STATES"), names(NAMES, "SG_EVENTS")
    assert len(states) > 10 and len(events) > 10
    assert set(code_rows()) == {(state, event) for state in states for event in events}


def test_the_model_s_table_is_the_code_s():
    wanted = changes(code_rows())
    for key in ROWS_LEFT_OUT:
        del wanted[key]
    assert model_rows() == wanted


def test_the_model_s_names_are_the_code_s():
    text = re.sub(r"/\*.*?\*/", "", MODEL.read_text(), flags=re.S)
    for prefix, path, macro, left_out in (
        ("STATE", NAMES, "SG_STATES", set()),
        ("EVENT", NAMES, "SG_EVENTS", set()),
        ("ACTION", NAMES, "SG_ACTIONS", set()),
        ("MESSAGE", WIRE, "SG_MESSAGES", MESSAGES_LEFT_OUT),
    ):
        declared = set()
        for block in re.findall(r"mtype = \{(.*?)\}", text, re.S):
            declared |= set(re.findall(rf"\b{prefix}_(\w+)", block))
        assert declared - {"NONE"} == set(names(path, macro)) - left_out


def test_every_state_has_a_way_out():
    rows = code_rows()
    for state, rest in names(NAMES, "SG_STATES").items():
        limited = not rest.endswith('"none"')
        assert limited == (state not in ("SERVING", "GONE"))
        if limited:
            assert rows[state, "DEADLINE"][0] != state
        seen = set()
        while state not in ("SERVING", "GONE"):
            assert state not in seen, f"deadlines lead in a circle through {state}"
            seen.add(state)
            state = rows[state, "DEADLINE"][0]


def test_the_document_s_table_and_messages_are_the_code_s():
    text = PROTOCOL.read_text()
    rows, state = {}, None
    for cells in re.findall(r"^\| ([A-Z_]*) \| ([A-Z_]+) \| ([A-Z_]+) \| ([A-Z_]+) \|$", text, re.M):
        state = cells[0] or state
        rows[state, cells[1]] = (cells[2], cells[3])
    assert rows == changes(code_rows())
    messages = dict(re.findall(r"^\| (\w+) \| (up|down|both) \|", text, re.M))
    wanted = {name: rest.split('"')[-2] for name, rest in names(WIRE, "SG_MESSAGES").items()}
    assert messages == wanted


def spin(folder, flags, progress=False, optimise="-O0"):
    """Runs spin on the model to the end; what pan printed."""

    def run(*command):
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    run("spin", "-a", *flags.split(), str(MODEL))
    kind = "-DNP" if progress else "-DSAFETY"
    run("gcc", optimise, "-w", kind, "-DCOLLAPSE", "-DVECTORSZ=2048", "-DMEMLIM=2000",
        "-DNOFAIR", "-o", "pan", "pan.c")
    said = run("./pan", "-m20000", *(["-l"] if progress else []))
    assert "max search depth too small" not in said
    assert "out of memory" not in said
    assert re.search(r"^\s*\d+ states, stored", said, re.M), said
    return said


def errors(said):
    return int(re.search(r"errors: (\d+)", said)[1])


def trail(folder, flags):
    """The steps of the error that spin found, for the failure's message."""
    done = subprocess.run(
        ["spin", "-t", "-B", *flags.split(), "-k", "upgrade.pml.trail", str(MODEL)],
        cwd=folder, capture_output=True, text=True, timeout=60, check=False,
    )
    return done.stdout[-4000:]


def holds(folder, flags, optimise="-O0"):
    """Of a short run the compiler takes the greater part, so it does not optimise."""
    said = spin(folder, flags, optimise=optimise)
    assert errors(said) == 0, said[:300] + trail(folder, flags)


@pytest.mark.parametrize("scope", SHORT)
def test_the_protocol_holds(folder, scope):
    holds(folder, SHORT[scope])


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("scope", LONG)
def test_the_protocol_holds_in_a_larger_scope(folder, scope):
    holds(folder, LONG[scope], "-O2")


@pytest.mark.parametrize("flags", ["-DSLOTS=3 -DKILLS=1", "-DSLOTS=2 -DSTOPS=2 -DBREAKS=1"])
def test_no_run_goes_on_for_ever(folder, flags):
    """No cycle at all: nobody takes back and forth, and each run ends where rest() looks."""
    assert errors(spin(folder, flags, progress=True)) == 0


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_rule_is_found(folder, mutant):
    flags = f"{MUTANTS[mutant]} -DMUTANT_{mutant}"
    assert f"MUTANT_{mutant}" in MODEL.read_text()
    assert errors(spin(folder, flags)) == 1


def test_every_mutant_of_the_model_is_tried():
    assert set(re.findall(r"MUTANT_(\w+)", MODEL.read_text())) - {"..."} == set(MUTANTS)


def test_every_row_of_the_table_is_reached(folder):
    """Taken together the short runs use every row: what is proven is not proven of nothing."""
    lines = MODEL.read_text().splitlines()
    rows = {number for number, line in enumerate(lines, 1) if line.startswith("\tROW(")}
    for flags in (SHORT["everything_with_two"], "-DSLOTS=3 -DSTOPS=1"):
        said = spin(folder, flags)
        text = said.split("unreached in proctype generation")[1].split("unreached in")[0]
        unreached = {
            int(line) for line, what in re.findall(r"upgrade\.pml:(\d+), state \d+, \"(.*)\"", text)
        }
        rows &= unreached
    assert not rows, [lines[number - 1].strip() for number in sorted(rows)]
