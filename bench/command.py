"""What the commands of bench/ share: options, the build, the machine, and the result file. A part
returns its piece of the result file and what to conclude.
"""

import argparse
import os
import pathlib
import platform
import resource
import subprocess
import sys
import tempfile
import time

from harness import processes
from harness.builds import Build

ROOT = pathlib.Path(__file__).resolve().parents[1]


def parse(name, text, parts):
    parser = argparse.ArgumentParser(prog=name, usage=f"{name} [--quick] [--only PART]...",
                                     description=text,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short and few repetitions")
    parser.add_argument("--only", metavar="PART", action="append", choices=sorted(parts),
                        help="this part only; repeatable")
    parser.add_argument("--output", metavar="FILE", type=pathlib.Path, help="write the result here")
    return parser.parse_args()


def output(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          check=True, cwd=ROOT)
    return done.stdout.strip()


def prepare(name, *sets):
    """Packages (of more sets, too) and the build; one's own may be named in SEGUE_BUILD_PLAIN."""
    subprocess.run([ROOT / "tools/install", "build", "bench", *sets], check=True)
    build = Build("plain")
    if "SEGUE_BUILD_PLAIN" not in os.environ:
        subprocess.run([ROOT / "tools/build", "plain"], check=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 12000:
        sys.exit(f"{name}: 10,000 connections need more descriptors than {hard} (ulimit -Hn)")
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    processes.become_subreaper()
    return build


def first(path, word):
    with open(path, encoding="utf-8") as file:
        return next((line.partition(":")[2].strip() for line in file if line.startswith(word)), "?")


def commit():
    """What was measured, as far as git can name it."""
    try:
        changed = output("git", "status", "--porcelain", "--untracked-files=no", "--", "src", "include",
                         "examples", "meson.build")
        return output("git", "rev-parse", "--short=12", "HEAD") + (", changed since" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown (no git)"


def machine(programs):
    memory = int(first("/proc/meminfo", "MemTotal").split()[0]) // 1024
    return {
        "processor": f"{first('/proc/cpuinfo', 'model name')}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{memory} MiB",
        "kernel": f"Linux {platform.release()}",
        "compiler": output("gcc", "--version").splitlines()[0],
        **programs(),
        "Segue": f"commit {commit()}",
    }


def load_average():
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


class Others:
    """How much of the machine was used by others than this run and what it started."""

    def __init__(self):
        self.at = self._now()

    @staticmethod
    def _now():
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, _, _, irq, softirq = map(int, file.readline().split()[1:8])
        # What a process does for an interrupt is in its own times as well.
        busy = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
        own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        ours = sum(usage.ru_utime + usage.ru_stime for usage in own)
        return busy - ours, time.monotonic()

    def share(self):
        """Percent of all cores since it was made."""
        (busy_then, then), (busy_now, now) = self.at, self._now()
        return max(0.0, busy_now - busy_then) / (now - then) / os.cpu_count() * 100


class Stolen:
    """How much of the machine its host gave to others."""

    def __init__(self):
        self.at = self._now()

    @staticmethod
    def _now():
        with open("/proc/stat", encoding="ascii") as file:
            fields = file.readline().split()
        return int(fields[8]) / os.sysconf("SC_CLK_TCK"), time.monotonic()

    def share(self):
        """Percent of all cores since it was made."""
        (stolen_then, then), (stolen_now, now) = self.at, self._now()
        return (stolen_now - stolen_then) / (now - then) / os.cpu_count() * 100


def main(name, text, title, parts, result, programs=dict):
    """Runs the parts, prints, and writes the result where all have run at full length. programs():
    {name: version} of what is measured beside Segue."""
    options = parse(name, text, parts)
    build = prepare(name)
    about = machine(programs)
    about["load average before"] = load_average()
    texts, conclusions = [], []
    with tempfile.TemporaryDirectory(prefix="segue-bench-") as folder:
        for part in options.only or parts:
            print(f"{name}: {part} ...", file=sys.stderr, flush=True)
            others = Others()
            text, conclusion = parts[part](build, pathlib.Path(folder), options.quick)
            text += f"\n\nMeanwhile others used {others.share():.0f} % of the machine's cores."
            print(text, flush=True)
            texts.append(text)
            conclusions += conclusion
    about["load average after"] = load_average()
    whole = not options.quick and not options.only
    target = options.output or (result if whole else None)
    lines = [f"| {what} | {value} |" for what, value in about.items()]
    head = "\n".join(["| | |", "|---|---|", *lines])
    print(head)
    if target:
        words = [name, *(["--quick"] if options.quick else [])]
        command = " ".join(words + [f"--only {part}" for part in options.only or []])
        target.parent.mkdir(exist_ok=True)
        short = "## In short\n\n" + "\n".join(f"* {line}" for line in conclusions)
        target.write_text("\n\n".join([title.format(command=command), short, "## Where", head, *texts])
                          + "\n", encoding="utf-8")
        print(f"{name}: wrote {target}", file=sys.stderr)
