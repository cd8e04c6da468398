"""The model card: figures, loss curves and a sheet of samples, all from files that the commands wrote."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

from backend.base_model.data import SIZE


def training_rows(log: Path) -> list[dict]:
    """Rows of log.jsonl that tell of a training stage; none where there is no log, or one of rendering alone."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
    return rows if any("loss" in row for row in rows) else []


def loss_figure(rows: Sequence[dict], out: Path) -> None:
    """Loss of each stage that was trained over its steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    curves = {stage: [(r["step"], r["loss"]) for r in rows if r["stage"] == stage] for stage in ("decoder", "denoiser", "sharpen", "finish")}
    curves = {stage: points for stage, points in curves.items() if points}
    figure = Figure(figsize=(4.5 * len(curves), 3.2), layout="constrained")
    for axis, (stage, points) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        axis.plot(*zip(*points, strict=True), color="#b3492a")
        axis.set(title=stage, xlabel="step", ylabel="loss (running mean)", yscale="log")
        axis.grid(alpha=0.3)
    figure.savefig(out, dpi=110)


def training_cost(rows: Sequence[dict]) -> dict[str, float]:
    """Seconds that each stage took, by its own clock; a stage that was interrupted counts its longest stretch only."""
    seconds: dict[str, float] = {}
    for row in rows:
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


def write_card(folder: Path, history: Sequence[dict], recipe: dict, judges: dict[str, str], pictures: Path) -> Path:
    """Write README.md of the model folder.

    Args:
        folder: the pipeline's folder, with sheet.png and losses.png in it.
        history: measured versions, oldest first; the last is this model, the one before it stands beside it.
        recipe: training.json.
        judges: SHA-256 of each judge by its name.
        pictures: the sheet of rendered and generated side by side.
    """
    shown = _pictures_seen(recipe)
    seen = f"It was fine-tuned on {shown} pictures that are not renders" if shown else "It has never seen a photograph"
    figures, before = history[-1], history[-2] if len(history) > 1 else None
    lines = [
        f"# {folder.resolve().name}",
        "",
        f"A small Stable-Diffusion-type pipeline for {SIZE}×{SIZE} pictures of simulated Martian craters, trained from scratch on this project's own renderer. "
        f"It knows the words of the captions in `backend/reference/captions.py`; other words are neutral. {seen}.",
        "",
        "![samples](sheet.png)",
        "",
        f"64 captions of held-out renders at guidance 7.5, 20 DDIM steps, none left out. Rendered and generated side by side: `{pictures}`.",
        "",
        "## Figures",
        "",
        f"Version {figures['version']}: `{figures['command']}` on {figures['machine']}; {figures['images']} images; intervals are standard deviations over draws."
        + (f" Before: version {before['version']}, `{before['command']}`. {before.get('note', '')}".rstrip() if before else ""),
        "",
        *_figure_rows(figures, before),
        "",
        "Caption adherence: R² of attributes that a ridge regressor on Lite0 features of the picture's regions reads, against the caption's parameters. "
        "It was fitted on renders of which every second was slightly blurred, brightened, contrasted or made grainy, so that it does not depend on a render's exact sharpness.",
        "",
        *_adherence_rows(figures, "adherence", before),
        "",
        "The same where renders and generated pictures are each read by regressors fitted on themselves (Lite0, block 10; five folds): "
        "how much of the caption a picture carries, whether or not it looks as the renderer would draw it. The table above asks for both.",
        "",
        *_adherence_rows(figures, "own_adherence", before),
        "",
        *_combination_rows(figures),
        *_guidance_rows(figures),
        "## Judges",
        "",
        "Their accuracy and their agreement with labels of real craters, made by looking: `docs/results/judges.md`. SHA-256 of the versions that measured this model:",
        "",
        *(f"- {name}: `{sha256}`" for name, sha256 in judges.items()),
        "",
        *_recipe_rows(recipe, (folder / "losses.png").is_file()),
    ]
    path = folder / "README.md"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _figure_rows(figures: dict, before: dict | None) -> list[str]:
    """The table of single figures, the version before beside this one."""

    def values(f: dict) -> list[str]:
        mean, deviation = f["frechet_lite0"]["generated"]
        return [f"{f['reconstruction_rmse']:.4f}", f"{mean} ± {deviation}", f"{f['diversity_vendi_lite2']['generated']}", f"{f['memorisation']['generated median']}"]

    fd, vendi, nearest = figures["frechet_lite0"], figures["diversity_vendi_lite2"], figures["memorisation"]
    names = (
        "reconstruction RMSE (0–1)",
        "Fréchet distance to held-out renders (Lite0, block 10)",
        "Vendi score (Lite2) at guidance 7.5",
        "nearest training image, median Lite0 distance",
    )
    beside = (
        "",
        f"halves {fd['floor'][0]}, noise {fd['noise'][0]}",
        f"renders of the same captions {vendi['renders of the captions']}, these through the autoencoder {vendi['these through the autoencoder']}",
        f"fresh renders {nearest['fresh renders median']}; all turned and mirrored, among {nearest['training images']} training renders",
    )
    old = values(before) if before else ["–"] * len(names)
    rows = zip(names, values(figures), old, beside, strict=True)
    return ["| figure | value | before | beside |", "|---|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]


def _adherence_rows(figures: dict, key: str, before: dict | None) -> list[str]:
    """A table of adherence, the version before beside this one where it has it."""
    older = (before or {}).get(key, {})
    lines = ["| attribute | generated | renders | relative | relative before |", "|---|---|---|---|---|"]
    for name, row in figures[key].items():
        old = f"{older[name]['relative']:.2f}" if name in older else "–"
        lines.append(f"| {name} | {row['generated']:.3f} | {row['renders']:.3f} | {row['relative']:.2f} | {old} |")
    return lines


def _combination_rows(figures: dict) -> list[str]:
    """The words of the test prompts in new combinations, by both readings; nothing where they were not measured."""
    found = figures.get("combinations")
    if not found:
        return []
    lines = [
        "Captions that join the words of different test prompts anew (the parts that they name): R² relative to that of renders, "
        "read by regressors fitted on renders, and by regressors fitted on the pictures themselves.",
        "",
        "| attribute | relative, fitted on renders | relative, fitted on themselves |",
        "|---|---|---|",
    ]
    rows = zip(found["adherence"].items(), found["own_adherence"].values(), strict=True)
    return [*lines, *(f"| {name} | {strict['relative']:.2f} | {own['relative']:.2f} |" for (name, strict), own in rows), ""]


def _guidance_rows(figures: dict) -> list[str]:
    """The table of guidance scales; nothing where they were not measured."""
    scales = figures.get("guidance", {})
    if not scales:
        return []
    first = next(iter(scales.values()))
    return [
        f"At other guidance scales, {first['images']} images each (so few that the distances compare with each other only; 16 components):",
        "",
        "| guidance | Fréchet distance | mean R² of adherence | of renders |",
        "|---|---|---|---|",
        *(f"| {scale} | {row['frechet']} | {row['adherence']['generated']:.3f} | {row['adherence']['renders']:.3f} |" for scale, row in scales.items()),
        "",
    ]


def trainings(recipe: dict) -> Iterator[dict]:
    """This training, the one that it started from, and so on back to the one that started from nothing; those of an average (`average`) one after the other, each once."""
    seen: list[dict] = []
    ahead = [recipe]
    while ahead:
        training = ahead.pop(0)
        if training and training not in seen:
            seen.append(training)
            yield training
            ahead = [training.get("started_from") or {}, *training.get("averaged", []), *ahead]


def renders_seen(recipe: dict) -> int:
    """Renders that this training, or one that it started from, drew from; all draw from the same ones, from the first on."""
    return max((int(training.get("images", training.get("renders", 0))) for training in trainings(recipe)), default=0)


def _pictures_seen(recipe: dict) -> int:
    """Pictures of a person's own that this training, or one that it started from, was shown."""
    return sum(int(training.get("pictures", 0)) for training in trainings(recipe))


def _numbers(recipe: dict) -> str:
    """A training's settings in words."""
    return ", ".join(f"{k} {v}" for k, v in recipe.items() if not isinstance(v, dict | list))


def _recipe_rows(recipe: dict, curves: bool) -> list[str]:
    """How the model was made and what that took."""
    cost = recipe.get("seconds", {})
    return [
        "## Recipe",
        "",
        *_origins(recipe),
        "",
        *(["Seconds by stage (the longest stretch of each): " + ", ".join(f"{k} {v:.0f}" for k, v in cost.items()) + ".", ""] if cost else []),
        *(["![losses](losses.png)", ""] if curves else []),
        "Encoder: principal components of 8×8 patches in closed form. Decoder: learned on crops (L1 of values and of differences)"
        + (", then against a discriminator on EfficientNet-Lite2's maps. " if any(training.get("sharpen_steps") for training in trainings(recipe)) else ". ")
        + "Denoiser: UNet and a two-layer CLIP text encoder trained together, v-prediction, caption dropout 10 %, made-up words in 15 % of the captions.",
        "",
    ]


def _origins(recipe: dict) -> list[str]:
    """This training and the earlier ones, in words."""
    own, *earlier = trainings(recipe)
    parts, start = own.get("averaged", []), own.get("started_from")
    lines = [f"{number}. {_numbers(training)}{_start(training, earlier)}" for number, training in enumerate(earlier, 1)]
    if parts:
        kind, what = f"average`: the mean of the weights of {len(parts)} trainings", f"They ({_numbered(parts, earlier)}) and what they started from:"
    else:
        kind, what = f"train`: {_numbers(own)}", f"It started from number {_numbered([start], earlier)} of these:" if start else ""
    return [f"`python -m backend base-model {kind}.", "", *([what, "", *lines] if lines else [])]


def _start(training: dict, earlier: Sequence[dict]) -> str:
    start = training.get("started_from")
    return f"; from number {_numbered([start], earlier)}" if start else ""


def _numbered(trainings: Sequence[dict], among: Sequence[dict]) -> str:
    """Places of trainings in a list, counted from 1."""
    return ", ".join(str(among.index(training) + 1) for training in trainings)
