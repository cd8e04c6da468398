"""What each metric says about rendered craters, from one image repeated to the reference itself.

    python -m tests.benchmarks.reward_ranges [--draws 8] [--images 32]

Writes docs/results/reward_ranges.json and .md. The reference are freely drawn renders; each draw takes a crater for the
collapsed sets and fresh renders for the diverse one.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import torch

from backend.config.catalogue import METRICS
from backend.config.schema import TrainConfig
from backend.reference.captions import caption
from backend.reference.renderer import CraterParameters, render_batch, sample_parameters
from backend.rewards.composition import RewardFunction
from tests.benchmarks.common import RESULTS, machine, machine_line, write

REFERENCE = 73
SETS = ("one image repeated", "one crater, other noise", "half of each", "diverse", "reference")


def rendered(parameters: list[CraterParameters], seeds: range) -> torch.Tensor:
    """[N, 3, 128, 128] in [0, 1]."""
    return torch.from_numpy(render_batch(parameters, seeds)).permute(0, 3, 1, 2).float() / 255


def draw_sets(rng: np.random.Generator, count: int, number: int, reference: tuple[torch.Tensor, list[str]]) -> list[tuple[torch.Tensor, list[str]]]:
    """Images and captions of the five sets of one draw, `count` images each."""
    fresh = [sample_parameters(rng) for _ in range(count)]
    first = 10_000 * (number + 1)
    diverse, same = rendered(fresh, range(first, first + count)), rendered([fresh[0]] * count, range(first + 5_000, first + 5_000 + count))
    words, repeated = [caption(p) for p in fresh], [caption(fresh[0])] * count
    half = count // 2
    mixed = (torch.cat([same[:half], diverse[half:]]), repeated[:half] + words[half:])
    chosen = rng.permutation(len(reference[0]))[:count]
    real = (reference[0][chosen], [reference[1][i] for i in chosen])
    return [(diverse[:1].expand(count, -1, -1, -1), repeated), (same, repeated), mixed, (diverse, words), real]


def measure(count: int, draws: int) -> dict[str, dict[str, list[float]]]:
    """Mean and standard deviation over draws of every metric's raw score of every set."""
    rng = np.random.default_rng(0)
    drawn = [sample_parameters(rng) for _ in range(REFERENCE)]
    reference = (rendered(drawn, range(REFERENCE)), [caption(p) for p in drawn])
    sets = [draw_sets(rng, count, number, reference) for number in range(draws)]
    found = {}
    for metric in METRICS.names():
        function = RewardFunction(TrainConfig(metric=metric), *reference)
        scores = np.array([[function.score_set(*one) for one in draw] for draw in sets])
        found[metric] = {name: [float(scores[:, i].mean()), float(scores[:, i].std())] for i, name in enumerate(SETS)}
        print(metric, {name: round(v[0], 3) for name, v in found[metric].items()}, flush=True)
    return found


def table(found: dict[str, dict[str, list[float]]], known: dict, command: str) -> str:
    """Markdown."""
    lines = ["# Raw scores on rendered craters", "", f"Machine: {machine_line(known)}.", f"Command: `{command}`. Mean ± standard deviation over draws.", ""]
    lines += ["| Metric | " + " | ".join(SETS) + " |", "| --- |" + " ---: |" * len(SETS)]
    for metric, row in found.items():
        lines.append(f"| {metric} | " + " | ".join(f"{row[name][0]:.3g} ± {row[name][1]:.2g}" for name in SETS) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure and write."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--results", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    command = f"python -m tests.benchmarks.reward_ranges --images {chosen.images} --draws {chosen.draws}"
    found, known = measure(chosen.images, chosen.draws), machine()
    write(chosen.results / "reward_ranges.json", {"machine": known, "command": command, "images": chosen.images, "draws": chosen.draws, "scores": found})
    (chosen.results / "reward_ranges.md").write_text(table(found, known, command), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
