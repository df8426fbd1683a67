"""bench/chaos for a short time: a fixed seed, and a fresh one that is printed. And that it finds what it
looks for: a version with a defect is a violation, whose seed is told.
"""

import re
import subprocess

import pytest

from harness.builds import ROOT

FRESH = "fresh"


def chaos(build, folder, *words, seed=FRESH, env=None):
    words = [*words, *([] if seed == FRESH else ["--seed", seed]), "--build", build.name, "--folder",
             folder / "chaos"]
    done = subprocess.run([ROOT / "bench/chaos", *map(str, words)], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False, env=env)
    print(done.stdout)
    return done


@pytest.mark.parametrize("seed", [4711, FRESH])
@pytest.mark.parametrize("shape", ["self", "run"])
def test_chaos_breaks_no_promise(build, folder, shape, seed):
    assert chaos(build, folder, "--shape", shape, "--duration", "7s", seed=seed).returncode == 0


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("shape", ["self", "run"])
def test_five_minutes_of_chaos_break_no_promise(build, folder, shape):
    assert chaos(build, folder, "--shape", shape, "--duration", "150s").returncode == 0


# What a version does that it must not, and what chaos says to it.
DEFECTS = {
    "leaves": "closed",
    "mixes": "the answer to",
    "drops": "was told that it closes",
    "hoards": "descriptors beside connections",
}


@pytest.mark.plain
@pytest.mark.parametrize("defect", DEFECTS)
def test_chaos_finds(build, folder, monkeypatch, defect):
    monkeypatch.setenv("CHAOS_DEFECT", defect)
    done = chaos(build, folder, "--shape", "self", "--steps", 60, seed=1)
    assert done.returncode == 1
    assert re.search(r"VIOLATION in step \d+ of --seed 1 --shape self .*" + DEFECTS[defect], done.stdout)
