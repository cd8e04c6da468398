"""Maps of feature space and grids of samples: where base, tuned and reference images lie, and how a run moved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from backend.analysis.figures import PALETTE, Figure, layout
from backend.errors import InputError
from backend.evaluation.image_statistics import crater_attributes, wavelet_statistics
from backend.evaluation.samples import EVOLUTION, spread_samples, tiles
from backend.runs import Run

SYMBOLS = ("circle", "diamond", "cross", "square", "triangle-up", "x")


def project(features: np.ndarray, method: Literal["pca", "tsne"] = "pca", seed: int = 0) -> np.ndarray:
    """Two coordinates of every row: [N, D] -> [N, 2].

    PCA keeps distances as far as two axes can; t-SNE (van der Maaten and Hinton 2008, started from PCA, perplexity at
    most a third of the points) keeps neighbourhoods, and its distances between groups mean nothing.

    Raises:
        InputError: fewer than three rows, or an unknown method.
    """
    if len(features) < 3:
        raise InputError(f"{len(features)} images make no map: give at least 3")
    if method not in ("pca", "tsne"):
        raise InputError(f"unknown map {method!r}: choose pca or tsne")
    scaled = (features - features.mean(0)) / (features.std(0) + 1e-9)
    if method == "pca":
        return PCA(2, random_state=seed).fit_transform(scaled)
    reduced = PCA(min(30, *scaled.shape), random_state=seed).fit_transform(scaled)
    return TSNE(2, init="pca", perplexity=min(30.0, (len(features) - 1) / 3), random_state=seed).fit_transform(reduced)


def feature_map(groups: Mapping[str, np.ndarray], method: Literal["pca", "tsne"] = "pca", title: str = "Feature map", seed: int = 0) -> Figure:
    """Scatter of several sets of images in one projection; `customdata` is [set, index], for showing the picture on hover.

    Args:
        groups: name -> features [N, D], all with the same D.
        method: projection.
        title: words.
        seed: of the projection.
    """
    points = project(np.concatenate(list(groups.values())), method, seed)
    traces, start = [], 0
    for index, (name, features) in enumerate(groups.items()):
        part = points[start : start + len(features)]
        start += len(features)
        marker = {"color": PALETTE[index % len(PALETTE)], "symbol": SYMBOLS[index % len(SYMBOLS)], "size": 7, "opacity": 0.75}
        custom = [[name, i] for i in range(len(part))]
        traces.append({"type": "scatter", "mode": "markers", "name": name, "x": part[:, 0].tolist(), "y": part[:, 1].tolist(), "marker": marker, "customdata": custom})
    axis = "PCA" if method == "pca" else "t-SNE"
    return {"data": traces, "layout": layout(title, f"{axis} 2", f"{axis} 1")}


def sample_features(run: Run, most: int = 8) -> tuple[dict[str, np.ndarray], str]:
    """Features of the run's fixed-seed samples at up to `most` episodes, evenly spaced.

    Returns:
        `episode n` -> [N, D], and the features' name: those of the judge where `plots/evolution.npz` has them, otherwise
        wavelet statistics and crater attributes, which need no network.
    """
    stored = run.plots_dir / EVOLUTION
    if stored.is_file():
        with np.load(stored, allow_pickle=False) as data:
            return {key: data[key] for key in data.files if key != "name"}, str(data["name"])
    groups = {}
    for sample in spread_samples(run, most):
        images = tiles(sample.png, sample.read())
        groups[f"episode {sample.episode}"] = np.concatenate([wavelet_statistics(images, _levels(images)), crater_attributes(images)], axis=1)
    return groups, "wavelet statistics and crater attributes"


def _levels(images: np.ndarray) -> int:
    return max(1, min(5, int(np.log2(min(images.shape[1:3])))))


def evolution(run: Run, method: Literal["pca", "tsne"] = "tsne") -> Figure:
    """How the fixed-seed samples move through feature space as training goes on."""
    groups, name = sample_features(run)
    if sum(map(len, groups.values())) < 3:
        return {"data": [], "layout": layout("Feature evolution (no samples yet)", "", "")}
    figure = feature_map(groups, method, f"Feature evolution ({name})")
    for index, trace in enumerate(figure["data"]):  # one hue that darkens with time, since episodes are ordered
        share = index / max(len(figure["data"]) - 1, 1)
        trace["marker"]["color"] = f"rgb({int(225 - 225 * share)},{int(235 - 121 * share)},{int(245 - 67 * share)})"
        trace["marker"]["line"] = {"color": "#333", "width": 0.5}
    return figure


def sample_grid(run: Run, images: int = 6, episodes: int = 8) -> Image.Image | None:
    """One picture: a row for each of up to `episodes` recorded episodes, the same seeds in each column.

    Args:
        run: the run.
        images: columns.
        episodes: rows.

    Returns:
        The picture, or None where nothing was sampled yet.
    """
    rows = [(sample.episode, tiles(sample.png, sample.read())[:images]) for sample in spread_samples(run, episodes)]
    if not rows:
        return None
    height, width = rows[0][1].shape[1:3]
    label, gap = 90, 4
    sheet = Image.new("RGB", (label + images * (width + gap), len(rows) * (height + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (episode, pictures) in enumerate(rows):
        pen.text((6, row * (height + gap) + height // 2), f"episode {episode}", fill="black")
        for column, picture in enumerate(pictures):
            sheet.paste(Image.fromarray(picture), (label + column * (width + gap), row * (height + gap)))
    return sheet
