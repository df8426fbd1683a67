#!/usr/bin/python3
"""Makes a C source of text files, so that a program can carry them: embed.py FILE... > SOURCE

page/page.css becomes `const char page_css[]`, its lines as string literals.
"""

import pathlib
import sys


def literal(line):
    text = line.replace("\\", "\\\\").replace('"', '\\"').replace("?", "\\?").replace("\t", "\\t")
    return f'\t"{text}\\n"'


def main(paths):
    print("/* Made by embed.py. */")
    for path in map(pathlib.Path, paths):
        name = path.name.replace(".", "_")
        lines = path.read_text(encoding="ascii").splitlines()
        print(f"extern const char {name}[];")
        print(f"const char {name}[] =")
        print("\n".join(map(literal, lines)) + ";")


main(sys.argv[1:])
