"""The protocol's models are the code's, spin finds no fault in them, and finds those put into them.

doc/protocol.md says what the runs cover. Each is exhaustive within its bounds.
"""

import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
MODELS = ROOT / "doc" / "model"
UPGRADE = MODELS / "upgrade.pml"
SUPERVISED = MODELS / "supervised.pml"
TABLE = MODELS / "lifecycle.pml"  # both include these two
HANDOVER = MODELS / "handover.pml"
PROTOCOL = ROOT / "doc" / "protocol.md"
LIFECYCLE = ROOT / "src" / "core" / "lifecycle.c"
NAMES = ROOT / "src" / "core" / "lifecycle.h"
WIRE = ROOT / "src" / "core" / "wire.h"
SUPERVISOR = ROOT / "src" / "segue" / "table.h"

# Rows of the code that the model leaves out, each with its reason; IGNORE rows are its "else".
ROWS_LEFT_OUT = {
    ("GONE", "UPGRADE"): "a generation that is gone is not asked; its process ends",
}

# Messages that the models leave out: they carry data and decide nothing. OFFERED stands for all
# that comes before it.
MESSAGES_LEFT_OUT = {
    "LISTENER", "DROPPED", "PID_FILE", "WANT_STATE", "BLOB", "STATE", "SUPERVISE", "ASK", "ANSWER",
}

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

# The same under a supervisor.
SUPERVISED_SHORT = {
    "no_fault_and_no_deadline": "-DSLOTS=3 -DTRIGGERS=2 -DQUIET",
    "everything_where_orphans_drain": "-DKILLS=1 -DDEATH -DSTOPS=1 -DCUTS=1",
    "everything_where_orphans_serve": "-DKILLS=1 -DDEATH -DSERVE -DSTOPS=1 -DDECLINES=1",
    "two_workers_before_one": "-DFIRST=2 -DDEATH",
    "one_worker_before_two": "-DSECOND=2 -DDEATH -DSERVE",
    "a_successor_that_is_lost": "-DSECOND=2 -DKILLS=1",
    "a_term_to_the_group": "-DGROUP -DKILLS=1",
}
SUPERVISED_LONG = {
    "three_generations_and_orphans_that_drain": "-DSLOTS=3 -DTRIGGERS=2 -DDEATH",
    "three_generations_and_orphans_that_serve": "-DSLOTS=3 -DTRIGGERS=2 -DDEATH -DSERVE",
    "three_generations_and_a_kill": "-DSLOTS=3 -DTRIGGERS=2 -DKILLS=1",
    "three_generations_a_kill_and_a_death": "-DSLOTS=3 -DTRIGGERS=2 -DKILLS=1 -DDEATH -DSERVE",
    "a_successor_that_is_lost_and_a_death": "-DSECOND=2 -DKILLS=1 -DDEATH",
    "two_kills_and_a_death": "-DSLOTS=3 -DKILLS=2 -DDEATH -DSERVE",
    "two_connections": "-DSLOTS=3 -DKILLS=1 -DCONNS=2 -DDECLINES=1 -DCUTS=1",
    "two_workers_before_one_and_a_kill": "-DFIRST=2 -DKILLS=1 -DDEATH",
    "two_workers_before_one_and_stops": "-DFIRST=2 -DSTOPS=1 -DDEATH -DSERVE -DCONNS=2",
    "one_worker_before_two_and_a_kill": "-DSECOND=2 -DKILLS=1 -DDEATH -DSERVE",
    "one_worker_before_two_and_stops": "-DSECOND=2 -DSTOPS=2 -DCUTS=1 -DDECLINES=1",
    "one_worker_before_two_in_a_group": "-DSECOND=2 -DGROUP",
    "two_workers_before_two": "-DFIRST=2 -DSECOND=2 -DDEATH -DSERVE",
}
SUPERVISED_MUTANTS = {
    "RETIRE_BEFORE_COMMIT": "",
    "RETIRE_BEFORE_THEY_SERVE": "",
    "COMMIT_BEFORE_ALL_ARE_READY": "-DSECOND=2",
    "KILL_WITHOUT_A_LOOK": "",
    "INTRODUCE_AFTER_COMMIT": "-DDEATH -DSERVE",
    "INTRODUCE_PAIRS_ONLY": "-DSECOND=2 -DDEATH -DSERVE",
    "RESUME_WITHOUT_A_WORD": "-DSECOND=2 -DKILLS=1",
    "ORPHAN_STARTS_SERVING": "-DDEATH",
    "ORPHAN_NEVER_RETIRES": "-DDEATH -DSERVE",
}
# Of the handover, which the other model has as well.
SUPERVISED_LONG_MUTANTS = {
    "TAKE_BACK_ON_TIMEOUT": "",
    "PROOF_BEFORE_READING": "-DKILLS=1",
    "TOUCH_BEFORE_ACK": "-DKILLS=1",
    "DRAINED_ADOPTS": "-DSLOTS=3 -DTRIGGERS=2",
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
    """The names in an X-macro list: name -> the rest of its entry. Comments are none of it."""
    text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S)
    text = text.split(f"#define {macro}(X)")[1].split("\n#define")[0].split("\nenum")[0]
    text = text.split("#define SG_MESSAGE_ENUM")[0]
    return dict(re.findall(r"X\((\w+), ([^)]*)\)", text))


def model_rows():
    rows = {}
    pattern = r"^\tROW\((\w+), (\w+), (\w+), (\w+)\)$"
    for state, event, following, action in re.findall(pattern, TABLE.read_text(), re.M):
        assert (state, event) not in rows
        rows[state, event] = (following, action)
    return rows


def changes(rows):
    return {key: step for key, step in rows.items() if step[1] != "IGNORE"}


def test_the_code_s_table_is_total_and_was_read_whole():
    states, events = names(NAMES, "SG_STATES"), names(NAMES, "SG_EVENTS")
    assert len(states) > 10 and len(events) > 10
    assert set(code_rows()) == {(state, event) for state in states for event in events}


def test_the_models_table_is_the_code_s():
    wanted = changes(code_rows())
    for key in ROWS_LEFT_OUT:
        del wanted[key]
    assert model_rows() == wanted
    for model in (UPGRADE, SUPERVISED):
        assert f'#include "{TABLE.name}"' in model.read_text()
        assert f'#include "{HANDOVER.name}"' in model.read_text()


def test_the_models_names_are_the_code_s():
    text = re.sub(r"/\*.*?\*/", "", TABLE.read_text(), flags=re.S)
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
    workers = set(re.findall(r"\bWORKER_([A-Z]+)\b", SUPERVISED.read_text())) - {"NONE"}
    # The supervisor's deadlines for a worker that drains are the worker's own in the model.
    assert workers == set(names(SUPERVISOR, "WORKER_STATES")) - {"CUTTING"}


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


def document_rows(heading):
    """The table below a heading of the document, in the order in which it stands there."""
    text = PROTOCOL.read_text().split(f"\n{heading}\n")[1].split("\n#")[0]
    rows, state = {}, None
    for cells in re.findall(r"^\| ([A-Z_]*) \| ([A-Z_]+) \| ([A-Z_]+) \| ([A-Z_]+) \|$", text, re.M):
        state = cells[0] or state
        assert (state, cells[1]) not in rows
        rows[state, cells[1]] = (cells[2], cells[3])
    return rows


def supervisor_rows(macro):
    """(state, event) -> (next, action), of a table of the supervisor."""
    text = SUPERVISOR.read_text().split(f"#define {macro}(X)")[1].split("\n\n")[0]
    found = re.findall(r"X\((\w+), (\w+), (\w+), (\w+)\)", text)
    rows = {(state, event): (following, action) for state, event, following, action in found}
    assert len(rows) == len(found) > 10
    return rows


def test_the_document_s_table_and_messages_are_the_code_s():
    assert document_rows("## The table") == changes(code_rows())
    messages = re.findall(r"^\| (\w+) \| (up|down|both) \| (yes|-) \|", PROTOCOL.read_text(), re.M)
    wanted = {name: rest.split('"')[-2] for name, rest in names(WIRE, "SG_MESSAGES").items()}
    assert {name: direction for name, direction, _ in messages} == wanted
    assert {name for name, _, modelled in messages if modelled == "-"} == MESSAGES_LEFT_OUT


@pytest.mark.parametrize(
    "heading, prefix", [("### Of a worker", "WORKER"), ("### Of the service", "SERVICE")]
)
def test_the_document_s_tables_of_the_supervisor_are_the_code_s(heading, prefix):
    rows = supervisor_rows(f"{prefix}_ROWS")
    assert document_rows(heading) == rows
    states = names(SUPERVISOR, f"{prefix}_STATES")
    events, actions = (names(SUPERVISOR, f"{prefix}_{kind}") for kind in ("EVENTS", "ACTIONS"))
    for (state, event), (following, action) in rows.items():
        assert {state, following} <= set(states) and event in events and action in actions
    for state, rest in states.items():
        if not rest.endswith('"none"'):
            assert (state, "DEADLINE") in rows


def test_every_rule_that_a_mutant_breaks_names_it():
    named = set(re.findall(r"`([A-Z_]+)`", PROTOCOL.read_text().split("\n## Rules\n")[1]))
    assert named == set(MUTANTS) | set(SUPERVISED_MUTANTS)


def spin(folder, model, flags, progress=False, optimise="-O0"):
    """Runs spin on a model to the end; what pan printed."""

    def run(*command):
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    run("spin", "-a", *flags.split(), str(model))
    kind = "-DNP" if progress else "-DSAFETY"
    run("gcc", optimise, "-w", kind, "-DCOLLAPSE", "-DVECTORSZ=2048", "-DMEMLIM=3000",
        "-DNOFAIR", "-o", "pan", "pan.c")
    said = run("./pan", "-m20000", *(["-l"] if progress else []))
    assert "max search depth too small" not in said
    assert "out of memory" not in said
    assert re.search(r"^\s*\d+ states, stored", said, re.M), said
    return said


def errors(said):
    return int(re.search(r"errors: (\d+)", said)[1])


def trail(folder, model, flags):
    """The steps of the error that spin found, for the failure's message."""
    done = subprocess.run(
        ["spin", "-t", "-B", *flags.split(), "-k", f"{model.name}.trail", str(model)],
        cwd=folder, capture_output=True, text=True, timeout=60, check=False,
    )
    return done.stdout[-4000:]


def holds(folder, model, flags, optimise="-O0"):
    """Of a short run the compiler takes the greater part, so it does not optimise."""
    said = spin(folder, model, flags, optimise=optimise)
    assert errors(said) == 0, said[:300] + trail(folder, model, flags)


@pytest.mark.parametrize("scope", SHORT)
def test_the_protocol_holds(folder, scope):
    holds(folder, UPGRADE, SHORT[scope])


@pytest.mark.parametrize("scope", SUPERVISED_SHORT)
def test_the_protocol_holds_under_a_supervisor(folder, scope):
    holds(folder, SUPERVISED, SUPERVISED_SHORT[scope])


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("scope", LONG)
def test_the_protocol_holds_in_a_larger_scope(folder, scope):
    holds(folder, UPGRADE, LONG[scope], "-O2")


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("scope", SUPERVISED_LONG)
def test_the_protocol_holds_under_a_supervisor_in_a_larger_scope(folder, scope):
    holds(folder, SUPERVISED, SUPERVISED_LONG[scope], "-O2")


@pytest.mark.parametrize(
    "model, flags",
    [
        (UPGRADE, "-DSLOTS=3 -DKILLS=1"),
        (UPGRADE, "-DSLOTS=2 -DSTOPS=2 -DBREAKS=1"),
        (SUPERVISED, "-DKILLS=1 -DDEATH -DSERVE -DCUTS=1"),
    ],
)
def test_no_run_goes_on_for_ever(folder, model, flags):
    """No cycle at all: nobody takes back and forth, and each run ends where rest() looks."""
    assert errors(spin(folder, model, flags, progress=True)) == 0


def is_found(folder, model, mutant, flags):
    assert re.search(rf"MUTANT_{mutant}\b", model.read_text() + HANDOVER.read_text())
    assert errors(spin(folder, model, f"{flags} -DMUTANT_{mutant}")) == 1


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_rule_is_found(folder, mutant):
    is_found(folder, UPGRADE, mutant, MUTANTS[mutant])


@pytest.mark.parametrize("mutant", SUPERVISED_MUTANTS)
def test_a_broken_rule_is_found_under_a_supervisor(folder, mutant):
    is_found(folder, SUPERVISED, mutant, SUPERVISED_MUTANTS[mutant])


@pytest.mark.long
@pytest.mark.parametrize("mutant", SUPERVISED_LONG_MUTANTS)
def test_a_broken_rule_of_the_handover_is_found_under_a_supervisor(folder, mutant):
    is_found(folder, SUPERVISED, mutant, SUPERVISED_LONG_MUTANTS[mutant])


def test_every_mutant_of_the_models_is_tried():
    shared = set(re.findall(r"MUTANT_(\w+)", HANDOVER.read_text()))
    for model, tried in (
        (UPGRADE, set(MUTANTS)),
        (SUPERVISED, set(SUPERVISED_MUTANTS) | set(SUPERVISED_LONG_MUTANTS)),
    ):
        assert set(re.findall(r"MUTANT_(\w+)", model.read_text())) - {"..."} | shared == tried


def unused_rows(said, proctype):
    """The lines of the table that a run has not reached; of an included file spin gets the line
    right, but not always the name."""
    lines = TABLE.read_text().splitlines()
    text = said.split(f"unreached in proctype {proctype}")[1].split("unreached in")[0]
    rows = set()
    for line, action in re.findall(r'\.pml:(\d+), state \d+, "ac = ACTION_(\w+)"', text):
        assert lines[int(line) - 1].strip().endswith(f", {action})")
        rows.add(int(line))
    return rows


def test_every_row_of_the_table_is_reached(folder):
    """Taken together the short runs use every row: what is proven is not proven of nothing."""
    lines = TABLE.read_text().splitlines()
    rows = {number for number, line in enumerate(lines, 1) if line.startswith("\tROW(")}
    for model, proctype, flags in (
        (UPGRADE, "generation", SHORT["everything_with_two"]),
        (UPGRADE, "generation", "-DSLOTS=3 -DSTOPS=1"),
        (SUPERVISED, "worker", SUPERVISED_SHORT["everything_where_orphans_drain"]),
        (SUPERVISED, "worker", SUPERVISED_SHORT["no_fault_and_no_deadline"]),
    ):
        rows &= unused_rows(spin(folder, model, flags), proctype)
    assert not rows, [lines[number - 1].strip() for number in sorted(rows)]
