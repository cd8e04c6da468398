"""Speed of the rewards, side by side with the per-image loop that they replace.

    python -m tests.benchmarks.bench_rewards

Writes docs/results/bench_rewards.json, .md and .png (cost over the size of the group). Limits stand beside the numbers; the
exit status is 1 where one is missed. Everything runs on one thread, and times are processor time, the best of several
repetitions: what an otherwise idle core would take, whatever else the machine is doing.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backend.analysis.static import write_png
from backend.config.schema import TrainConfig
from backend.features.load import load_extractor
from backend.rewards.composition import RewardFunction
from backend.rewards.coverage import coverage_credit, membership
from backend.rewards.dpp import dpp_credit, likelihood_matrix
from backend.rewards.fid import frechet_credit, moments, shrunk
from backend.rewards.kernels import kernel_matrix, median_distance, rbf, reference_radii, squared_distances
from backend.rewards.mi import pointwise_information
from backend.rewards.mmd import mmd_credit
from backend.rewards.novelty import neighbour_distances, novelty_credit
from backend.rewards.pairwise import pairwise_credit
from backend.rewards.vendi import vendi_credit
from tests.benchmarks.common import RESULTS, machine, machine_line, write

REFERENCE, DIMENSION = 73, 512
SIZES = (8, 16, 32, 64, 128, 256, 512)
LIMITS = {
    "mmd_speedup": (100.0, "MMD credit of 256 images, times faster than the loop", "least"),
    "fid_ms": (30.0, "FID credit of 64 images, pool 512, 64 dimensions, ms", "most"),
    "vendi_ms": (60.0, "VENDI credit (q = 2) of 256 images, ms", "most"),
    "vendi_q1_ms": (60.0, "VENDI credit (q = 1) of 256 images, ms", "most"),
    "features_per_second": (25.0, "features at 128 px, images/s", "least"),
    "reward_call_s": (0.7, "whole reward of 16 images at 128 px, s", "most"),
}  # fmt: skip


def best(work: Callable[[], Any], repeats: int = 7) -> float:
    """Processor seconds of the fastest repetition, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def loop_rewards(generated: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The baseline: for each image the biased MMD^2 of the set with and without it, each from scratch, in float32."""
    x_all, y = torch.from_numpy(generated).float(), torch.from_numpy(reference).float()
    gamma = float(1 / (2 * torch.median(torch.pdist(y)) ** 2))

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squares = (a**2).sum(1, keepdim=True) + (b**2).sum(1, keepdim=True).t() - 2 * torch.mm(a, b.t())
        return torch.exp(-gamma * squares)

    def mmd(a: Tensor, b: Tensor) -> float:
        return float(kernel(a, a).mean() + kernel(b, b).mean() - 2 * kernel(a, b).mean())

    rewards = []
    for i in range(len(x_all)):
        with_it = mmd(x_all, y)
        without = mmd(torch.cat([x_all[:i], x_all[i + 1 :]]), y)
        rewards.append(without - with_it)
    return np.array(rewards)


def credits(reference: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """From features [N, D] to credit [N], everything included, for every closed form."""
    width = median_distance(reference)
    radii = reference_radii(reference, 3)
    near = reference[:, :8].contiguous()

    def similarity(x: Tensor) -> Tensor:
        return rbf(squared_distances(x, x), width / 2)

    def mmd(x: Tensor) -> Tensor:
        return mmd_credit(kernel_matrix(x, x, "rbf", width), kernel_matrix(x, reference, "rbf", width)).total

    return {
        "MMD": mmd,
        "MMD_VENDI": lambda x: mmd(x) + vendi_credit(similarity(x), 2.0),
        "PAIRWISE": lambda x: pairwise_credit(squared_distances(x, x).sqrt()),
        "COVERAGE": lambda x: coverage_credit(membership(x, reference, radii)),
        "DPP": lambda x: dpp_credit(likelihood_matrix(similarity(x))),
        "VENDI q=2": lambda x: vendi_credit(similarity(x), 2.0),
        "VENDI q=1": lambda x: vendi_credit(similarity(x), 1.0),
        "NOVELTY": lambda x: novelty_credit(neighbour_distances(x, reference), 3)[0],
        "MI (8 dims)": lambda x: pointwise_information(x[:, :8], near, 3)[0],
    }


def fid_seconds(rng: np.random.Generator) -> float:
    """Credit of 64 images in a pool of 512 in 64 dimensions."""
    pool, reference = (torch.from_numpy(rng.normal(size=(n, 64))) for n in (512, REFERENCE))
    mean, covariance = moments(reference)
    covariance = shrunk(covariance)
    return best(lambda: frechet_credit(pool, 64, mean, covariance))


def measure() -> dict[str, Any]:
    """All numbers; the loop and the closed forms in the same process on the same arrays."""
    rng = np.random.default_rng(0)
    reference = torch.from_numpy(rng.normal(size=(REFERENCE, DIMENSION)))
    groups = {n: torch.from_numpy(rng.normal(size=(n, DIMENSION))) for n in SIZES}
    torch.set_num_threads(1)
    table = credits(reference)
    curve = {name: [best(lambda work=work, x=x: work(x), 3) for x in groups.values()] for name, work in table.items()}
    loop = best(lambda: loop_rewards(groups[256].numpy(), reference.numpy()), 1)
    ours = best(lambda: table["MMD"](groups[256]))
    found = {
        "loop_s": loop,
        "mmd_ms": 1e3 * ours,
        "mmd_speedup": loop / ours,
        "fid_ms": 1e3 * fid_seconds(rng),
        "vendi_ms": 1e3 * best(lambda: table["VENDI q=2"](groups[256])),
        "vendi_q1_ms": 1e3 * best(lambda: table["VENDI q=1"](groups[256])),
        "sizes": list(SIZES),
        "seconds": curve,
    }
    images = torch.rand(64, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    network = load_extractor("efficientnet_lite0")
    found["features_per_second"] = 64 / best(lambda: network(images), 5)
    function = RewardFunction(TrainConfig(), torch.rand(REFERENCE, 3, 128, 128, generator=torch.Generator().manual_seed(1)), [], base_images=images)
    found["reward_call_s"] = best(lambda: function(images[:16], [""] * 16, torch.arange(16) // 2), 5)
    return found


def figure(found: dict[str, Any]) -> dict[str, Any]:
    """Cost over the size of the group."""
    data = [{"type": "scatter", "mode": "lines", "name": name, "x": found["sizes"], "y": [1e3 * s for s in seconds]} for name, seconds in found["seconds"].items()]
    layout = {
        "title": {"text": f"Features to credit of every image, D = {DIMENSION}, M = {REFERENCE}, one thread"},
        "xaxis": {"title": {"text": "images in the group"}},
        "yaxis": {"title": {"text": "milliseconds"}, "type": "log"},
    }
    return {"data": data, "layout": layout}


def table(found: dict[str, Any]) -> tuple[str, bool]:
    """Markdown table and whether every limit is kept."""
    lines = ["# Speed of the rewards", "", f"Machine: {machine_line(found['machine'])}.", "Command: `python -m tests.benchmarks.bench_rewards`. Processor time on one thread.", ""]
    lines += ["| What | Measured | Limit | Kept |", "| --- | ---: | ---: | --- |"]
    fine = True
    for key, (limit, words, side) in LIMITS.items():
        kept = found[key] <= limit if side == "most" else found[key] >= limit
        fine &= kept
        lines.append(f"| {words} | {found[key]:.3g} | {'≤' if side == 'most' else '≥'} {limit:g} | {'yes' if kept else 'no'} |")
    lines += ["", f"The loop: {found['loop_s']:.2f} s; the closed form on the same arrays: {found['mmd_ms']:.2f} ms.", "", "![Cost over the size of the group](bench_rewards.png)"]
    return "\n".join(lines) + "\n", fine


def main() -> int:
    """Measure, write, and say whether the limits are kept."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    folder = parser.parse_args().results
    found = {"machine": machine(), **measure()}
    write(folder / "bench_rewards.json", found)
    write_png(figure(found), folder / "bench_rewards.png")
    text, fine = table(found)
    (folder / "bench_rewards.md").write_text(text, encoding="utf-8")
    print(text)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
