"""What takes long: a browser that watches for thirty minutes, and a server that is killed twenty times.

python -m tests.benchmarks.bench_endurance             # both; `make test-all` measures the same and asserts the limits
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backend.errors import InputError
from tests.benchmarks.common import RESULTS, machine, machine_line, read, write
from tests.benchmarks.limits import Limit
from tests.benchmarks.page_kills import measure_kills
from tests.benchmarks.page_memory import measure_memory

LIMITS = {
    "heap_mib_growth_percent": Limit(10.0, "script heap of a page that watches a live run, growth after warm-up, %"),
    "renderer_mib_growth_percent": Limit(10.0, "memory of the browser's renderer process, growth after warm-up, %"),
    "nodes_growth_percent": Limit(10.0, "nodes of the page, growth after warm-up, %"),
    "listeners_growth_percent": Limit(10.0, "event listeners of the page, growth after warm-up, %"),
    "damaged_checkpoints": Limit(0, "damaged checkpoints after SIGKILL of the server"),
    "wrong_states": Limit(0, "states other than interrupted or completed after SIGKILL"),
    "files_that_differ": Limit(0, "files that differ from the run that was never killed"),
}
ARMS: dict[str, Callable[[], dict[str, Any]]] = {"memory": measure_memory, "kills": measure_kills}


def missed(result: dict[str, Any]) -> list[str]:
    """Sentences about the limits that a result does not keep."""
    return [f"{limit.words}: {result[key]}, at most {limit.bound:g}" for key, limit in LIMITS.items() if key in result and not limit.keeps(result[key])]


def measure(arm: str, results: Path = RESULTS) -> dict[str, Any]:
    """Measure one arm and write its file and the table of all that are there."""
    folder = results / "endurance"
    found = {**ARMS[arm](), "machine": {**machine(), "cores_of_the_machine": os.cpu_count()}}
    write(folder / f"{arm}.json", found)
    known = {name: value for name in ARMS if (value := read(folder / f"{name}.json")) is not None}
    (results / "endurance.md").write_text(table(known), encoding="utf-8")
    return found


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown of the arms that are there."""
    known = next(iter(results.values()))["machine"]
    lines = ["# The page over time", "", f"Machine: {machine_line(known)}, of a machine with {known['cores_of_the_machine']} cores."]
    lines += ["Command: `python -m tests.benchmarks.bench_endurance`.", ""]
    if found := results.get("memory"):
        first, last = found["samples"][0], found["samples"][-1]
        lines += [f"A Chromium watched {found['episodes_seen']:.0f} new episodes for {found['minutes']:g} minutes, every chart drawn anew with each.",
                  f"Heap {first['heap_mib']:.1f} MiB at minute {first['minute']:.0f}, {last['heap_mib']:.1f} MiB at minute {last['minute']:.0f}.", ""]  # fmt: skip
    if found := results.get("kills"):
        lines += [f"A server that trains {found['episodes']} episodes was killed (SIGKILL) {found['kills']} times at random moments and resumed each time.", ""]
    lines += ["| What | Measured | Limit | Kept |", "| --- | ---: | ---: | --- |"]
    lines += [LIMITS[key].row(value) for result in results.values() for key, value in result.items() if key in LIMITS]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure what was asked for; exit status 1 where a limit is missed."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--arm", action="append", choices=list(ARMS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    try:
        faults = [fault for arm in chosen.arm or ARMS for fault in missed(measure(arm, chosen.results))]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print((chosen.results / "endurance.md").read_text(encoding="utf-8"))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
