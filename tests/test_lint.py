"""The C files as clang-tidy and cppcheck see them: a finding fails. tools/lint is what looks."""

import re
import subprocess

import pytest

from harness.builds import ROOT

# So that they run beside each other, and a failure says where.
PLACES = ["src/core", "src/libsegue", "src/http", "src/segue", "src/load", "examples", "tests/unit",
          *sorted(f"tests/{path.name}" for path in (ROOT / "tests").iterdir()
                  if path.name != "unit" and path.is_dir() and any(path.rglob("*.c")))]


def lint(*words):
    done = subprocess.run([ROOT / "tools/lint", "--jobs", "1", *words], capture_output=True, text=True,
                          cwd=ROOT, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("place", PLACES)
def test_clang_tidy_and_cppcheck_find_nothing(place):
    code, said = lint(place)
    assert code == 0, said


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("place", PLACES)
def test_the_analyzer_with_its_own_limits_finds_nothing(place):
    code, said = lint("--deep", "--tool", "clang-tidy", place)
    assert code == 0, said


def test_every_c_file_belongs_to_a_place_that_is_looked_at():
    files = {path for name in ("src", "include", "examples", "tests")
             for path in (ROOT / name).rglob("*.c")}
    seen = {path for place in PLACES for path in (ROOT / place).rglob("*.c")}
    assert files - seen == set()


# One fault for each of the two that the other does not see.
FAULTS = {
    "clang-tidy": ("int f(int fd);\n\nint f(int fd)\n{\n\tint r = fd + 1;\n\n\tr = 2;\n\treturn fd;\n}\n",
                   "clang-analyzer-deadcode.DeadStores"),
    "cppcheck": ("void f(unsigned int n);\n\nvoid f(unsigned int n)\n{\n\tchar text[4];\n\n\tif (n < 0)\n"
                 "\t\ttext[0] = 0;\n\t(void)text;\n}\n", "unsignedLessThanZero"),
}


@pytest.mark.parametrize("tool", sorted(FAULTS))
def test_a_fault_in_a_file_is_found_and_named(folder, tool):
    source, name = FAULTS[tool]
    (folder / "fault.c").write_text(source)
    code, said = lint("--tool", tool, folder / "fault.c")
    assert code == 1 and name in said, said


def test_a_file_that_was_found_clean_is_not_looked_at_again_until_it_changes(folder):
    path = folder / "clean.c"
    path.write_text(f"/* {folder} */\nint f(void);\n\nint f(void)\n{{\n\treturn 1;\n}}\n")
    words = ("--tool", "cppcheck", path)
    assert "remembered" not in lint(*words)[1]
    assert "1 of 1 looks remembered" in lint(*words)[1]
    path.write_text(path.read_text().replace("return 1", "return 2"))
    assert "remembered" not in lint(*words)[1]


@pytest.mark.parametrize("name", [".clang-tidy", "tests/.clang-tidy", "tests/faultcalls/.clang-tidy"])
def test_a_check_that_is_off_has_a_reason(name):
    text = (ROOT / name).read_text()
    off = re.findall(r"^  -([\w.-]+),?$", text, re.M)
    reasons = re.findall(r"^# -([\w.-]+): \w", text, re.M)
    assert off and sorted(off) == sorted(reasons)


def test_a_finding_that_cppcheck_is_told_to_pass_over_has_a_reason():
    lines = (ROOT / "tools/cppcheck-suppressions").read_text().splitlines()
    for above, line in zip(lines, lines[1:]):
        assert line.startswith(("#", "//")) or above.startswith("// "), f"{line}: without a reason"


def test_a_finding_that_the_code_passes_over_is_named_with_its_reason():
    wrong = []
    for name in ("src", "include", "examples", "tests"):
        for path in (*(ROOT / name).rglob("*.c"), *(ROOT / name).rglob("*.h")):
            for line in path.read_text(errors="replace").splitlines():
                if "NOLINT" in line and not re.search(r"/\* NOLINTNEXTLINE\([\w.-]+\): \w", line):
                    wrong.append(f"{path.relative_to(ROOT)}: {line.strip()}")
    assert wrong == []
