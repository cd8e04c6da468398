"""Instruments by name: what their published crater pictures show, and how they record it.

Each preset is calibrated against crops of real pictures (docs/renderer.md); "none" is no instrument but the colour pictures of the default set-up."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

Range = tuple[float, float]
Weights = tuple[tuple[str, float], ...]


def pick(rng: np.random.Generator, names: tuple[str, ...], weights: dict[str, float]) -> str:
    """One of the names by weight (1 where none is given)."""
    p = np.array([weights.get(n, 1.0) for n in names])
    return names[int(rng.choice(len(names), p=p / p.sum()))]


@dataclasses.dataclass(frozen=True)
class SensorPreset:
    """Ranges are drawn uniformly, those named `log_…` uniformly in the logarithm; units as in CraterParameters."""

    kinds: Weights
    terrains: Weights
    rims: Weights
    interiors: Weights
    azimuth: Range  # mean and standard deviation
    elevation: Range
    size: Range
    spectrum: Range
    log_roughness: Range
    log_hummocks: Range
    log_contrast: Range
    small_craters: Range
    old_craters: float
    massifs: Range
    irregularity: Range
    albedo: Range
    albedo_contrast: Range
    lommel: float
    ambient: float
    blur: Range
    noise: Range
    grain: Range
    column_noise: Range
    sharpening: Range

    def draw(self, rng: np.random.Generator, fixed: dict[str, Any]) -> dict[str, Any]:
        """Fields of CraterParameters that the instrument decides; a kind, rim or interior named in `fixed` is kept."""
        drawn: dict[str, Any] = {"view": "aerial", "repose": 34.0, "lommel": self.lommel, "ambient": self.ambient, "old_craters": self.old_craters}
        for field, weights in (("kind", self.kinds), ("terrain", self.terrains), ("rims", self.rims), ("interiors", self.interiors)):
            drawn[field] = pick(rng, tuple(n for n, _ in weights), dict(weights))
        if fixed.get("kind", drawn["kind"]) in ("ghost", "degraded"):
            drawn["rims"] = "worn"
        drawn["sun_azimuth"] = float(rng.normal(*self.azimuth)) % 360.0
        for field in ("size", "spectrum", "small_craters", "massifs", "irregularity", "albedo", "albedo_contrast", "blur", "noise", "grain", "column_noise", "sharpening"):
            drawn[field] = float(rng.uniform(*getattr(self, field)))
        drawn["sun_elevation"] = float(rng.uniform(*self.elevation))
        for field in ("roughness", "hummocks", "contrast"):
            low, high = getattr(self, f"log_{field}")
            drawn[field] = math.exp(rng.uniform(math.log(low), math.log(high)))
        drawn["massifs"] *= float(rng.random() < 0.35)
        return drawn


THEMIS = SensorPreset(
    kinds=(("bowl", 3.0), ("complex", 1.2), ("terraced", 0.7), ("degraded", 2.0), ("infilled", 2.5), ("ghost", 1.2), ("double", 0.2)),
    terrains=(("smooth plains", 3.0), ("cratered highlands", 1.0), ("rocky plains", 0.4), ("dusty plains", 1.0)),
    rims=(("sharp", 3.0), ("worn", 2.0), ("scalloped", 1.0)),
    interiors=(("smooth floors", 2.5), ("rocky floors", 1.0), ("sunlit interiors", 1.8)),
    azimuth=(180.0, 18.0),
    elevation=(20.0, 36.0),
    size=(0.45, 0.58),
    spectrum=(3.6, 4.8),
    log_roughness=(0.02, 0.11),
    log_hummocks=(0.02, 0.25),
    log_contrast=(1.3, 3.8),
    small_craters=(0.0, 14.0),
    old_craters=0.9,
    massifs=(0.0, 0.06),
    irregularity=(0.02, 0.06),
    albedo=(0.42, 0.52),
    albedo_contrast=(0.03, 0.14),
    lommel=0.2,
    ambient=0.15,
    blur=(0.6, 1.0),
    noise=(0.002, 0.006),
    grain=(0.0, 0.0),
    column_noise=(0.0, 0.004),
    sharpening=(0.2, 0.9),
)
CTX = SensorPreset(
    kinds=(("bowl", 4.0), ("degraded", 3.0), ("infilled", 1.5), ("ghost", 1.0), ("double", 0.3)),
    terrains=(("smooth plains", 3.0), ("dusty plains", 2.0), ("rocky plains", 0.3)),
    rims=(("sharp", 3.0), ("worn", 2.0)),
    interiors=(("smooth floors", 2.0), ("sunlit interiors", 2.0)),
    azimuth=(180.0, 18.0),
    elevation=(30.0, 50.0),
    size=(0.4, 0.52),
    spectrum=(3.6, 4.8),
    log_roughness=(0.02, 0.08),
    log_hummocks=(0.02, 0.12),
    log_contrast=(0.5, 1.9),
    small_craters=(0.0, 8.0),
    old_craters=0.5,
    massifs=(0.0, 0.03),
    irregularity=(0.01, 0.05),
    albedo=(0.3, 0.48),
    albedo_contrast=(0.03, 0.2),
    lommel=0.5,
    ambient=0.15,
    blur=(0.8, 1.2),
    noise=(0.01, 0.024),
    grain=(0.5, 1.1),
    column_noise=(0.0, 0.004),
    sharpening=(0.0, 0.3),
)
HIRISE = SensorPreset(
    kinds=(("bowl", 4.0), ("rayed", 1.0), ("degraded", 1.5), ("complex", 0.5), ("infilled", 1.0), ("clustered", 0.5), ("rampart", 0.5)),
    terrains=(("smooth plains", 2.0), ("dune fields", 1.5), ("rocky plains", 1.5), ("layered terrain", 1.0), ("fractured terrain", 1.0), ("streaked plains", 1.0)),
    rims=(("sharp", 3.0), ("worn", 2.0), ("scalloped", 1.0)),
    interiors=(("smooth floors", 1.0), ("dune floors", 2.0), ("rocky floors", 1.5), ("layered walls", 1.0), ("gullied walls", 1.5), ("sunlit interiors", 1.0)),
    azimuth=(180.0, 25.0),
    elevation=(25.0, 50.0),
    size=(0.3, 0.72),
    spectrum=(3.4, 4.6),
    log_roughness=(0.04, 0.2),
    log_hummocks=(0.02, 0.15),
    log_contrast=(1.0, 2.0),
    small_craters=(2.0, 25.0),
    old_craters=0.2,
    massifs=(0.0, 0.02),
    irregularity=(0.01, 0.06),
    albedo=(0.42, 0.55),
    albedo_contrast=(0.05, 0.2),
    lommel=0.55,
    ambient=0.12,
    blur=(0.5, 0.75),
    noise=(0.002, 0.006),
    grain=(0.0, 0.0),
    column_noise=(0.0, 0.0),
    sharpening=(0.0, 0.3),
)
PRESETS: dict[str, SensorPreset] = {"themis": THEMIS, "ctx": CTX, "hirise": HIRISE}
