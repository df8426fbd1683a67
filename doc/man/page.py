#!/usr/bin/python3
"""Completes a manual page with what is written elsewhere, so that it is written once.

    page.py TEMPLATE ROOT > PAGE

A template is a page in mdoc; its lines of this form are replaced:

    .\\" @synopsis HEADER           each function that the header declares
    .\\" @functions HEADER          the same with their comments, a subsection each
    .\\" @enum HEADER NAME          its values with their comments
    .\\" @struct HEADER NAME        as it stands in the header
    .\\" @rows HEADER NAME          a table of states: what each event leads to (X macros)
    .\\" @states HEADER NAME        its states, and what limits the stay
    .\\" @markdown FILE HEADING     the first table below a heading
    .\\" @messages FILE HEADING     the same for the messages of the protocol
    .\\" @document FILE             a whole document
    .\\" @settings FILE             the settings of a configuration file
    .\\" @options FILE              the options that are rows of a table, as a list
"""

import pathlib
import re
import sys
import textwrap

FIELDS = ("Shape", "Returns", "Errors", "Owns", "Blocks", "Threads", "Source")


WIDTH = 78  # of a line of text


def escaped(text):
    """Text as roff takes it: a new line for each sentence, none too long, names in their fonts."""
    text = text.replace("\\", "\\e")
    text = re.sub(r"(?<![\w/])@(\w+)", r"\\fI\1\\fP", text)
    text = re.sub(r"\b(\w+)\(\)", r"\\fB\1\\fP()", text)
    sentences = re.split(r"(?<=[.!?:)])\s+(?=[\"(]?[A-Z@]|-E)", text)
    lines = [line for sentence in sentences for line in wrapped(sentence)]
    return "\n".join(re.sub(r"^([.'])", r"\\&\1", line) for line in lines)


def wrapped(text):
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False) or [""]


def quoted(text):
    """One argument of a macro."""
    return '"' + text.replace("\\", "\\e").replace('"', '""') + '"'


def paragraphs(lines):
    """Text in mdoc; an empty line separates, what is indented stands as it is."""
    out = []
    for part in re.split(r"\n\s*\n", "\n".join(lines)):
        if not part.strip():
            continue
        if all(line.startswith("    ") for line in part.strip("\n").split("\n")):
            out += [".Bd -literal -offset indent", textwrap.dedent(part).replace("\\", "\\e"), ".Ed"]
        else:
            out += [".Pp"] * (bool(out)) + [escaped(" ".join(part.split()))]
    return out


# What a header declares.


class Function:
    def __init__(self, declaration, comment):
        before, self.name, arguments = re.match(
            r"(.*?)\b(segue_\w+)\s*\((.*)\)$", declaration, re.S
        ).groups()
        self.type = before.strip()
        self.arguments = split_arguments(arguments)
        self.comment = comment

    def prototype(self):
        return [f".Ft {quoted(self.type)}", f".Fn {self.name} " + " ".join(map(quoted, self.arguments))]


def split_arguments(text):
    """At the commas that are not inside parentheses."""
    found, depth, start = [], 0, 0
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            found.append(text[start:at])
            start = at + 1
    return [" ".join(argument.split()) for argument in [*found, text[start:]]]


def comment_lines(text):
    """The lines of a comment without its frame."""
    inner = re.sub(r"^/\*+ ?|\s*\*/$", "", text.strip())
    return [re.sub(r"^\s*\* ?", "", line) if at else line for at, line in enumerate(inner.split("\n"))]


def functions(header):
    """Those that a header declares, in its order. A comment that does not begin with the name of
    the function below it is not that function's."""
    text = re.sub(r"^#.*?(?<!\\)$", "", header, flags=re.M | re.S)
    pattern = r"(?P<comment>/\*.*?\*/)|(?P<code>[^;{}/]*?(?:\{|;))|\}"
    comment, depth, found = None, 0, []
    for match in re.finditer(pattern, text, re.S):
        if match["comment"]:
            comment = match["comment"]
            continue
        code = " ".join((match["code"] or "").split())
        if code.endswith("{") and not code.startswith('extern "C"'):
            depth += 1
        elif match.group() == "}":
            depth = max(0, depth - 1)
        elif depth == 0 and re.match(r"[\w\s*]+\bsegue_\w+\s*\(.*\);$", code):
            function = Function(code[:-1], None)
            lines = comment_lines(comment) if comment else [""]
            if (" ".join(lines)).split()[:1] == [function.name]:
                function.comment = lines
            found.append(function)
            comment = None
    return found


def field_items(lines):
    """The lines of a field: each error, and each continuation, in one."""
    items = []
    for line in lines:
        if items and not re.match(r"-E[A-Z0-9]+\b|and those of ", line.strip()):
            items[-1] += " " + line.strip()
        else:
            items.append(line.strip())
    return [" ".join(item.split()) for item in items]


def field_mdoc(name, lines):
    items = field_items(lines)
    out = [f".It Em {name}"]
    errors = [re.match(r"-(E[A-Z0-9]+) ([^-].*)", item) for item in items]
    if not all(errors[:-1]) or not errors[0]:
        for at, item in enumerate(items):
            out += [".br"] * (at > 0) + [escaped(item)]
        return out
    out.append('.Bl -tag -width "-EADDRINUSE" -compact')
    for item, error in zip(items, errors):
        out += [f".It Er -{error[1]}", escaped(error[2])] if error else [".It No \\&", escaped(item)]
    return out + [".El"]


def described(lines):
    """A comment as mdoc: what it is, arguments, text, fields."""
    text = "\n".join(lines)
    fields, arguments, body, current = {}, {}, [], None
    for line in text.split("\n"):
        field = re.match(rf"({'|'.join(FIELDS)}):\s*(.*)", line)
        argument = re.match(r"@(\w+):\s*(.*)", line)
        if field:
            current = fields.setdefault(field[1], [])
            current.append(field[2])
        elif argument:
            current = arguments.setdefault(argument[1], [])
            current.append(argument[2])
        elif current is not None and re.match(r"\s+\S", line):
            current.append(line)
        else:
            current = None
            body.append(line)
    out = paragraphs(body)
    if arguments or fields:
        out.append('.Bl -tag -width "Returns" -offset 2n')
        for name, rest in arguments.items():
            out += [f".It Fa {name}", escaped(" ".join(" ".join(rest).split()))]
        for name, rest in fields.items():
            out += field_mdoc(name, rest)
        out.append(".El")
    return out


def do_synopsis(header):
    return [line for function in functions(header) for line in function.prototype()]


def summary_first(function):
    """A function's comment without its name; what it is, is a sentence of its own."""
    text = "\n".join(function.comment).strip("\n")
    text = re.sub(rf"^{function.name} - ", "", text)
    text = text[:1].upper() + text[1:]
    summary, separator, rest = re.match(r"(.*?)(\n(?=@)|\n\n|\Z)(.*)", text, re.S).groups()
    if not summary.rstrip().endswith((".", ")", "?", "!")):
        summary = summary.rstrip() + "."
    return (summary + separator + rest).split("\n")


def do_functions(header):
    """Those that follow without a comment share the subsection of the one before."""
    groups = []
    for function in functions(header):
        if function.comment is None and groups:
            groups[-1].append(function)
        else:
            groups.append([function])
    out = []
    for group in groups:
        out.append(".Ss " + " , ".join(function.name for function in group))
        for function in group:
            out += [".br"] * (function is not group[0]) + function.prototype()
        if group[0].comment is not None:
            out += [".Pp", *described(summary_first(group[0]))]
    return out


def block(header, kind, name):
    return re.search(rf"^{kind} {name} \{{\n(.*?)^\}};", header, re.M | re.S).group(1)


def do_enum(header, name):
    out = [".Bl -tag -width 6n"]
    before = []
    pattern = r"/\*\*(<?)(.*?)\*/|\b(SEGUE_\w+)\b(?:\s*=\s*\d+)?,?"
    for match in re.finditer(pattern, block(header, "enum", name), re.S):
        words = " ".join(re.sub(r"^\s*\*", "", line).strip() for line in (match[2] or "").split("\n"))
        if match[3]:
            out += [f".It Dv {match[3]}"] + [escaped(text) for text in before]
            before = []
        elif match[1]:
            out.append(escaped(words.strip()))
        else:
            before = [words.strip()]
    return out + [".El"]


def do_struct(header, name):
    text = f"struct {name} {{\n{block(header, 'struct', name)}}};"
    return [".Bd -literal", text.replace("\\", "\\e").replace("\t", "    "), ".Ed"]


# Tables of states.


def macro(header, name):
    """The entries of an X macro, each a list of its arguments."""
    text = re.search(rf"^#define {name}\(X\)(.*?)(?<!\\)$", header, re.M | re.S).group(1)
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    return [[word.strip().strip('"') for word in entry.split(",")] for entry in re.findall(r"X\(([^)]*)\)", text)]


def cell_text(text):
    """A cell: no macro, whatever its first word is."""
    text = text.replace("\\", "\\e")
    return r"\&" + re.sub(r"\b(\w+)\(\)", r"\\fB\1\\fP()", text)


def column(head, rows):
    widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head))]
    out = [".Bl -column " + " ".join(quoted("x" * width) for width in widths)]
    for number, row in enumerate([head, *rows]):
        cells = [f"Em {cell}" if number == 0 else cell_text(cell) for cell in row]
        out.append(".It " + " Ta ".join(cells))
    return out + [".El"]


def do_rows(header, name):
    texts = {
        kind: {entry[0]: entry[1] for entry in macro(header, f"{name}_{kind}S")}
        for kind in ("STATE", "EVENT", "ACTION")
    }
    rows, last = [], None
    for state, event, following, action in macro(header, f"{name}_ROWS"):
        rows.append([
            texts["STATE"][state] if state != last else "", texts["EVENT"][event],
            texts["STATE"][following], texts["ACTION"][action],
        ])
        last = state
    return column(["state", "event", "next", "action"], rows)


def do_states(header, name):
    return column(["state", "limit"], [[text, limit] for _, text, limit in macro(header, f"{name}_STATES")])


def cells_of(line):
    """Those of a row; "\\|" ends none."""
    cells = re.split(r"(?<!\\)\|", line)[1:-1]
    return [plain(cell).strip().replace("\\|", "|") for cell in cells]


def plain(text):
    """Markdown's marks for code, emphasis and links taken away."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"[`*]", "", text))


def markdown_rows(text, *heading):
    """The first table below the heading."""
    start = re.search(rf"^#+ {re.escape(' '.join(heading))}$", text, re.M).end()
    table = re.search(r"(?:^\|.*\n)+", text[start:], re.M).group()
    return [cells_of(line) for line in table.splitlines()]


def do_markdown(text, *heading):
    rows = markdown_rows(text, *heading)
    return column(rows[0], rows[2:])


def do_messages(text, *heading):
    """The table of messages without its column for the model."""
    rows = [row[:2] + row[3:] for row in markdown_rows(text, *heading)]
    return column(rows[0], rows[2:])


def table(head, rows):
    """As columns where a terminal has room for them, else as a list."""
    if sum(max(len(row[at]) for row in rows) + 4 for at in range(len(head) - 1)) < WIDTH / 2:
        return column(head, rows)
    out = ['.Bl -tag -width "predecessor"']
    for number, (first, *rest) in enumerate([head, *rows]):
        text = escaped("; ".join(filter(None, rest)))
        out += [f".It Em {first}" if number == 0 else f".It {cell_text(first)}", text or r"\&"]
    return out + [".El"]


def do_document(text):
    """A markdown document below its title: headings, text, displays and tables."""
    out = []
    for part in re.split(r"\n{2,}", text.split("\n", 1)[1].strip("\n")):
        lines = part.split("\n")
        if part.startswith("#"):
            out.append(".Ss " + part.lstrip("# "))
        elif part.startswith("    "):
            out += [".Bd -literal -offset indent", textwrap.dedent(part).replace("\\", "\\e"), ".Ed"]
        elif part.startswith("|"):
            rows = [cells_of(line) for line in lines]
            out += table(rows[0], rows[2:])
        else:
            out += [".Pp"] * (bool(out) and not out[-1].startswith(".Ss")) + [escaped(plain(" ".join(part.split())))]
    return out


def do_options(text):
    """Rows "| `--name ARGUMENT` | default | what it sets |"."""
    out = [".Bl -tag -width 6n"]
    for name, argument, default, what in re.findall(
        r"^\| `--([\w-]+)(?: ([^`]+))?` \| ([^|]*?) ?\| ([^|]*?) ?\|$", text.replace("\\|", "/"), re.M
    ):
        argument = argument.replace("/", " | ")
        out.append(f".It Fl Fl {name}" + (f" Ar {quoted(argument)}" if argument else ""))
        # What the manual says in another section stands elsewhere here.
        what = re.sub(r"These and the next: section \d+|, see section \d+", "", what)
        what = re.sub(r"`([^`]*)`", r"\1", what)
        what = what[:1].upper() + what[1:] or "A limit, see below"
        default = re.sub(r"`([^`]*)`", r"\1", default)
        out.append(escaped(f"{what}." + (f" Default: {default}." if default else "")))
    return out + [".El"]


def do_settings(text):
    """The table of settings.c, as a list; an option's arguments are its line in a file."""
    out = [".Bl -tag -width 6n"]
    table = text[text.index("const struct setting settings[]") :].split("\n};")[0]
    for name, letter, argument, words in re.findall(
        r'\{ "([\w-]+)",\s*(0|\'\w\'),\s*("[^"]*"|NULL),\s*((?:"(?:[^"\\]|\\.)*"\s*)+),', table
    ):
        if argument == "NULL" or name == "config":
            continue
        words = " ".join(re.findall(r'"((?:[^"\\]|\\.)*)"', words)).replace("\\n", " ")
        what, default = re.match(r"(.*?)(?: \(([^()]*)\))?$", " ".join(words.split())).groups()
        out.append(f".It Ic {name} Ar {quoted(argument.strip(chr(34)))}")
        out.append(escaped(f"{what[:1].upper()}{what[1:]}." + (f" Default: {default}." if default else "")))
    return out + [".El"]


DIRECTIVES = {
    "synopsis": do_synopsis, "functions": do_functions, "enum": do_enum, "struct": do_struct,
    "rows": do_rows, "states": do_states, "markdown": do_markdown, "options": do_options,
    "settings": do_settings, "messages": do_messages, "document": do_document,
}


def page(template, root):
    out = []
    for line in template.read_text(encoding="utf-8").splitlines():
        directive = re.match(r"\.\\\" @(\w+) (\S+)(.*)", line)
        if directive:
            text = (root / directive[2]).read_text(encoding="utf-8")
            out += DIRECTIVES[directive[1]](text, *directive[3].split())
        else:
            out.append(line)
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])))
