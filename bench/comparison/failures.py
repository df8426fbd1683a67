"""What happens where the next version is missing, exits at once, or hangs: one experiment each, on a
service of its own that is asked on new connections throughout.
"""

import pathlib
import re
import select
import tempfile
import time

from comparison.services import Refused, ask
from harness import processes

HOW = {"missing": "is missing", "exits": "exits at once", "hangs": "hangs"}
WATCHED = {"missing": 3.5, "exits": 3.5, "hangs": 6.5}  # seconds
UNTOUCHED = 1.0  # the same where a check has refused, and nothing was signalled
PAUSE = 0.05
WORDS = "config.yml: no such file"  # what the version that exits says itself
TELLING = re.compile(r"error|fail|alert|emerg|critical|exited with|exit status|exit code|died unexpectedly|"
                     r"timed out|no such file|can't|cannot|could not|ignored", re.IGNORECASE)


def probe(peer):
    """The generation that answers within half a second, or None."""
    try:
        return ask(peer.address, 0.5)
    except (OSError, AssertionError, TypeError):
        return None


def watch(peer, seconds):
    """[(seconds since the signal, generation or None)]."""
    begun, found = time.monotonic(), []
    while (at := time.monotonic() - begun) < seconds:
        found.append((at, probe(peer)))
        peer.service.reap()
        select.select([], [], [], PAUSE)
    return found


def try_next(peer, before, seconds=8):
    """Puts a good version in place and restarts; whether it comes to serve."""
    peer.generation += 1
    peer.deploy()
    try:
        peer.check()
        peer.signal()
    except (Refused, OSError, ValueError, IndexError, AssertionError):
        return False
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if probe(peer) not in (None, before):
            return True
        select.select([], [], [], PAUSE)
    return False


def next_works(peer, before, there):
    """'yes', 'killed' (once what the failed restart has started has been killed) or 'no'. there: the
    pids before."""
    peer.repair()
    if try_next(peer, before):
        return "yes"
    if not peer.pids() & there:
        return "no"
    processes.kill_all([stat for stat in peer.service.members() if stat.pid not in there])
    return "killed" if try_next(peer, before) else "no"


def experiment(build, top, make, backend, how):
    """What was seen, or None where that cannot happen to this peer."""
    folder = pathlib.Path(tempfile.mkdtemp(dir=top))
    peer = make(build, folder, backend)
    try:
        peer.start(*peer.hasty)
        before, there, told = ask(peer.address), peer.pids(), len(peer.told())
        peer.generation += 1
        peer.deploy()
        done = peer.break_next(how)
        if done is None:
            return None
        refused, seconds = None, WATCHED[how]
        try:
            peer.check()
            peer.signal()
        except Refused as error:
            words = error.words.replace(f"{folder}/", "")
            refused, seconds = {"code": error.code, "words": words}, UNTOUCHED
        seen = watch(peer, seconds)
        return {"done": done, "refused": refused, "watched": seconds, "asked": len(seen),
                "answered": sum(number is not None for _, number in seen),
                "silent_since": silent_since(seen),
                "told": [without(folder, line) for line in peer.told()[told:]
                         if TELLING.search(line) and line != WORDS][:3],
                "exit": None if peer.pids() else peer.service.exit_codes.get(peer.service.first.pid),
                "alive": bool(peer.pids()), "works": next_works(peer, before, there)}
    finally:
        peer.stop(gently=False)


def without(folder, line):
    """A line of a log without what is different in each run: time, folder, pids at its begin."""
    line = line.replace(f"{folder}/", "")
    return re.sub(r"^(\[?[\d/:. +-]{8,}\]? *)?((generation \d+ pid \d+|\[\d+\]) )?", "", line)


def silent_since(seen):
    """Seconds after the signal from which on nobody answered, to the end; None where somebody did."""
    since = None
    for at, number in seen:
        if number is not None:
            since = None
        elif since is None:
            since = at
    return since
