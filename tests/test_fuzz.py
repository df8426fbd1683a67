"""The fuzz targets: each has seeds and a line in the build; with --all each runs for a while.

The seeds themselves are replayed by the harness, a case for each target: fuzz-NAME::corpus.
"""

import re
import subprocess

import pytest

from harness.builds import ROOT

FUZZ = ROOT / "tests/fuzz"
TARGETS = sorted(path.stem.removeprefix("fuzz_") for path in FUZZ.glob("fuzz_*.c"))
SECONDS = 20


def test_there_are_targets():
    assert {"address", "listenfds", "wire"} <= set(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_is_built_and_has_seeds(target):
    assert re.search(rf"^  '{target}':", (FUZZ / "meson.build").read_text(), re.MULTILINE)
    seeds = list((FUZZ / "corpus" / target).iterdir())
    assert len(seeds) >= 10
    assert all(seed.is_file() for seed in seeds)


def test_every_golden_message_is_a_seed():
    golden = {path.read_bytes() for path in (ROOT / "tests/golden").glob("v*/*.bin")}
    seeds = {path.read_bytes() for path in (FUZZ / "corpus/wire").iterdir()}
    assert golden and golden <= seeds


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("target", TARGETS)
def test_fuzzing_finds_nothing(target, folder):
    subprocess.run([ROOT / "tools/build", "fuzz"], check=True, timeout=500)
    corpus = folder / "corpus"
    corpus.mkdir()
    done = subprocess.run(
        [
            ROOT / f"build-fuzz/tests/fuzz/fuzz-{target}",
            f"-max_total_time={SECONDS}",
            "-timeout=10",
            "-print_funcs=0",
            f"-artifact_prefix={folder}/",
            corpus,
            FUZZ / "corpus" / target,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=SECONDS + 60,
        check=False,
    )
    found = [path.name for path in folder.iterdir() if path.is_file()]
    assert done.returncode == 0, f"{found}\n{done.stdout[-4000:]}"
