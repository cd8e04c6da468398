"""Benchmarks whose figures stand beside limits: arms, one result file each, one table, and an exit status that says whether all are kept."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.errors import InputError
from tests.benchmarks.common import RESULTS, machine, machine_line, read, write


@dataclass(frozen=True)
class Limit:
    """A bound on a figure; `words` say what it is, with its unit."""

    bound: float
    words: str
    least: bool = False

    def keeps(self, value: float) -> bool:
        """Whether a figure is within it."""
        return value >= self.bound if self.least else value <= self.bound

    def row(self, value: float, machine: str = "") -> str:
        """A line of the table; `machine` is the mark of the one that the figure was measured on, where there are several."""
        return f"| {self.words} | {value:.2f} | {'≥' if self.least else '≤'} {self.bound:g} | {'yes' if self.keeps(value) else 'no'} |{f' {machine} |' if machine else ''}"


def table(title: str, command: str, limits: Mapping[str, Limit], results: Mapping[str, Mapping[str, Any]]) -> tuple[str, bool]:
    """Markdown table of the arms that are there, and whether every limit is kept."""
    machines = list(dict.fromkeys(machine_line(result["machine"]) for result in results.values()))  # arms may have been measured on different ones
    several = len(machines) > 1
    marks = {line: chr(ord("A") + i) if several else "" for i, line in enumerate(machines)}
    found = {key: (result[key], marks[machine_line(result["machine"])]) for key in limits for result in results.values() if key in result}
    named = [f"Machine {marks[line]}: {line}." if several else f"Machine: {line}." for line in machines]
    head = ["| What | Measured | Limit | Kept |", "| --- | ---: | ---: | --- |"]
    if several:
        head = [head[0] + " Machine |", head[1] + " --- |"]
    lines = [f"# {title}", "", *named, f"Command: `{command}`.", "", *head, *(limits[key].row(*figure) for key, figure in found.items())]
    return "\n".join(lines) + "\n", all(limits[key].keeps(value) for key, (value, _) in found.items())


def measure_arms(parser: ArgumentParser, module: str, title: str, limits: Mapping[str, Limit], arms: Mapping[str, Callable[[Namespace, dict[str, str]], dict[str, Any]]]) -> int:
    """Measure what the flags ask for and write `<results>/<name>/<arm>.json` and `<results>/<name>.md`, where a module is called bench_<name>.

    Args:
        parser: with the benchmark's own flags.
        module: of the benchmark.
        title: of the table.
        limits: by the key of their figure.
        arms: each gives figures from the flags and the `--set` settings; those that have a result are skipped unless `--arm` names them.

    Returns:
        Exit status: 0, 1 where a limit is missed, 2 where measuring failed.
    """
    parser.add_argument("--arm", action="append", choices=list(arms))
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--results", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    name = module.rpartition("bench_")[2]
    folder = chosen.results / name
    try:
        for arm in chosen.arm or arms:
            if chosen.arm or read(folder / f"{arm}.json") is None:
                write(folder / f"{arm}.json", {**arms[arm](chosen, dict(s.split("=", 1) for s in chosen.set)), "machine": machine()})
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text, fine = table(title, f"python -m {module}", limits, {arm: found for arm in arms if (found := read(folder / f"{arm}.json")) is not None})
    (chosen.results / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
    return 0 if fine else 1
