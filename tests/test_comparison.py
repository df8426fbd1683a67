"""bench/peers: what it makes of figures. The peers themselves are not needed; the figures are written here."""

import copy
import sys
import xml.etree.ElementTree

import pytest

from harness.builds import ROOT

sys.path.append(str(ROOT / "bench"))

from comparison import failures, measure, pictures, result  # pylint: disable=wrong-import-position
from comparison.peers import PEERS  # pylint: disable=wrong-import-position

pytestmark = pytest.mark.plain

SVG = "{http://www.w3.org/2000/svg}"
SEEN = {"done": "the program file is gone", "refused": None, "watched": 4.0, "asked": 60, "answered": 60,
        "silent_since": None, "told": [], "exit": None, "alive": True, "works": "yes"}


def shape(lost=0, announced=0, unannounced=0):
    outcomes = {"used_closed": lost} if lost else {}
    return {"requests": 100 + lost, "ok": 100, "lost": lost, "own": 0, "not_started": 0,
            "outcomes": outcomes, "announced": announced, "unannounced": unannounced}


def repetition(lost=0, announced=0, unannounced=0, slower=1):
    """One of a peer that loses so many of the 1,000 over three restarts."""
    shapes = {name: shape() for name in measure.SHAPES}
    shapes["idle"] = shape(lost, announced, unannounced)
    return {
        "memory": {"master": 1 << 20, "workers": 3 << 20, "count": 1},
        "quiet": [{"first": 0.002 * slower, "gone": 0.003 * slower, "failed": 0}] * 3,
        "efficiency": {"per_cpu_second": 200000 / slower, "per_second": 100000, "lost": 0},
        "even": {"steady_ms": 2.0, "restart_ms": 2.0 * slower, "lost": 0, "restarts": 3},
        "losses": {"restarts": 3, "shapes": shapes, "first": [0.01] * 3, "gone": [0.02] * 3,
                   "timeline": {"step_ms": 100, "ok": [100, 90, 100, 50], "lost": [0, lost, 0, 0],
                                "restarts": [0.11], "gone": [0.15]}}}


def peer(key, title, note=None):
    return {"key": key, "title": title, "summary": "a server", "commands": ["start", "restart"],
            "note": note or {}, "remark": "", "alike": None}


@pytest.fixture
def figures():
    """Two repetitions of three peers: one that loses nothing, one that loses 30 and 60 of three restarts, and
    one with a title that XML would choke on."""
    runs = [{"segue": repetition(), "nginx-reload": repetition(30, 0, 2940, slower=2),
             "odd": repetition(announced=3)},
            {"segue": repetition(), "nginx-reload": repetition(60, 0, 2700, slower=4),
             "odd": repetition(announced=3)}]
    return {"peers": [peer("segue", "Segue"), peer("nginx-reload", "nginx"),
                      peer("odd", "<b> & `c`", {"slow": "it has none"})],
            "runs": copy.deepcopy(runs), "failures": {"segue": {how: SEEN for how in failures.HOW}}}


def row(text, title):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {title} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_losses_and_closes_are_counted_for_each_restart_with_their_spread(figures):
    lost, closed = result.losses(figures), result.closes(figures)
    assert row(lost, "Segue")[1:] == ["0"] * 5
    assert row(lost, "nginx")[1:] == ["0", "0", "0", "15 (10 to 20)", "0"]
    assert row(closed, "nginx")[3] == "940 (900 to 980) · 0"
    assert "90 `used_closed`" in result.classes(figures)


def test_a_shape_that_a_peer_cannot_have_is_not_a_zero(figures):
    assert row(result.losses(figures), "<b> & `c`")[-1] == "n/a"
    assert "it has none" in result.page(figures, {"kernel": "one"}, "bench/peers", ["calm"])


def test_a_peer_that_closes_after_each_answer_keeps_none(figures):
    for run in figures["runs"]:
        for one in run["odd"]["losses"]["shapes"].values():
            one["announced"] = one["ok"]
    assert row(result.closes(figures), "<b> & `c`")[1] == result.KEEPS_NONE
    assert row(result.closes(figures), "nginx")[1] == "0 · 0"


def test_ratios_are_of_the_same_repetition(figures):
    assert row(result.times(figures), "nginx")[2] == "3.00 (2.00 to 4.00)"
    assert row(result.efficiency(figures), "Segue")[2] == "3.00 (2.00 to 4.00)"
    assert row(result.slowest(figures), "nginx")[3] == "3.00 (2.00 to 4.00)"


def test_a_row_of_fewer_repetitions_than_the_others_says_so_wherever_it_stands(figures):
    del figures["runs"][0]["nginx-reload"]
    fewer, whole = "nginx (1 of 2)", "Segue"
    for part in (result.losses, result.closes, result.times, result.slowest, result.efficiency):
        assert row(part(figures), fewer) and row(part(figures), whole)
    assert [line.split(":")[0] for line in result.short(figures)[1:]] == [whole, fewer, "<b> & `c`"]
    assert "* nginx (1 of 2): 60 `used_closed`" in result.classes(figures)
    assert row(result.efficiency(figures), whole)[2] == "4.00 of 1"
    page = result.page(figures, {"kernel": "one"}, "bench/peers", ["calm"])
    assert 'the median of 2\nrepetitions (of fewer in the rows that say so: "(1 of 2)"), in brackets' in page
    picture = xml.etree.ElementTree.fromstring(pictures.losses(figures))
    words = [element.text for element in picture.iter(f"{SVG}text")]
    assert fewer in words and "<b> & c" in words and any('"(1 of 2)"' in word for word in words)


def test_where_no_repetition_is_missing_nothing_is_said_of_it(figures):
    assert " of 2)" not in result.page(figures, {"kernel": "one"}, "bench/peers", ["calm"])


def test_who_has_no_row_among_the_failing_versions_is_named_with_the_reason(figures):
    figures["peers"][1]["alike"] = "segue"
    text = result.failures(figures)
    assert row(text, "Segue")[1].startswith("**serves on**")
    absent = text.split("Without a row:\n\n")[1].splitlines()
    assert absent == ["* nginx: started, checked and restarted in the same way as Segue, whose row stands for both",
                      "* <b> & `c`: was not tried"]
    figures["failures"] = {one["key"]: figures["failures"]["segue"] for one in figures["peers"]}
    assert "Without a row" not in result.failures(figures)


def test_some_peers_alone_make_a_page_without_ratios(figures):
    figures["peers"] = [one for one in figures["peers"] if one["key"] == "odd"]
    figures["runs"] = [{"odd": run["odd"]} for run in figures["runs"]]
    assert row(result.times(figures), "<b> & `c`")[2] == "n/a"
    assert "## Lost requests" in result.page(figures, {"kernel": "one"}, "bench/peers", ["calm"])


@pytest.mark.parametrize("change, said", [
    ({}, "**serves on**; nothing says so"),
    ({"told": ["the successor failed"]}, "told: `the successor failed`"),
    ({"silent_since": 1.25, "answered": 20}, "**nobody answers** from 1.2 s on"),
    ({"alive": False, "exit": 3, "works": "no"}, "**the service ends**, exit code 3"),
    ({"answered": 55}, "5 of 60 requests get no answer"),
    ({"refused": {"code": 1, "words": "line 1: nonsense"}}, "ends with exit code 1: `line 1: nonsense`; nothing"),
    ({"works": "killed"}, "once what hangs has been killed"),
])
def test_an_experiment_is_told_as_it_was_seen(change, said):
    assert said in result.words({**SEEN, **change})


def test_pictures_are_well_formed_and_show_what_was_lost(figures):
    losses = xml.etree.ElementTree.fromstring(pictures.losses(figures))
    words = [element.text for element in losses.iter(f"{SVG}text")]
    assert "<b> & c" in words
    assert words.count("15") == 1 and "940" in words
    timeline = xml.etree.ElementTree.fromstring(pictures.timeline(figures, ("segue", "nginx-reload")))
    red = [element for element in timeline.iter(f"{SVG}rect") if element.get("class") == "lost"]
    assert [element.find(f"{SVG}title").text for element in red] == ["30 lost"]
    assert "prefers-color-scheme: dark" in timeline.find(f"{SVG}style").text


def test_timelines_of_several_loads_are_added_up_at_the_same_moments():
    def load(at_ms, ok, lost):
        return {"monotonic_ms": at_ms, "timeline": {
            "step_ms": 100, "steps": len(ok), "ok": ok, "failures": {"used_closed": lost},
            "latency_us": {"max": [1000 * (at + 1) for at in range(len(ok))]}}}

    early, late = load(1000, [1, 2, 3, 4, 5], [0, 0, 0, 9, 0]), load(1200, [10, 20, 30], [0, 1, 0])
    merged = measure.merged([early, late], [{"begun": 1.35, "gone": 1.4}])
    assert merged["ok"] == [13, 24, 35] and merged["lost"] == [0, 10, 0]
    assert merged["restarts"] == [pytest.approx(0.15)]
    assert measure.worst(early, [(1.1, 1.25), (0.5, 1.05)]) == 3.0


def test_each_peer_says_who_it_is_and_whose_advice_it_follows():
    advice = (ROOT / "bench/peers.d/README.md").read_text(encoding="utf-8")
    assert len({one.key for one in PEERS}) == len(PEERS) >= 12
    for one in PEERS:
        assert one.title and one.summary and len(one.commands) == 2
        assert one.alike is None or [other.alike for other in PEERS if other.key == one.alike] == [None]
        assert set(one.shapes) | set(one.note) == set(measure.SHAPES)
    for file in (ROOT / "bench/peers.d").iterdir():
        assert file.name in advice or file.name == "README.md", f"{file.name} is not explained"
