"""The build folders, and C programs compiled against them."""

import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]

FOLDERS = {
    "plain": "build", "sanitized": "build-sanitized", "threads": "build-threads",
    "coverage": "build-coverage",
}
FLAGS = {
    "plain": [],
    "sanitized": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "threads": ["-fsanitize=thread"],
    # As tools/build, but with a file for each program: %m tells programs apart by the sizes of what
    # they are made of, and these are much alike.
    "coverage": ["-fprofile-instr-generate={folder}/profiles/{name}-%c%m.profraw", "-mllvm",
                 "-runtime-counter-relocation"],
}
COMPILERS = {"coverage": "clang"}
WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"]


class Build:
    """One of tools/build's folders, or the one that SEGUE_BUILD_PLAIN (SANITIZED, THREADS) names."""

    def __init__(self, name):
        self.name = name
        self.folder = ROOT / os.environ.get(f"SEGUE_BUILD_{name.upper()}", FOLDERS[name])

    def __repr__(self):
        return f"<build {self.name}>"

    def __fspath__(self):
        return str(self.folder)

    @property
    def exists(self):
        return (self.folder / "build.ninja").exists()

    @property
    def sanitized(self):
        return self.name != "plain"

    def program(self, name):
        """'hello' is an example; 'src/load/segue-load' a path below the build folder."""
        path = self.folder / (name if "/" in name else f"examples/{name}")
        if not path.exists():
            raise AssertionError(f"{path} is not built")
        return path

    def unit_programs(self):
        """The executables of C unit tests: unit-* below tests/."""
        found = (self.folder / "tests").rglob("unit-*")
        return sorted(path for path in found if path.is_file() and os.access(path, os.X_OK))

    def fuzz_programs(self):
        """{target: program that replays files}."""
        found = (self.folder / "tests").rglob("fuzz-*")
        return {path.name[len("fuzz-") :]: path for path in sorted(found)
                if path.is_file() and os.access(path, os.X_OK)}

    def compile(self, source, *, http=False, defines=(), standard="gnu17"):
        """Compiles C source (a text, or a path below the root) against this build's libsegue and
        returns the program; the same source is compiled once, however many tests ask for it."""
        text = (ROOT / source).read_text() if isinstance(source, pathlib.Path) else source
        libraries = [self.folder / "src/libsegue/libsegue.a"]
        if http:
            libraries.insert(0, self.folder / "src/http/libsegue-http.a")
        stamp = [str(path.stat().st_mtime_ns) for path in libraries]
        key = hashlib.sha256("\0".join([text, standard, *defines, *stamp]).encode()).hexdigest()
        folder = self.folder / "tests" / "programs"
        folder.mkdir(parents=True, exist_ok=True)
        result = folder / key[:24]
        with open(folder / "lock", "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not result.exists():
                self._compile(text, result, libraries, defines, standard, http)
        return result

    def _compile(self, text, result, libraries, defines, standard, http):
        source = result.with_suffix(".c")
        source.write_text(text)
        unfinished = result.with_suffix(".part")
        command = [COMPILERS.get(self.name, "gcc"), f"-std={standard}", "-g", *WARNINGS]
        command += [flag.replace("{folder}", str(self.folder)).replace("{name}", result.name)
                    for flag in FLAGS[self.name]]
        command += ["-D_GNU_SOURCE", *(f"-D{define}" for define in defines)]
        command += ["-I", ROOT / "include", "-o", unfinished, source, *libraries, "-pthread"]
        if http:
            command += ["-luv"]
        subprocess.run([str(word) for word in command], check=True)
        unfinished.rename(result)


def put_program(program, path):
    """Puts a copy of a program at a path, as a deployment does: a running one is replaced by a
    rename, since its file cannot be written to."""
    unfinished = path.with_name(f".{path.name}.part")
    shutil.copy2(program, unfinished)
    os.replace(unfinished, path)
    return path


def sanitizer_environment(folder):
    """Findings are fatal, leaks are findings, and reports go to files in a folder."""
    reports = f"log_path={folder}/sanitizer"
    return {
        "ASAN_OPTIONS": f"abort_on_error=1:detect_leaks=1:{reports}",
        "UBSAN_OPTIONS": f"halt_on_error=1:abort_on_error=1:print_stacktrace=1:{reports}",
        "TSAN_OPTIONS": f"halt_on_error=1:abort_on_error=1:second_deadlock_stack=1:{reports}",
    }


def sanitizer_reports(folder):
    """(name, text) of each report in a folder. gcc's undefined-behaviour sanitizer ignores
    log_path beside the address sanitizer, so that its findings stand in the programs' logs."""
    for path in sorted(folder.glob("sanitizer.*")):
        if text := path.read_text(errors="replace"):
            yield path.name, text
    for path in sorted(folder.glob("*.log")):
        before, found, after = path.read_text(errors="replace").partition(": runtime error: ")
        if found:
            yield path.name, before.splitlines()[-1] + found + after
