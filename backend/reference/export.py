"""The set's images and features as NPZ files, and its feature plots as HTML and PNG."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from backend.errors import InputError
from backend.reference.dataset import ReferenceSet
from backend.reference.embedding import image_features
from backend.reference.statistics import FeatureView, view_features

IMAGES_NPZ = "reference_crater_images.npz"


def features_npz_name(extractor: str) -> str:
    """File name of the features of an extractor."""
    return f"reference_crater_features_{extractor}.npz"


def save_images_npz(reference: ReferenceSet, path: Path) -> Path:
    """Write `images` uint8 `[M, h, w, 3]`, `captions`, `files`, `sha256` and `simulated` to an NPZ.

    Raises:
        InputError: the file cannot be written.
    """
    return _save_npz(
        path,
        images=reference.images,
        captions=np.array(reference.captions),
        files=np.array([entry["file"] for entry in reference.manifest["images"]]),
        sha256=np.array([entry["sha256"] for entry in reference.manifest["images"]]),
        simulated=np.array(reference.simulated),
    )


def save_features_npz(reference: ReferenceSet, extractor: str, path: Path, device: str = "cpu") -> Path:
    """Compute features and write them to an NPZ.

    The arrays: `features` float32 `[M, D]` (raw), their `mean` and `std` `[D]`, the images' `sha256`, and `extractor`,
    `layer` and `weights_sha256`, which name what computed them.

    Raises:
        InputError: unknown extractor or missing weights, or the file cannot be written.
    """
    return write_features_npz(reference, *image_features(reference.images, extractor, device), path)


def write_features_npz(reference: ReferenceSet, features: np.ndarray, described: dict[str, Any], path: Path) -> Path:
    """Write features that are computed already, as `save_features_npz` does.

    Args:
        reference: whose images they are of.
        features: float32 `[M, D]`.
        described: what the extractor says of itself.
        path: file to write, ending in .npz.

    Raises:
        InputError: the file cannot be written.
    """
    return _save_npz(
        path,
        features=features,
        mean=features.mean(axis=0, dtype=np.float64),
        std=features.std(axis=0, dtype=np.float64, ddof=1),
        sha256=np.array([entry["sha256"] for entry in reference.manifest["images"]]),
        extractor=np.array(described["name"]),
        layer=np.array(described["layer"]),
        weights_sha256=np.array(described["sha256"]),
    )


def _save_npz(path: Path, **arrays: np.ndarray) -> Path:
    if path.suffix != ".npz":
        raise InputError(f"{str(path)!r} does not end in .npz: give the output that ending")
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be written ({error.strerror}): choose another place") from error
    return path


def plot_features(reference: ReferenceSet, extractor: str, folder: Path, device: str = "cpu", seed: int = 0) -> list[Path]:
    """Draw PCA, t-SNE and pairwise distances as `reference_features_<extractor>.html` and `.png`.

    Raises:
        InputError: unknown extractor or missing weights, or the folder cannot be written.
    """
    features, described = image_features(reference.images, extractor, device)
    view = view_features(features, seed)
    title = f"{reference.label}, {described['name']} ({described['layer']})"
    page, png = (folder / f"reference_features_{extractor}.{ending}" for ending in ("html", "png"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        feature_figure(reference, view, title).write_html(page, include_plotlyjs=True)
        _draw_png(reference, view, title, png)
    except OSError as error:
        raise InputError(f"{str(folder)!r} cannot be written ({error.strerror}): choose another folder with --output") from error
    return [page, png]


def _groups(reference: ReferenceSet) -> list[str]:
    """What the points are coloured by: the view where the set knows it."""
    entries = reference.manifest["images"]
    if all("parameters" in entry for entry in entries):
        return [str(entry["parameters"].get("view", "")) for entry in entries]
    return ["image"] * len(entries)


def _panels(view: FeatureView) -> list[tuple[str, np.ndarray]]:
    first, second = (100 * share for share in (*view.explained[:2], 0.0, 0.0)[:2])
    panels = [(f"PCA ({first:.0f} % and {second:.0f} % of the variance)", view.principal)]
    if len(view.neighbours):
        panels.append(("t-SNE (only neighbourhoods mean anything)", view.neighbours))
    return panels


def feature_figure(reference: ReferenceSet, view: FeatureView, title: str) -> Any:
    """The plots as one plotly figure with the captions under the pointer."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    panels, groups = _panels(view), np.array(_groups(reference))
    names = [name for name, _ in panels] + ["Pairwise distances", "Distribution of the distances"]
    figure = make_subplots(rows=2, cols=2, subplot_titles=names)
    hover = np.array([f"{entry['file']}<br>{escape(entry['caption'])}" for entry in reference.manifest["images"]])
    places = [(1, 1), (1, 2), (2, 1), (2, 2)]
    for (_, points), (row, column) in zip(panels, places, strict=False):
        for color, group in zip(_COLORS, np.unique(groups), strict=False):
            inside = groups == group
            look = {"mode": "markers", "marker": {"color": color, "size": 8}, "name": str(group), "showlegend": column == 1}
            figure.add_trace(go.Scatter(x=points[inside, 0], y=points[inside, 1], text=hover[inside], hoverinfo="text", **look), row=row, col=column)
    row, column = places[len(panels)]
    figure.add_trace(go.Heatmap(z=view.distances, colorscale="Viridis", colorbar={"len": 0.45, "y": 0.2, "x": 0.46}), row=row, col=column)
    row, column = places[len(panels) + 1]
    figure.add_trace(go.Histogram(x=view.distances[np.triu_indices(len(view.distances), 1)], nbinsx=40, showlegend=False, marker={"color": _COLORS[0]}), row=row, col=column)
    return figure.update_layout(title=escape(title), height=900, width=1100, template="plotly_white")


_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe & Ito 2008: told apart with any colour vision


def _draw_png(reference: ReferenceSet, view: FeatureView, title: str, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 9), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2).ravel()
    groups = np.array(_groups(reference))
    for axis, (name, points) in zip(axes, _panels(view), strict=False):
        for color, group in zip(_COLORS, np.unique(groups), strict=False):
            axis.scatter(*points[groups == group].T, s=26, color=color, label=str(group))
        axis.set_title(name, fontsize=10)
        axis.legend(frameon=False)
    shown = axes[2].imshow(view.distances)
    axes[2].set_title("Pairwise distances", fontsize=10)
    figure.colorbar(shown, ax=axes[2])
    axes[3].hist(view.distances[np.triu_indices(len(view.distances), 1)], bins=40, color=_COLORS[0])
    axes[3].set_title("Distribution of the distances", fontsize=10)
    if not len(view.neighbours):
        axes[1].axis("off")
    figure.suptitle(title, fontsize=10)
    figure.savefig(path)
