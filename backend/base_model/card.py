"""The model card: figures, loss curves and a sheet of samples, all from files that the commands wrote."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import numpy as np
from PIL import Image

from backend.base_model.data import SIZE


def sheet(images: np.ndarray, columns: int = 8) -> Image.Image:
    """A contact sheet of uint8 images [N, h, w, 3]; N is cut to full rows."""
    rows = len(images) // columns
    grid = images[: rows * columns].reshape(rows, columns, *images.shape[1:]).transpose(0, 2, 1, 3, 4)
    return Image.fromarray(np.ascontiguousarray(grid.reshape(rows * images.shape[1], columns * images.shape[2], 3)))


def loss_figure(log: Path, out: Path) -> None:
    """Loss of decoder and denoiser over their steps, from log.jsonl."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axis, stage in zip(figure.subplots(1, 2), ("decoder", "denoiser"), strict=True):
        points = [(r["step"], r["loss"]) for r in rows if r["stage"] == stage]
        axis.plot(*zip(*points, strict=True), color="#b3492a")
        axis.set(title=stage, xlabel="step", ylabel="loss (running mean)", yscale="log")
        axis.grid(alpha=0.3)
    figure.savefig(out, dpi=110)


def training_cost(log: Path) -> dict[str, float]:
    """Seconds that each stage took, by its own clock; a stage that was interrupted counts its longest stretch only."""
    seconds: dict[str, float] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "seconds" in row:
            seconds[row["stage"]] = max(seconds.get(row["stage"], 0.0), row["seconds"])
    return seconds


def machine() -> str:
    """Processor, cores and Python of this machine, for tables of measurements."""
    import os

    name = next((line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor() or "unknown CPU")
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def write_card(folder: Path, figures: dict, recipe: dict, cost: dict[str, float]) -> Path:
    """Write README.md of the model folder.

    Args:
        folder: the pipeline's folder, with sheet.png and losses.png in it.
        figures: what `measure_model` gave.
        recipe: training.json.
        cost: seconds by stage.
    """
    fd, rows = figures["frechet_lite0"], figures["adherence"]
    vendi, nearest = figures["diversity_vendi_lite2"], figures["memorisation"]
    lines = [
        "# crater-tiny",
        "",
        f"A small Stable-Diffusion-type pipeline for {SIZE}×{SIZE} pictures of simulated Martian craters, trained from scratch on this project's own renderer. "
        "It knows the words of the captions in `backend/reference/captions.py`; other words are neutral. It has never seen a photograph.",
        "",
        "![samples](sheet.png)",
        "",
        "64 captions of held-out renders at guidance 7.5, 20 DDIM steps, none left out.",
        "",
        "## Figures",
        "",
        f"`python -m backend base-model measure` on {figures['machine']}; {figures['images']} images; intervals are standard deviations over draws.",
        "",
        "| figure | value | beside |",
        "|---|---|---|",
        f"| reconstruction RMSE (0–1) | {figures['reconstruction_rmse']:.4f} | |",
        f"| Fréchet distance to held-out renders (Lite0, block 10) | {fd['generated'][0]} ± {fd['generated'][1]} | halves {fd['floor'][0]}, noise {fd['noise'][0]} |",
        f"| Vendi score (Lite2) at guidance 7.5 | {vendi['generated']} | renders of the same captions {vendi['renders of the captions']} |",
        f"| nearest training image, median Lite0 distance | {nearest['generated median']} | fresh renders {nearest['fresh renders median']} |",
        "",
        "Caption adherence: R² of attributes that ridge regressors on Lite0 features read from the image, against the caption's parameters.",
        "",
        "| attribute | generated | renders | relative |",
        "|---|---|---|---|",
        *(f"| {name} | {row['generated']:.3f} | {row['renders']:.3f} | {row['relative']:.2f} |" for name, row in rows.items()),
        "",
        "## Recipe",
        "",
        "`make base-model`: " + ", ".join(f"{k} {v}" for k, v in recipe.items()) + ".",
        "",
        "Seconds by stage: " + ", ".join(f"{k} {v:.0f}" for k, v in cost.items()) + ".",
        "",
        "![losses](losses.png)",
        "",
        "Encoder: principal components of 8×8 patches in closed form. Decoder: learned on crops (L1 of values and of differences). "
        "Denoiser: UNet and a two-layer CLIP text encoder trained together, v-prediction, caption dropout 10 %, made-up words in 15 % of the captions.",
        "",
    ]
    path = folder / "README.md"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path
