"""Plotly figures of a run, as plain dictionaries `{"data": [...], "layout": {...}}`, from its directory alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from backend.analysis.convergence import plateau
from backend.analysis.series import columns, numbers, present, probe_gains, schedule_lines, smooth, thin
from backend.runs import Run
from backend.runs.events import standing_changes
from backend.runs.tables import PROBED

Figure = dict[str, Any]
# Okabe and Ito's palette, safe for colour-blind readers; dash styles repeat the distinction without colour.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def line(name: str, x: np.ndarray, y: np.ndarray, index: int = 0, **extra: Any) -> dict[str, Any]:
    """One curve in the palette's colour `index`, thinned; `extra` goes into the trace."""
    x, y = thin(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
    style = {"color": PALETTE[index % len(PALETTE)], "dash": DASHES[index % len(DASHES)], "width": 2}
    return {"type": "scatter", "mode": "lines", "name": name, "x": x.tolist(), "y": y.tolist(), "line": style | extra.pop("line", {}), **extra}


def layout(title: str, y_title: str, x_title: str = "Episode", **extra: Any) -> dict[str, Any]:
    """Shared layout: titles on both axes, legend below, room for a phone."""
    return {
        "title": {"text": title},
        "xaxis": {"title": {"text": x_title}},
        "yaxis": {"title": {"text": y_title}},
        "legend": {"orientation": "h", "y": -0.25},
        "margin": {"l": 60, "r": 20, "t": 50, "b": 60},
        **extra,
    }


def marks(run: Run) -> list[dict[str, Any]]:
    """Vertical lines where a setting was changed while the run was training."""
    shapes = []
    for event in standing_changes(run.events()):
        if isinstance(event.get("episode"), (int, float)):
            shapes.append({"type": "line", "x0": event["episode"], "x1": event["episode"], "yref": "paper", "y0": 0, "y1": 1, "line": {"dash": "dot", "width": 1}})
    return shapes


def curves(run: Run, table: str, wanted: Sequence[tuple[str, str]], title: str, y_title: str, **extra: Any) -> Figure:
    """Figure of several columns of one table.

    Args:
        run: the run.
        table: name of the table.
        wanted: (column, name in the legend) in order; columns without numbers are left out.
        title, y_title: words.
        extra: further layout.
    """
    data = columns(run, table, ["episode", *[name for name, _ in wanted]])
    episode = data.get("episode", np.zeros(0))
    traces = [line(label, episode, data[name], i) for i, (name, label) in enumerate(wanted) if present(data.get(name))]
    return {"data": traces, "layout": layout(title, y_title, shapes=marks(run), **extra)}


def rewards(run: Run) -> Figure:
    """Raw group score with its moving average, base and reference levels and the plateau, if any."""
    data = columns(run, "policy_updates", ["episode", "batch_score", "base_level", "reference_level", "best_score", "trend_from"])
    episode = data.get("episode", np.zeros(0))
    score = data.get("batch_score", np.zeros(0))
    traces = []
    if present(score):
        traces.append(line("group score", episode, score, 5, opacity=0.5, line={"dash": "solid", "width": 1}))
        traces.append(line("moving average", episode, smooth(score), 0))
    for index, (name, label) in enumerate((("best_score", "best so far"), ("base_level", "base model"), ("reference_level", "reference set"))):
        if present(data.get(name)):
            traces.append(line(label, episode, data[name], index + 2))
    figure = {"data": traces, "layout": layout(f"Reward, {run.config.mode}", f"{run.config.metric} (raw group score)", shapes=marks(run))}
    at = plateau(data)
    if at is not None:
        figure["layout"]["annotations"] = [{"x": at, "y": 1, "yref": "paper", "text": f"plateau from {at:.0f}", "showarrow": False}]
        figure["layout"]["shapes"].append({"type": "line", "x0": at, "x1": at, "yref": "paper", "y0": 0, "y1": 1, "line": {"dash": "dash", "color": PALETTE[3]}})
    return figure


def _probed(run: Run, wanted: Sequence[tuple[str, str]], title: str, y_title: str) -> Figure:
    """What probes gained over the base's own; `wanted` as for `curves`, of the columns of `probe_gains`."""
    raw, _, _ = run.read_columns("policy_updates", 0, ["episode", *(f"probe_{name}" for name in PROBED)])
    found = {name: numbers(values) for name, values in probe_gains(run.events(), raw).items()}
    kept = [(i, label, found[name]) for i, (name, label) in enumerate(wanted) if present(found[name])]
    traces = [line(label, numbers(raw["episode"]), values, i, mode="lines+markers", marker={"size": 7, "color": PALETTE[i]}) for i, label, values in kept]
    return {"data": traces, "layout": layout(title, y_title, shapes=marks(run))}


def gains(run: Run) -> Figure:
    """Score of each probe minus the base's on the same prompts and seeds."""
    return _probed(run, [("gain_score", "gain in score")], "Gain of the probes over the base", f"{run.config.metric} (difference)")


def costs(run: Run) -> Figure:
    """Realism and prompt relevance of each probe minus the base's: what variety must not cost."""
    return _probed(run, [("gain_quality", "realism"), ("gain_adherence", "prompt relevance")], "What variety must not cost", "probe minus base")


def components(run: Run) -> Figure:
    """Mean of every reward component over the episodes, each in its own raw unit divided by its own spread."""
    data = columns(run, "policy_updates")
    episode = data.get("episode", np.zeros(0))
    traces = []
    for name in sorted(key for key in data if key.startswith("component_") and present(data[key])):
        values = data[name]
        scale = float(np.nanstd(values)) or 1.0
        traces.append(line(name.removeprefix("component_"), episode, smooth((values - values[np.isfinite(values)][0]) / scale), len(traces)))
    return {"data": traces, "layout": layout("Reward components", "change since the start, in standard deviations", shapes=marks(run))}


def losses(run: Run) -> Figure:
    """Actor, critic and entropy losses."""
    wanted = [("actor_loss", "actor"), ("critic_loss", "critic"), ("entropy_loss", "entropy")]
    return curves(run, "policy_updates", wanted, "Losses", "loss")


def gradients(run: Run) -> Figure:
    """Gradient norms before and after clipping, and the share of clipped updates."""
    wanted = [("grad_norm_actor", "actor, before clipping"), ("grad_norm_actor_after", "actor, after clipping"), ("grad_norm_critic", "critic")]
    figure = curves(run, "policy_updates", wanted, "Gradient norms and clipping", "norm")
    figure["layout"]["yaxis"]["type"] = "log"
    data = columns(run, "gradient_log", ["episode", "grad_clipped"])
    raw, _, _ = run.read_columns("gradient_log", 0, ["grad_clipped"])
    clipped = np.array([str(value).lower() in ("true", "1", "1.0") for value in raw.get("grad_clipped", [])], dtype=np.float64)
    if len(clipped):
        figure["data"].append(line("clipped updates (share)", data["episode"], smooth(clipped), 4, yaxis="y2"))
        figure["layout"]["yaxis2"] = {"overlaying": "y", "side": "right", "range": [0, 1], "title": {"text": "share clipped"}, "showgrid": False}
    return figure


def entropy(run: Run) -> Figure:
    """Policy entropy where the policy learns its spread; the diversity of the samples for all."""
    figure = curves(run, "policy_updates", [("entropy", "policy entropy")], "Entropy and sample diversity", "nats per action element")
    if run.config.mode == "LORA_UNET":  # its spread is the scheduler's, so its entropy is constant by construction
        figure["data"] = []
    data = columns(run, "policy_updates", ["episode", "sample_diversity"])
    if present(data.get("sample_diversity")):
        figure["data"].append(line("sample diversity", data["episode"], data["sample_diversity"], 1, yaxis="y2"))
        figure["layout"]["yaxis2"] = {"overlaying": "y", "side": "right", "title": {"text": "sample diversity"}, "showgrid": False}
    return figure


def trust_region(run: Run) -> Figure:
    """KL divergence to the old policy and to the base, in nats per denoising step."""
    return curves(run, "policy_updates", [("kl_divergence", "to the old policy"), ("kl_base", "to the base")], "KL divergence", "nats per denoising step")


def clipping(run: Run) -> Figure:
    """Share of ratios beyond the clip range, upward and downward (cut where sampled credit is trained on), and the ratio's spread."""
    wanted = [("clip_fraction_up", "clipped above"), ("clip_fraction_down", "clipped below"), ("ratio_std", "ratio std"), ("explained_variance", "explained variance")]
    return curves(run, "policy_updates", wanted, "Clip fraction and critic", "share")


def ratio(run: Run) -> Figure:
    """New over old policy for the same actions."""
    return curves(run, "policy_updates", [("ratio_mean", "mean"), ("ratio_max", "largest")], "Probability ratio", "ratio")


def credit(run: Run) -> Figure:
    """Spread of the advantages, and which groups were dropped for having none."""
    return curves(run, "policy_updates", [("advantage_std", "advantage, std"), ("degenerate_share", "degenerate group")], "Credit", "standard deviation, share")


def distance(run: Run) -> Figure:
    """How far the policy has gone from the base."""
    return curves(run, "policy_updates", [("distance_to_base", "shift of the mean action")], "Distance to the base", "standard deviations of the step's noise")


def noise_scale(run: Run) -> Figure:
    """Group size at which noise and signal of the gradient weigh the same."""
    return curves(run, "policy_updates", [("gradient_noise_scale", "noise scale")], "Gradient noise scale", "images")


def schedule(run: Run) -> Figure:
    """Implied betas of the latest sample's prompts beside the stock schedule's, where the policy plans them; else without data."""
    drawn = [line(name, np.arange(1, len(betas) + 1), betas, i) for i, (name, betas) in enumerate(schedule_lines(run.sampled_policy()).items())]
    return {"data": drawn, "layout": layout("Learned schedule", "implied beta", "Denoising step")}


def memory(run: Run) -> Figure:
    """Memory of the process and of the device."""
    wanted = [("resident_mib", "process"), ("peak_mib", "process, peak"), ("device_allocated_mib", "device, allocated"), ("device_reserved_mib", "device, reserved")]
    return curves(run, "memory_usage", wanted, "Memory", "MiB")


def time_per_episode(run: Run) -> Figure:
    """Seconds that each episode took."""
    return curves(run, "policy_updates", [("time_per_episode", "seconds")], "Time per episode", "s")


FIGURES: Mapping[str, Callable[[Run], Figure]] = MappingProxyType(
    {
        "rewards": rewards,
        "gains": gains,
        "costs": costs,
        "components": components,
        "losses": losses,
        "gradients": gradients,
        "entropy": entropy,
        "kl": trust_region,
        "clipping": clipping,
        "ratio": ratio,
        "credit": credit,
        "distance": distance,
        "noise_scale": noise_scale,
        "schedule": schedule,
        "memory": memory,
        "time": time_per_episode,
    }
)
