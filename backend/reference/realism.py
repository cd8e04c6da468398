"""How near rendered pictures come to real ones: power spectra, slopes, contrast, patch components, feature distance.

    python -m backend.reference.realism --real DIR --out docs/figures/realism_themis.png [--sensor themis] [--count 220] [--seed 1]

DIR holds PNG or JPEG crops with a crater in the middle. The figure and the JSON file beside it hold statistics only, no pictures."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backend.errors import InputError
from backend.reference.renderer import SENSORS, render_batch, sample_parameters

SIZE = 128
SUFFIXES = {".png", ".jpg", ".jpeg"}


def load_grey(folder: Path) -> np.ndarray:
    """Images of a folder as grey squares, float32 [N, 128, 128] in [0, 1].

    Raises InputError if the folder is missing or holds fewer than 20 images."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; --real names a folder of real crater pictures")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if len(files) < 20:
        raise InputError(f"{folder} holds {len(files)} images; statistics need at least 20")
    out = []
    for path in files:
        with Image.open(path) as image:
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            grey = image.convert("L").crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
            out.append(np.asarray(grey, dtype=np.float32) / 255.0)
    return np.stack(out)


def rendered_grey(sensor: str, count: int, seed: int) -> np.ndarray:
    """Renders with an instrument's settings, seen from above, float32 [N, 128, 128] in [0, 1]."""
    rng = np.random.default_rng(seed)
    params = [sample_parameters(rng, sensor=sensor, view="aerial") for _ in range(count)]
    images = render_batch(params, [seed * 1_000_003 + i for i in range(count)], size=SIZE)
    return (images.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)) / 255.0


def power_spectrum(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cycles per frame [F] and the mean log10 power [F] of images [N, s, s], Hann-windowed, averaged over rings."""
    size = images.shape[1]
    window = np.hanning(size)[:, None] * np.hanning(size)[None]
    centred = images - images.mean((1, 2), keepdims=True)
    power = np.abs(np.fft.fft2(centred * window)) ** 2 / size**2
    k = np.fft.fftfreq(size) * size
    ring = np.hypot(k[:, None], k[None]).astype(int)
    rings = np.arange(1, size // 2)
    means = np.stack([power[:, ring == r].mean(1) for r in rings], 1)
    return rings, np.log10(means + 1e-12).mean(0)


def slopes(images: np.ndarray) -> np.ndarray:
    """Brightness gradient per pixel of every pixel, flat."""
    down, right = np.gradient(images, axis=(1, 2))
    return np.hypot(down, right).ravel()


def contrasts(images: np.ndarray) -> np.ndarray:
    """Standard deviation of each image [N]."""
    return images.std((1, 2))


def patch_variance(images: np.ndarray, side: int = 8) -> np.ndarray:
    """Share of the variance of side × side patches that the first 1, 2, … principal components keep."""
    n, size = len(images), images.shape[1] // side
    patches = images[:, : size * side, : size * side].reshape(n, size, side, size, side).transpose(0, 1, 3, 2, 4).reshape(-1, side * side)
    eigen = np.linalg.eigvalsh(np.cov((patches - patches.mean(0)).T))[::-1]
    return np.cumsum(eigen) / eigen.sum()


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    """Fréchet distance of two Gaussian fits to features [N, D] and [M, D] (Dowson & Landau 1982; Heusel et al. 2017, arXiv:1706.08500)."""
    from scipy.linalg import sqrtm

    cov_a, cov_b = np.cov(first.T), np.cov(second.T)
    root = np.real(sqrtm(cov_a @ cov_b))
    return float(((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2.0 * root))


def feature_distance(images: np.ndarray, real: np.ndarray, dims: int = 48, count: int = 110, draws: int = 10) -> dict[str, float]:
    """Fréchet distance of images [N, s, s] to real ones [M, s, s] on EfficientNet-Lite0 block 10, standardised by the real set and projected on its first `dims` components.

    Mean and standard deviation over `draws`: `distance` of subsets of `count` images to the whole real set, `floor` between random halves of the real set, and
    `beside_floor` of as many images as a half has to a half. A distance shrinks with the number of images, so only the last two compare."""
    import torch

    from backend.features.load import load_extractor

    extractor = load_extractor("efficientnet_lite0")

    def features(grey: np.ndarray) -> np.ndarray:
        return extractor(torch.from_numpy(np.ascontiguousarray(np.repeat(grey[:, None], 3, axis=1)))).double().numpy()

    real_rows, rows = features(real), features(images)
    mean, std = real_rows.mean(0), real_rows.std(0) + 1e-6
    axes = np.linalg.svd((real_rows - mean) / std, full_matrices=False)[2][:dims].T
    real_rows, rows = (real_rows - mean) / std @ axes, (rows - mean) / std @ axes
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {"distance": [frechet(rows[rng.permutation(len(rows))[:count]], real_rows) for _ in range(draws)], "floor": [], "beside_floor": []}
    half = len(real_rows) // 2
    for _ in range(draws):
        order = rng.permutation(len(real_rows))
        found["floor"].append(frechet(real_rows[order[:half]], real_rows[order[half:]]))
        found["beside_floor"].append(frechet(rows[rng.permutation(len(rows))[:half]], real_rows[order[half:]]))
    figures = {name: float(np.mean(values)) for name, values in found.items()} | {f"{name}_std": float(np.std(values)) for name, values in found.items()}
    return figures | {"components": axes.shape[1]}


def summary(images: np.ndarray) -> dict[str, Any]:
    """The statistics of a set as plain numbers."""
    rings, power = power_spectrum(images)
    kept = patch_variance(images)
    band = (rings >= 4) & (rings <= 30)
    return {
        "images": len(images),
        "brightness_median": float(np.median(images.mean((1, 2)))),
        "contrast_deciles": [float(v) for v in np.percentile(contrasts(images), [10, 50, 90])],
        "gradient_mean": float(slopes(images).mean()),
        "spectral_slope_4_30": float(np.polyfit(np.log10(rings[band]), power[band], 1)[0]),
        "patch_variance_4_8_16": [float(kept[i - 1]) for i in (4, 8, 16)],
    }


def draw_figure(real: np.ndarray, rendered: np.ndarray, title: str, path: Path) -> None:
    """Power spectrum, gradient and contrast distributions of both sets, side by side, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), dpi=110, layout="constrained")
    axes = figure.subplots(1, 3)
    for images, label, colour in ((real, f"real ({len(real)})", "#2b4c7e"), (rendered, f"rendered ({len(rendered)})", "#c1440e")):
        rings, power = power_spectrum(images)
        axes[0].plot(rings, power, color=colour, label=label)
        axes[1].hist(slopes(images), bins=np.linspace(0.0, 0.25, 60), density=True, histtype="step", color=colour, label=label)
        axes[2].hist(contrasts(images), bins=np.linspace(0.0, 0.4, 25), density=True, histtype="step", color=colour, label=label)
    axes[0].set(xscale="log", xlabel="cycles per frame", ylabel="log10 power", title="Power spectrum")
    axes[1].set(yscale="log", xlabel="brightness gradient per pixel", ylabel="density", title="Slopes of brightness")
    axes[2].set(xlabel="standard deviation of an image", ylabel="density", title="Contrast")
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.legend(frameon=False)
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})


def main(arguments: list[str] | None = None) -> int:
    """Command line; prints the figures and writes PNG and JSON. Exit status 2 on bad input."""
    parser = argparse.ArgumentParser(prog="python -m backend.reference.realism", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, required=True, help="folder of real crater pictures")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write; the numbers go beside it as JSON")
    parser.add_argument("--sensor", choices=SENSORS, default="themis")
    parser.add_argument("--count", type=int, default=220)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(arguments)
    try:
        if args.count < 110:
            raise InputError(f"--count is {args.count}; the distance is taken on 110 images, so render at least 110")
        real = load_grey(args.real)
        rendered = rendered_grey(args.sensor, args.count, args.seed)
        numbers = {"sensor": args.sensor, "seed": args.seed, "feature_distance": feature_distance(rendered, real), "real": summary(real), "rendered": summary(rendered)}
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    distance = numbers["feature_distance"]
    said = {name: f"{distance[name]:.0f} ± {distance[f'{name}_std']:.0f}" for name in ("distance", "beside_floor", "floor")}
    line = f"{args.sensor}: distance {said['distance']}; with as many as half the real set {said['beside_floor']}, between its halves {said['floor']}"
    draw_figure(real, rendered, line, args.out)
    args.out.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    print(line)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
