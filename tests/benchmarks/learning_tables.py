"""Tables and charts of the learning benchmark, from the arms that are done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backend.analysis.convergence import slope_interval
from backend.analysis.figures import layout, line
from backend.analysis.series import smooth
from backend.analysis.static import write_png
from backend.config import make_config
from backend.errors import InputError
from backend.evaluation.bootstrap import Interval, paired_bootstrap, seed_interval
from backend.evaluation.evaluate import BOOTSTRAP_SEED
from backend.evaluation.grid_search import ceiling_sentence, markdown_grid
from backend.evaluation.group_score import GROUP
from tests.benchmarks.common import arm_results, machine_line, write

MODES = ("LORA_UNET", "DIVERSITY_POLICY", "SCHEDULER_POLICY")
ABLATED = """All arms are scored by the default reward on test prompts, whatever they were trained on, with 256 images each of base and tuned model (more for the
policies above). Not every reward and credit can be differentiated: an arm on sampled credit differs from `default` in the estimator too. Compare it with `sampled-credit`,
and one without a twin (any credit but the difference reward's) with `prompt-baseline`. `mixture` is the average of what the two seeds of `default` learned."""
LEARNED_BY = 50  # the original's policies were flat from here on


def between(interval: Mapping[str, float | None] | None, scale: float = 1.0, unit: str = "") -> str:
    """`estimate (low to high)`."""
    if not interval or interval["low"] is None:
        return "–"
    return f"{scale * interval['estimate']:.3g}{unit} ({scale * interval['low']:.3g} to {scale * interval['high']:.3g})"


def row_of(verdict: Mapping[str, Any], begins: str) -> dict[str, Any]:
    """The row of a verdict's table whose measure begins so; empty where there is none."""
    return next((row for row in verdict["table"] if row["measure"].startswith(begins)), {"estimate": None, "low": None, "high": None, "base": None, "tuned": None})


def late_slope(curve: Sequence[float]) -> dict[str, float | None]:
    """Rise of a score per episode after episode 50 with its 95 % interval, None where there are too few episodes for one."""
    slope, low, high = slope_interval(curve[LEARNED_BY:])
    return {"slope": slope, "low": low if np.isfinite(low) else None, "high": high if np.isfinite(high) else None}


def rise(found: Mapping[str, float | None]) -> str:
    """A slope with its interval, per hundred episodes."""
    return between({**found, "estimate": found["slope"]}, 100)


def seeds_table(results: Mapping[str, dict[str, Any]]) -> list[str]:
    """One line per training run of the policies."""
    head = [
        "Policy",
        "Seed",
        "Images",
        "Raw score, base",
        "tuned",
        "z",
        "Slope after episode 50, per 100 episodes",
        "State",
        "Gap closed (95 %)",
        "Precision, points",
        "Adherence",
        "its slope",
        "unexplained variance of its readings",
        "Training",
    ]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for arm in (results[name] for name in results if results[name].get("name") in MODES):
        verdict, raw = arm["verdict"], arm["raw"]
        adherence = between(verdict["adherence"]["relative"], 100, " %") if verdict["adherence"].get("relative") else "–"
        cells = [arm["name"], arm["seed"], f"{arm['images']:,}", f"{raw['base']:.4f}", f"{raw['tuned']:.4f}", f"{raw['z']:.1f}", rise(arm["after_50"]), arm["state"]]
        why = [between(row_of(verdict, begins), 100, " %") for begins in ("… readings follow", "… readings vary")]
        cells += [between(verdict["gap"].get("lite2"), 100, " %"), between(row_of(verdict, "Precision")), adherence, *why, f"{arm['minutes']:.0f} min"]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return lines


def gap_of(verdict: Mapping[str, Any], judge: str, begins: str) -> str:
    """Share of the gap that a judge sees closed, or that it sees none: the base is as varied as the ceiling."""
    row = row_of(verdict, begins)
    if row["ceiling"] <= row["base"]:
        return f"no gap ({row['base']:.3g}, ceiling {row['ceiling']:.3g}, tuned {row['tuned']:.3g})"
    return between(verdict["gap"].get(judge), 100, " %")


def together_table(together: Mapping[str, dict[str, Any] | None], results: Mapping[str, dict[str, Any]], trivial: dict[str, Any] | None) -> list[str]:
    """All seeds of each policy in one comparison; the slope is that of the mean of their curves, in which the luck of the prompts is smaller."""
    lines = [
        "| Policy | Gap closed, Lite2 | wavelets | attributes | Student's t over seeds | Precision, points | Recall | Coverage | Realism | Adherence | Guards kept "
        "| Slope after episode 50, per 100 episodes |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    for mode, verdict in together.items():
        if verdict is None:
            continue
        gaps = [gap_of(verdict, name, begins) for name, begins in (("lite2", "Vendi score, Lite2"), ("wavelet", "Vendi score, wavelets"), ("attributes", "Spread of"))]
        runs = [arm for arm in results.values() if arm.get("name") == mode]
        single = [arm["verdict"]["gap_closed"] for arm in runs]
        spread = between(seed_interval(single).to_dict(), 100, " %") if len(single) > 1 and None not in single else "–"
        kept = "yes" if verdict["guards"]["passed"] else "no"
        guarded = [*(between(row_of(verdict, begins)) for begins in ("Precision", "Recall", "Coverage", "Realism")), between(verdict["adherence"]["relative"], 100, " %")]
        lines.append(f"| {mode} | {' | '.join([*gaps, spread, *guarded, kept, rise(late_slope(np.mean([arm['curve'] for arm in runs], axis=0)))])} |")
    if trivial is not None:
        best = next(c for c in trivial["candidates"] if c["guidance"] == trivial["best"]["guidance"])
        lines.append(f"| constant guidance {best['guidance']:g} | {between(best['gap'], 100, ' %')} | – | – | – | – | – | – | – | – | yes | – |")
    return lines


def ablation_table(results: Mapping[str, dict[str, Any]]) -> list[str]:
    """One line per ablation, seeds averaged; ± is half the difference of two seeds, and missing where there is one. Gaps and adherence are relative, in percent."""
    names = list(dict.fromkeys(arm["name"] for arm in results.values() if arm.get("name") and arm["name"] not in MODES))
    head = ["Arm", "Update", "Seeds", "Raw score gain", "Gap closed, Lite2, %", "Precision, points", "Adherence, %", "its slope, %", "Seconds an episode"]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for name in names:
        arms = [arm for arm in results.values() if arm.get("name") == name]
        gains = np.array([arm["raw"]["gain"] for arm in arms])
        rows = [[row_of(arm["verdict"], begins)["estimate"] for arm in arms] for begins in ("Diversity gap closed, lite2", "Precision", "Caption adherence", "… readings follow")]
        gap, precision, adherence, slope = np.array(rows, dtype=float)
        cells = [f"{v.mean():+.3g}" + (f" ± {v.std():.2g}" if len(v) > 1 else "") for v in (gains, 100 * gap, precision, 100 * adherence, 100 * slope)]
        update = "pathwise" if make_config(arms[0]["settings"]).pathwise_share else "sampled credit"
        lines.append(f"| {name} | {update} | {len(arms)} | {' | '.join(cells)} | {np.mean([arm['seconds_per_episode'] for arm in arms]):.1f} |")
    return lines


def share_of_constant(results: Mapping[str, dict[str, Any]], constant: Mapping[str, Any]) -> Interval:
    """Share of the best constant's raw gain that SCHEDULER_POLICY reaches, over groups and training seeds."""
    gains = np.array([arm["raw"]["gains"] for arm in results.values() if arm.get("name") == "SCHEDULER_POLICY"])
    return paired_bootstrap([gains, constant["raw"]["gains"]], np.random.default_rng(BOOTSTRAP_SEED), statistic=lambda tuned, best: tuned / best)


def draw_curves(results: Mapping[str, dict[str, Any]], folder: Path) -> None:
    """Learning curves as PNG: the policies, and the ablations."""
    groups = {"policies": [a for a in results.values() if a.get("name") in MODES], "ablations": [a for a in results.values() if a.get("name") and a["name"] not in MODES]}
    for name, arms in groups.items():
        labels = list(dict.fromkeys(arm["name"] for arm in arms if "curve" in arm))  # a mixture is not trained
        traces = []
        for index, label in enumerate(labels):
            curves = [arm["curve"] for arm in arms if arm["name"] == label]
            shortest = min(map(len, curves))
            mean = smooth(np.mean([curve[:shortest] for curve in curves], axis=0))
            traces.append(line(label, np.arange(1, shortest + 1), mean, index))
        if traces:
            write_png({"data": traces, "layout": layout(f"Raw group score, {name} (mean over seeds)", "score of its own reward")}, folder / f"curves_{name}.png")


def write_tables(folder: Path, arms: Sequence[str], together: Mapping[str, dict[str, Any] | None]) -> str:
    """Write `learning.md`, `learning/summary.json` and the curves; return the Markdown.

    Raises:
        InputError: no arm is done yet.
    """
    results = arm_results(folder / "learning", arms)
    if not results:
        raise InputError("no arm is done yet: run the benchmark without --table first")
    grid, constant, trivial, reach = (results.pop(name, None) for name in ("grid", "constant", "trivial", "attainable"))
    machines = dict.fromkeys(machine_line(arm["machine"]) for arm in (*results.values(), grid, constant, trivial, reach) if arm is not None)
    parts = ["# Learning, measured by judges that the reward never saw", f"Machines: {'; '.join(machines)}.\nCommand: `python -m tests.benchmarks.bench_learning`."]
    if any(arm.get("name") in MODES for arm in results.values()):
        parts += ["## Policies at the defaults", "\n".join(seeds_table(results)), "## All training seeds together", "\n".join(together_table(together, results, trivial))]
    summary: dict[str, Any] = {"together": together, "trivial": trivial and trivial["best"], "attainable": reach and reach["gap"]}
    if reach is not None:
        parts.append(f"A perfect denoiser would close {between(reach['gap'], 100, ' %')} of the gap: the rest is lost in the autoencoder, where no policy acts.")
    if grid is not None:
        groups = grid["images"] // GROUP  # the policy is compared on the images that the grid drew
        gains = [np.mean(arm["raw"]["gains"][:groups]) for arm in results.values() if arm.get("name") == "SCHEDULER_POLICY"]
        if gains and grid["best"]["z"] > 2:
            summary["scheduler_share_of_ceiling"] = float(np.mean(gains) / grid["best"]["gain"])
        said = f"Gain of the raw score over the base ({grid['images']} images, ± two standard errors). {ceiling_sentence(grid, gains)}"
        if constant is not None and gains:
            summary["scheduler_share"] = share_of_constant(results, constant).to_dict()
            said += f"\nOn {constant['images']} images, paired by groups, over all seeds: {between(summary['scheduler_share'], 100, ' %')} of that constant's gain."
        parts += ["## Constant guidance and spacing", said, markdown_grid(grid)]
    if any(arm.get("name") and arm["name"] not in MODES for arm in results.values()):
        parts += ["## Ablations (LORA_UNET, 60 episodes)", ABLATED, "\n".join(ablation_table(results))]
    draw_curves(results, folder / "learning")
    write(folder / "learning" / "summary.json", summary)
    text = "\n\n".join(parts) + "\n"
    (folder / "learning.md").write_text(text, encoding="utf-8")
    return text
