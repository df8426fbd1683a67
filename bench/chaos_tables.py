"""The three tables of states, read from the code, and whether what a log tells is in them."""

import re

from harness.builds import ROOT


def _names(text, macro):
    """{NAME: its text} of one of the lists of names."""
    body = re.search(rf"#define {macro}\(X\)(.*?)\n\n", text, re.S).group(1)
    return dict(re.findall(r'X\((\w+), "([a-z-]+)"', body))


def _generation():
    header = (ROOT / "src/core/lifecycle.h").read_text(encoding="utf-8")
    states, events = _names(header, "SG_STATES"), _names(header, "SG_EVENTS")
    code = (ROOT / "src/core/lifecycle.c").read_text(encoding="utf-8")
    rows = set()
    for state, body in re.findall(r"\n\t\[SG_STATE_(\w+)\] = \{(.*?)\n\t\}", code, re.S):
        for event, after in re.findall(r"\[SG_EVENT_(\w+)\] = \{ SG_STATE_(\w+),", body):
            rows.add((states[state], events[event], states[after]))
    return rows


def _supervisor(kind):
    text = (ROOT / "src/segue/table.h").read_text(encoding="utf-8")
    states, events = _names(text, f"{kind}_STATES"), _names(text, f"{kind}_EVENTS")
    body = re.search(rf"#define {kind}_ROWS\(X\)(.*?)\n\n", text, re.S).group(1)
    found = re.findall(r"X\((\w+), (\w+), (\w+), \w+\)", body)
    return {(states[state], events[event], states[after]) for state, event, after in found}


class Tables:
    """Judges each change of a state that a log tells."""

    def __init__(self):
        self.rows = {"generation": _generation(), "service": _supervisor("SERVICE"),
                     "worker": _supervisor("WORKER")}
        assert all(len(rows) > 20 for rows in self.rows.values())
        self.judged = 0
        self._at = {}
        self.gaps = False  # lines may be missing: whoever copies them was killed

    def judge(self, event):
        """What is wrong about it, or None."""
        if event.name == "worker":
            kind, who = "worker", event["pid"]
        elif event.name == "state":
            kind = "service" if "service" in event else "generation"
            who = event.get("pid", "service")
        else:
            return None
        row = (event["from"], event["reason"], event["to"])
        before, self._at[kind, who] = self._at.get((kind, who)), event["to"]
        self.judged += 1
        if row not in self.rows[kind]:
            return f"{row} is not in the table of a {kind}: {dict(event)}"
        if before not in (None, event["from"]) and "starting" != event["from"] and not self.gaps:
            return f"a {kind} was {before} before {row}: {dict(event)}"
        return None

    def state(self, kind, who):
        return self._at.get((kind, who))
