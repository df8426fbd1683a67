"""The house: what is installed can be used, exports what it should, and the tree keeps its rules."""

import os
import re
import subprocess

import pytest

from harness.builds import ROOT

pytestmark = pytest.mark.plain

HEADERS = ["segue.h", "segue/http.h"]
PACKAGES = ["segue", "segue-http"]
LIBRARIES = {"segue": "libsegue", "segue-http": "libsegue-http"}


def output(*command, **options):
    """What a command prints; where it fails, what it said is the failure."""
    done = subprocess.run(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, check=False, **options,
    )
    assert done.returncode == 0, f"{done.args} exited with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def tree(*suffixes, below=("src", "include", "examples", "tests", "tools", "bench", "doc")):
    """The files of the tree with one of these suffixes."""
    return sorted(
        path
        for name in below
        for path in (ROOT / name).rglob("*")
        if path.suffix in suffixes and path.is_file()
    )


# Installing.


class Installed:
    """A staged installation: the files are below folder, and say that they are below prefix."""

    def __init__(self, folder, prefix):
        self.folder, self.prefix = folder, prefix
        found = list(folder.rglob("segue.pc"))
        assert len(found) == 1, f"segue.pc is installed {len(found)} times"
        self.pkgconfig = found[0].parent
        self.libraries = self.pkgconfig.parent
        self.environment = {
            **os.environ,
            "PKG_CONFIG_PATH": str(self.pkgconfig),
            "LD_LIBRARY_PATH": str(self.libraries),
        }
        if not str(self.pkgconfig).startswith(str(prefix)):
            self.environment["PKG_CONFIG_SYSROOT_DIR"] = str(folder)

    def flags(self, package, *options):
        flags = output("pkg-config", "--cflags", "--libs", *options, package, env=self.environment)
        return flags.split()

    def compile(self, source, package, *, static=False, compiler=("gcc", "-std=c99")):
        program = source.with_suffix("")
        flags = self.flags(package, *(["--static"] if static else []))
        if static:
            # Segue's own libraries statically; those of the system as they come.
            flags = [
                f"-l:{LIBRARIES[flag[2:]]}.a" if flag[2:] in LIBRARIES else flag for flag in flags
            ]
        output(*compiler, "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter",
               "-o", program, source, *flags)
        return program


@pytest.fixture
def installed(build, folder):
    """`meson install` with a PREFIX of its own, staged in DESTDIR."""
    staged = folder / "staged"
    output("/usr/bin/meson", "install", "--no-rebuild", "--quiet", "-C", build.folder,
           env={**os.environ, "DESTDIR": str(staged)})
    return Installed(staged, "/usr/local")


def test_an_installation_consists_of_libraries_headers_and_package_files(installed):
    for name in HEADERS:
        assert (installed.folder / "usr/local/include" / name).is_file(), name
    for package, library in LIBRARIES.items():
        for suffix in (".so", ".a"):
            assert (installed.libraries / f"{library}{suffix}").is_file(), library + suffix
        assert (installed.pkgconfig / f"{package}.pc").is_file(), package


def test_an_installation_is_where_pkg_config_looks(installed):
    looked = output("pkg-config", "--variable", "pc_path", "pkg-config").strip().split(":")
    assert "/" + str(installed.pkgconfig.relative_to(installed.folder)) in looked


def test_an_installation_holds_no_private_file(installed):
    allowed = re.compile(
        r"usr/local/(include/segue(\.h|/\w+\.h)|lib/[\w/-]*(libsegue(-http)?\.(a|so[.\d]*)"
        r"|pkgconfig/segue(-http)?\.pc)|bin/segue(-load)?|share/(doc/segue|man)/.*)"
    )
    files = [path.relative_to(installed.folder) for path in installed.folder.rglob("*")
             if not path.is_dir()]
    assert [str(path) for path in files if not allowed.fullmatch(str(path))] == []


def test_a_prefix_of_ones_own_is_used_without_destdir(build, folder):
    second, prefix = folder / "build", folder / "prefix"
    output("/usr/bin/meson", "setup", "-Dbuildtype=plain", "--prefix", prefix, second, ROOT)
    output("ninja", "-j2", "--quiet", "-C", second)
    output("/usr/bin/meson", "install", "--no-rebuild", "--quiet", "-C", second)
    installed = Installed(prefix, prefix)
    assert str(prefix) in output("pkg-config", "--cflags", "segue", env=installed.environment)
    for name in HEADERS:
        assert (prefix / "include" / name).is_file()


# Using what was installed.

LIBRARY_PROGRAM = """
#include <segue.h>
#include <stdio.h>

int main(void)
{
        struct segue *segue = NULL;
        struct segue_options options;

        segue_options_init(&options);
        if (segue_open(&segue, &options) != 0) {
                fprintf(stderr, "%s\\n", segue_error(segue));
                return 1;
        }
        if (segue_listen(segue, "http", "tcp://127.0.0.1:0", NULL) < 0) {
                fprintf(stderr, "%s\\n", segue_error(segue));
                return 1;
        }
        segue_close(segue);
        puts(SEGUE_VERSION);
        return 0;
}
"""


def readme_program():
    """The C program that the README prints."""
    blocks = re.findall(r"^```c\n(.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M)
    programs = [block for block in blocks if "int main" in block]
    assert len(programs) == 1, f"the README prints {len(programs)} programs"
    return programs[0]


@pytest.mark.parametrize("static", [False, True], ids=["shared", "static"])
def test_a_program_builds_and_runs_against_the_installed_library(installed, folder, static):
    source = folder / "program.c"
    source.write_text(LIBRARY_PROGRAM)
    program = installed.compile(source, "segue", static=static)
    needed = output("readelf", "-d", program)
    assert ("libsegue.so" in needed) is not static
    said = output(program, env=installed.environment).strip()
    assert said == output("pkg-config", "--modversion", "segue", env=installed.environment).strip()


@pytest.mark.parametrize("static", [False, True], ids=["shared", "static"])
def test_the_program_of_the_readme_builds_and_serves(installed, folder, start, static):
    source = folder / "hello.c"
    source.write_text(readme_program())
    program = installed.compile(source, "segue-http", static=static)
    assert ("libsegue-http.so" in output("readelf", "-d", program)) is not static
    service = start(program, env={"LD_LIBRARY_PATH": str(installed.libraries)})
    with service.connect() as connection:
        assert connection.get("/hello").body == b"hello, world\n"
    service.upgrade()
    with service.connect() as connection:
        assert connection.get("/hello").status == 200
    service.stop()


def test_the_program_of_the_readme_has_twenty_lines_at_most():
    assert len([line for line in readme_program().splitlines() if line.strip()]) <= 20


def test_a_cplusplus_program_builds_and_runs_against_the_installed_library(installed, folder):
    source = folder / "program.cc"
    source.write_text(LIBRARY_PROGRAM)
    program = installed.compile(source, "segue", compiler=("g++", "-std=c++11"))
    output(program, env=installed.environment)


# What is exported.


@pytest.mark.parametrize("package", PACKAGES)
def test_a_shared_library_exports_nothing_but_segue(installed, package):
    library = installed.libraries / f"{LIBRARIES[package]}.so"
    lines = output("nm", "--dynamic", "--defined-only", library).splitlines()
    names = [line.split()[-1].partition("@")[0] for line in lines]
    assert len(names) > 5
    # The names of symbol versions are absolute symbols; they carry the library's name in capitals.
    assert [name for name in names if not name.lower().startswith("segue_")] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_shared_library_exports_all_that_its_header_declares(installed, package):
    header = "segue.h" if package == "segue" else "segue/http.h"
    text = re.sub(r"/\*.*?\*/", "", (ROOT / "include" / header).read_text(), flags=re.S)
    # A declaration: the name before a parenthesis, and not behind "(*" as a callback's is.
    declared = set(re.findall(r"\b(segue_\w+)\(", text)) - set(re.findall(r"\(\*(segue_\w+)\)", text))
    library = installed.libraries / f"{LIBRARIES[package]}.so"
    lines = output("nm", "--dynamic", "--defined-only", library).splitlines()
    exported = {line.split()[-1].partition("@")[0] for line in lines}
    assert declared and declared - exported == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_static_library_defines_no_foreign_global_name(installed, package):
    library = installed.libraries / f"{LIBRARIES[package]}.a"
    lines = output("nm", "--defined-only", "--extern-only", library).splitlines()
    names = [line.split()[-1] for line in lines if re.match(r"[0-9a-f]+ [A-Z] ", line)]
    # sg_ and sgh_ are ours inside the libraries; llhttp is the distribution's C source, compiled in.
    assert [name for name in names if not re.match(r"(segue|sg|sgh|llhttp)_", name)] == []


def test_libsegue_needs_nothing_but_libc(installed):
    lines = output("readelf", "-d", installed.libraries / "libsegue.so").splitlines()
    needed = [line.rpartition("[")[2].rstrip("]") for line in lines if "(NEEDED)" in line]
    # The loader is libc's, and there for thread-local variables.
    assert [name for name in needed if not name.startswith(("libc.so", "ld-linux"))] == []


# Headers.


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_a_public_header_compiles_alone_as_c99(folder, header, compiler):
    source = folder / "alone.c"
    source.write_text(f"#include <{header}>\n#include <{header}>\nint main(void) {{ return 0; }}\n")
    output(compiler, "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-Wstrict-prototypes",
           "-I", ROOT / "include", "-fsyntax-only", source)


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_a_public_header_compiles_alone_as_cplusplus(folder, header, compiler):
    source = folder / "alone.cc"
    source.write_text(f"#include <{header}>\n#include <{header}>\nint main() {{ return 0; }}\n")
    output(compiler, "-std=c++11", "-pedantic", "-Wall", "-Wextra", "-Werror",
           "-I", ROOT / "include", "-fsyntax-only", source)


# Rules of the tree.


def shell_scripts():
    found = [ROOT / "run", ROOT / "test", ROOT / ".ci/run"]
    for folder in ("tools", "tests", "bench", "doc"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.stat().st_size < 1 << 20:
                with open(path, "rb") as file:
                    first = file.readline()
                if re.match(rb"#! ?(/usr)?/bin/(env )?(ba)?sh\b", first):
                    found.append(path)
    return found


def test_shell_scripts_pass_shellcheck():
    output("shellcheck", *shell_scripts())


def test_the_layout_of_c_files_is_that_of_clang_format():
    files = tree(".c", ".h")
    done = subprocess.run(
        ["clang-format", "--dry-run", *map(str, files)], capture_output=True, text=True, check=False,
        cwd=ROOT,
    )
    wrong = sorted({line.split(":")[0] for line in done.stderr.splitlines() if ": warning:" in line})
    assert [os.path.relpath(path, ROOT) for path in wrong] == []


def code_of(path):
    """A C file's text without its comments and string literals."""
    text = path.read_text(errors="replace")
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(\\.|[^"\\\n])*"', " ", text, flags=re.S)


# Words for which another is the project's: roles change, so a process is no parent or slave of
# another; "graceful" says nothing. parent and child are left out, since the kernel's own
# interfaces are called so.
AVOIDED = re.compile(r"master|slave|\bheirs?\b|graceful|hammer", re.I)


def test_the_code_avoids_the_words_that_mislead():
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in tree(".c", ".h", below=("src", "include", "examples"))
        for match in AVOIDED.finditer(path.read_text(errors="replace"))
    ]
    assert found == []


def test_the_product_does_not_sleep():
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in tree(".c", ".h", below=("src", "include", "examples"))
        for match in re.finditer(r"\b(u|nano|clock_nano)?sleep\s*\(", code_of(path))
    ]
    assert found == []


def test_arrows_between_the_parts_point_down():
    """What a part may include of the others: the HTTP module sees libsegue's public header only,
    the command sees the core and no library, the load client sees nothing, the core sees nobody."""
    allowed = {
        "core": set(),
        "libsegue": {"core"},
        "http": set(),
        "load": set(),
        "segue": {"core"},
    }
    wrong = []
    for part, others in allowed.items():
        for path in tree(".c", ".h", below=(f"src/{part}",)):
            for include in re.findall(r'^#\s*include\s+["<]([^">]+)[">]', path.read_text(), re.M):
                reached = re.sub(r"^(\.\./)+", "", include).split("/")[0]
                foreign = reached in allowed and reached not in {part, *others}
                # segue/http.h is the library's, segue/config.h the command's.
                if (ROOT / "include" / include).exists():
                    foreign = part in ("core", "load", "segue")
                if foreign:
                    wrong.append(f"{path.relative_to(ROOT)} includes {include}")
    assert wrong == []


def test_every_package_to_install_has_a_set_and_a_reason():
    lines = (ROOT / "tools/packages").read_text().splitlines()
    words = [line.split(None, 2) for line in lines if line and not line.startswith("#")]
    assert [line for line in words if len(line) != 3] == []
    assert {line[0] for line in words} == {"build", "test", "all", "coverage", "bench"}
    names = [line[1] for line in words]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("arguments", [["bogus"], ["build", "build"]])
def test_run_refuses_bad_arguments_with_one_sentence(arguments):
    done = subprocess.run(
        [ROOT / "run", *arguments], capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


def test_run_says_what_it_does():
    assert "./run build" in output(ROOT / "run", "--help")


def test_links_in_the_readme_lead_somewhere():
    for name in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / name).read_text()):
            if "://" not in target:
                assert (ROOT / target).exists(), f"{name} links to {target}"
