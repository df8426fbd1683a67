"""The manual, the header and the code say the same about options and limits."""

import re
import subprocess

import pytest

from harness.builds import ROOT

PRINTER = r"""
#include <segue/http.h>
#include <stdio.h>

#define PRINT(field) printf(#field " %lld\n", (long long)options.field);

int main(void)
{
	struct segue_http_options options;

	segue_http_options_init(&options);
	FIELDS
	return 0;
}
"""


def section(number):
    text = (ROOT / "doc/manual.md").read_text()
    return re.search(rf"^## {number}\. .*?(?=^## |\Z)", text, re.M | re.S).group(0)


def rows(number):
    """The cells of each row; "\\|" is no end of a cell."""
    for line in section(number).splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def header_limits():
    """{field: (default, what happens)} of the comment in segue/http.h."""
    text = (ROOT / "include/segue/http.h").read_text()
    table = text[text.index("what happens beyond it") :].split("*/")[0]
    found = re.findall(r"^ \*   (\w+) +(-?[\d,]+)   (.+)$", table, re.M)
    return {name: (default, what) for name, default, what in found}


@pytest.fixture
def help_lines(build):
    text = subprocess.run([build.program("hello"), "--help"], capture_output=True, text=True, check=True).stdout
    return re.findall(r"^  --([\w-]+)(?: (\S+))?  +(.*)$", text, re.M)


def test_the_manual_has_each_option_of_help_with_its_argument_and_default(help_lines):
    manual = {row[0].strip("`").replace("\\|", "|"): row[1].strip("`") for row in rows(7)}
    helped = {f"--{name} {argument}".strip(): text for name, argument, text in help_lines if name != "delay"}
    assert set(manual) == set(helped)
    for option, text in helped.items():
        default = re.search(r"\(([^()]*)\)$", text)
        if default:
            assert manual[option] == default.group(1), option


def test_the_manual_and_the_header_have_the_same_limits():
    manual = {row[0].strip("`"): (row[1], row[3]) for row in rows(8)}
    assert len(manual) == 16 and manual == header_limits()


def test_the_limits_have_the_defaults_that_are_written_down(compile_c):
    fields = list(header_limits())
    source = PRINTER.replace("FIELDS", "".join(f"PRINT({field})" for field in fields))
    output = subprocess.run([compile_c(source, http=True)], capture_output=True, text=True, check=True).stdout
    values = dict(line.split() for line in output.splitlines())
    assert values == {field: default.replace(",", "") for field, (default, _) in header_limits().items()}


def test_the_options_of_limits_are_those_of_help(help_lines):
    named = {row[2].strip("`") for row in rows(8)} - {""}
    limits = {f"--{name}" for name, _, _ in help_lines if re.match(r"max-|min-|(head|idle|body|response)-", name)}
    assert named == limits


def test_the_exit_codes_are_those_of_help(build):
    text = subprocess.run([build.program("hello"), "--help"], capture_output=True, text=True, check=True).stdout
    codes = re.findall(r"(\d) ", text[text.index("Exit codes:") :])
    assert codes == re.findall(r"^\| (\d) \|", section(7), re.M)
