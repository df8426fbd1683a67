"""The figures as text: bench/results/peers.md. Pure: figures in, Markdown out.

figures: {'peers': [{'key', 'title', 'summary', 'commands', 'note', 'remark', 'alike'}], 'runs':
[{key: one repetition}], 'failures': {key: {how: experiment}}}
"""

import statistics

from comparison.failures import HOW
from comparison.measure import CYCLE, RESTARTS, SETTLED, SHAPES, STEADY
from figures import spread, table

OURS, YARDSTICK = "segue", "nginx-reload"
KEEPS_NONE = "keeps none"


def each(figures, key, value):
    """value(repetition) for each repetition of a peer."""
    return [value(run[key]) for run in figures["runs"] if key in run]


def repetitions(figures, key):
    return sum(key in run for run in figures["runs"])


def named(figures, peer):
    """What a row is called: the peer, and of how many repetitions it is where they are not all."""
    found, whole = repetitions(figures, peer["key"]), len(figures["runs"])
    return peer["title"] if found == whole else f"{peer['title']} ({found} of {whole})"


def against(figures, key, other, value):
    """The ratio to another peer's figure in the same repetition."""
    return [value(run[key]) / value(run[other]) for run in figures["runs"] if key in run and other in run]


def per_restart(figures, key, shape, what):
    """Lost requests or closed connections of a shape for each restart, by repetition."""
    return each(figures, key, lambda one: one["losses"]["shapes"][shape][what] / one["losses"]["restarts"])


def keeps_none(figures, key, shape="get"):
    """The peer closes after each answer, and says so."""
    return all(each(figures, key, lambda one: one["losses"]["shapes"][shape]["announced"]
                    >= 0.9 * one["losses"]["shapes"][shape]["ok"]))


def around(values, form):
    """The median, and in brackets smallest and largest where they differ as they are written."""
    written = {form.format(value) for value in values}
    return written.pop() if len(written) == 1 else spread(values, form)


def count(values):
    whole = statistics.median(values) >= 100 or all(value == int(value) for value in values)
    return around(values, "{:,.0f}" if whole else "{:.1f}")


def milliseconds(values):
    return around([value * 1000 for value in values], "{:.1f}" if statistics.median(values) < 0.1 else "{:.0f}")


def ratio(values):
    if not values:
        return "n/a"  # The other one was not measured.
    return around(values, "{:.2f}" if statistics.median(values) < 10 else "{:.0f}")


def compared(figures, key, other, value):
    """The ratio to another peer's figure, and of how many repetitions where the other has not all of the row's."""
    values = against(figures, key, other, value)
    short_of = values and len(values) < repetitions(figures, key)
    return ratio(values) + (f" of {len(values)}" if short_of else "")


def losses(figures):
    rows = []
    for peer in figures["peers"]:
        row = [named(figures, peer)]
        for shape in SHAPES:
            row.append("n/a" if shape in peer["note"]
                       else count(per_restart(figures, peer["key"], shape, "lost")))
        rows.append(row)
    return table(["lost requests per restart", *(what for what, *_ in SHAPES.values())], rows)


def closes(figures):
    kept = [name for name, (*_, keeps) in SHAPES.items() if keeps]
    rows = []
    for peer in figures["peers"]:
        row = [named(figures, peer)]
        for shape in kept:
            if shape in peer["note"]:
                row.append("n/a")
            elif keeps_none(figures, peer["key"], shape):
                row.append(KEEPS_NONE)
            else:
                row.append(" · ".join(count(per_restart(figures, peer["key"], shape, what))
                                      for what in ("unannounced", "announced")))
        rows.append(row)
    return table(["closed per restart: unannounced · announced",
                  *(f"{SHAPES[shape][0]}" + ("" if shape == "idle" else f" ({SHAPES[shape][1]})")
                    for shape in kept)], rows)


def classes(figures):
    """What the lost requests were, of all repetitions together."""
    lines = []
    for peer in figures["peers"]:
        sums = {}
        for shapes in each(figures, peer["key"], lambda one: one["losses"]["shapes"]):
            for one in shapes.values():
                for name, number in one["outcomes"].items():
                    sums[name] = sums.get(name, 0) + number
        if sums:
            classed = ", ".join(f"{number:,} `{name}`" for name, number in sorted(sums.items()))
            lines.append(f"* {named(figures, peer)}: {classed}")
    return "\n".join(lines) or "None was lost by anyone."


def middle(name, what):
    """The median over the restarts of one repetition."""
    if name == "quiet":
        return lambda one: statistics.median(entry[what] for entry in one["quiet"])
    return lambda one: statistics.median(one["losses"][what])


def times(figures):
    rows = []
    for peer in figures["peers"]:
        key, row = peer["key"], [named(figures, peer)]
        for what in ("first", "gone"):
            value = middle("quiet", what)
            row += [milliseconds(each(figures, key, value)), compared(figures, key, OURS, value)]
        row += [milliseconds(each(figures, key, middle("losses", what))) for what in ("first", "gone")]
        rows.append(row)
    return table(["ms", "to the first answer", "ratio", "until the last version has gone", "ratio",
                  "first answer, under load", "gone, under load"], rows)


def slowest(figures):
    rows = []
    for peer in figures["peers"]:
        steady, restart = (each(figures, peer["key"], lambda one, what=what: one["even"][what])
                           for what in ("steady_ms", "restart_ms"))
        lost = each(figures, peer["key"], lambda one: one["even"]["lost"] / one["even"]["restarts"])
        rows.append([named(figures, peer), around(restart, "{:.1f}"), around(steady, "{:.1f}"),
                     ratio([one / other for one, other in zip(restart, steady)]), count(lost)])
    return table(["slowest request, ms", "during restarts", "without", "ratio", "lost per restart"], rows)


def efficiency(figures):
    def value(one):
        return one["efficiency"]["per_cpu_second"]

    rows = []
    for peer in figures["peers"]:
        key = peer["key"]
        sizes = {what: [size / (1 << 20) for size in each(figures, key, lambda one: one["memory"][what])]
                 for what in ("master", "workers")}
        workers = each(figures, key, lambda one: one["memory"]["count"])[-1]
        rows.append([named(figures, peer), around(each(figures, key, value), "{:,.0f}"),
                     compared(figures, key, YARDSTICK, value),
                     around(sizes["master"], "{:.1f}") if max(sizes["master"]) else "none", workers,
                     around(sizes["workers"], "{:.1f}")])
    return table(["", "requests per CPU second", "to nginx", "MiB of those that serve nobody themselves",
                  "workers", "MiB of the workers together"], rows)


def words(seen):
    """One experiment in words."""
    if seen is None:
        return "n/a: a reload starts no program"
    parts = []
    if seen["refused"]:
        code, said = seen["refused"]["code"], first_line(seen["refused"]["words"])
        ends = f"ends with exit code {code}" + (f": {quoted(said)}" if said else "")
        parts.append(f"{service(seen)}; the check before the signal "
                     + (f"is {said}" if code == "none" else ends) + "; nothing is signalled")
    else:
        parts.append(service(seen))
        parts.append("told: " + quoted(max(seen["told"], key=len)) if seen["told"] else "nothing says so")
    parts.append({"yes": "a good version then: serves",
                  "killed": "a good version then: serves once what hangs has been killed",
                  "no": "a good version then: does not come to serve"
                  if seen["alive"] else "it has to be started again"}[seen["works"]])
    return "; ".join(parts)


def service(seen):
    if seen["exit"] is not None or not seen["alive"]:
        return f"**the service ends**, exit code {seen['exit']}"
    if seen["silent_since"] is not None:
        return (f"**nobody answers** from {seen['silent_since']:.1f} s on, for the rest of the "
                f"{seen['watched']:g} s that it is watched")
    if seen["answered"] < seen["asked"]:
        return f"serves on, but {seen['asked'] - seen['answered']} of {seen['asked']} requests get no answer"
    return "**serves on**"


def first_line(text):
    return next((line for line in text.splitlines() if line), "")


def quoted(text):
    text = text if len(text) <= 160 else text[:157] + "..."
    return f"`{text.replace('|', '/').replace('`', '')}`"


def failures(figures):
    rows = []
    for peer in figures["peers"]:
        if found := figures["failures"].get(peer["key"]):
            rows.append([peer["title"], *(words(found[how]) for how in HOW)])
    done = []
    for how, found in HOW.items():
        ways = {}
        for peer in figures["peers"]:
            seen = figures["failures"].get(peer["key"], {}).get(how)
            if seen:
                ways.setdefault(seen["done"], []).append(peer["title"])
        done += [f"* {found}: {way}: {' · '.join(who)}" for way, who in ways.items()]
    parts = [table(["the next version ...", *HOW.values()], rows), "What was done:", "\n".join(done)]
    if absent := [f"* {peer['title']}: {why_absent(figures, peer)}" for peer in figures["peers"]
                  if not figures["failures"].get(peer["key"])]:
        parts += ["Without a row:", "\n".join(absent)]
    return "\n\n".join(parts)


def why_absent(figures, peer):
    titles = [other["title"] for other in figures["peers"] if other["key"] == peer.get("alike")]
    if titles and figures["failures"].get(peer["alike"]):
        return f"started, checked and restarted in the same way as {titles[0]}, whose row stands for both"
    return "was not tried"


def total(figures, key, what):
    """Over all shapes, for each restart: medians by repetition."""
    return [sum(values) for values in zip(*(per_restart(figures, key, shape, what)
                                            for shape in shapes_of(figures, key)))]


def shapes_of(figures, key):
    (peer,) = [peer for peer in figures["peers"] if peer["key"] == key]
    return [shape for shape in SHAPES if shape not in peer["note"]]


def short(figures):
    """What to conclude: a line for each peer."""
    lines = ["Requests lost, connections closed without an announcement, time to the first answer of the next "
             "version with nobody else there:"]
    for peer in figures["peers"]:
        key = peer["key"]
        closed = (KEEPS_NONE if keeps_none(figures, key)
                  else f"{count(total(figures, key, 'unannounced'))} closed")
        lines.append(f"{named(figures, peer)}: {count(total(figures, key, 'lost'))} lost, {closed}, "
                     f"{milliseconds(each(figures, key, middle('quiet', 'first')))} ms")
    return lines


def fewer(figures):
    """In the first paragraph: what a row's name says where not every repetition was finished."""
    whole = len(figures["runs"])
    short_of = sorted({repetitions(figures, peer["key"]) for peer in figures["peers"]} - {whole})
    if not short_of:
        return ""
    return f" (of fewer in the rows that say so: \"({short_of[0]} of {whole})\")"


def configurations(figures):
    rows = [[peer["title"], peer["summary"], "<br>".join(f"`{one}`" for one in peer["commands"])]
            for peer in figures["peers"]]
    return table(["", "what it is", "started by; restarted by"], rows)


TITLE = """# Peers, side by side

Written by `{command}`: servers that can be restarted, each configured and restarted as its own documentation
advises for a restart without loss, under the same load and on the same answer. A figure is the median of {runs}
repetitions{fewer}, in brackets the smallest and the largest; ratios are of the same repetition. Nothing is retried,
and nobody is asked to forgive: a lost request is one that a client sent and got no answer to.

The versions are Debian's, and later ones may do better. Where a row is worse than it has to be, the
configuration is at fault, and a better one is welcome: [bench/peers.d](../peers.d)."""

LOAD = f"""## The load

All of these at once, {RESTARTS} restarts in a repetition, at least {CYCLE} s apart, so that each of the 1,000 has
asked again in between. Each GET and POST is answered with the same 13 bytes.

{{shapes}}

"Kept" connections send the next request when they have the answer, without a pause, which is the hardest case for
whoever closes connections between two requests; the new connections and the 1,000 come at a fixed rate.
A connection that is closed with an announcement
(`Connection: close` in its last answer) costs its client a new connection; one that is closed without may cost it
a request, and the lost ones above are those where it did. Of the 1,000 a closed one is opened again when its next
request is due; where they close late, after their next answer, some are not open yet at the next restart, so
that fewer are announced than there are."""

TIMES = f"""## Time

From the signal (from the exec of `segue upgrade`, where that is the trigger) to the first answer of the next
version on a new connection, and to the end of the last process of the last version. Ratios are to Segue's
self-upgrade. The first columns are of a service with nobody else there, {RESTARTS} restarts in a repetition; the
last two under the load above."""

SLOWEST = f"""## The slowest request

At 500 requests a second (open loop: latency counts from when a request was due) over 25 kept and 5 new
connections: the slowest from the signal to {SETTLED} s after the last version has gone, over {RESTARTS} restarts,
against the slowest of {STEADY} s before. Lost requests have no latency; they stand beside it."""

EFFICIENCY = """## CPU and memory

Answers for each second of utime + stime of all of a peer's processes, at 64 kept connections in closed loop;
the ratio is to nginx (those that keep no connection have to accept one for each request). The rows of nginx are one
server, and so are those of HAProxy: what they differ by is the machine's noise. Memory is the
proportional set size (/proc/PID/smaps_rollup) after the start and a few requests."""

FAILURES = """## When the next version fails

One experiment each: asked on new connections every 50 ms throughout, a request that takes more than 0.5 s
counts as not answered. What a log says counts as told; what a version that fails prints itself does not.
Afterwards a good version is put in place and the restart is done again. The time for a version to be ready is
set to 5 s where the peer has such a setting (Segue's --start-timeout, tableflip's UpgradeTimeout), so that the
experiment sees the end of it; their defaults are 30 s and a minute."""


def page(figures, about, command, weather):
    """The whole file. about: {what: value} of the machine; weather: lines on what else went on."""
    shapes = table(["", "connections", "options of segue-load"],
                   [[what, f"{number:,}", " ".join(map(str, options))]
                    for what, number, options, _ in SHAPES.values()])
    notes = [f"n/a, {peer['title']}: {why}." for peer in figures["peers"] for why in peer["note"].values()]
    notes += [f"{peer['title']}: {peer['remark']}" for peer in figures["peers"] if peer["remark"]]
    notes += [line for line in weather if "left out" in line]
    parts = [
        TITLE.format(command=command, runs=len(figures["runs"]), fewer=fewer(figures)),
        "## In short: per restart", short(figures)[0], "\n".join(f"* {line}" for line in short(figures)[1:]),
        "![Requests lost and connections closed per restart](peers-losses.svg)",
        "![The same load on three of them, restarts marked](peers-timeline.svg)",
        "## Lost requests", losses(figures), "\n".join(f"* {note}" for note in notes),
        "## Closed connections", closes(figures),
        "What the lost requests were, of all repetitions together (the names are those of `segue-load --help`):",
        classes(figures),
        LOAD.format(shapes=shapes),
        TIMES, times(figures), SLOWEST, slowest(figures), EFFICIENCY, efficiency(figures),
    ]
    if figures["failures"]:
        parts += [FAILURES, failures(figures)]
    parts += ["## How each is set up", configurations(figures),
              "The files, and whose advice they follow: [bench/peers.d](../peers.d). Debian's packages are "
              "installed without starting their daemons: `tools/install` puts a policy-rc.d in place that forbids "
              "it, for the time of the installation, where there is none.",
              "## Where",
              table(["", ""], about.items()), "\n".join(f"* {line}" for line in weather)]
    return "\n\n".join(parts) + "\n"
