"""The distribution that crater pictures are drawn from."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from backend.errors import InputError
from backend.reference.renderer.parameters import COMPLEX_KINDS, INTERIORS, KINDS, RIMS, TERRAINS, CraterParameters, fresh_depth_km, fresh_rim_km
from backend.reference.renderer.sensors import PRESETS, pick

SUN = {"shadowed interiors": (11.0, 20.0), "sunlit interiors": (48.0, 65.0)}  # elevation in degrees that the words act through
REPOSE = 34.0  # degrees: walls of Martian craters stand at 25 to 35


def _freshness(rng: np.random.Generator, kind: str, rims: str) -> float:
    low, high = {"ghost": (0.0, 0.12), "degraded": (0.12, 0.4), "rayed": (0.85, 1.0)}.get(kind, (0.45, 1.0))
    if kind not in ("ghost", "degraded", "rayed"):
        low, high = {"sharp": (0.72, 1.0), "worn": (0.25, 0.5)}.get(rims, (low, high))
    return float(rng.uniform(low, high))


def _infill(rng: np.random.Generator, kind: str, interiors: str) -> float:
    if kind in ("infilled", "ghost"):
        return float(rng.uniform(0.72, 0.86))
    if kind in COMPLEX_KINDS:
        return float(rng.uniform(0.45, 0.62))
    if interiors in ("smooth floors", "dune floors", "rocky floors", "frosted floors"):
        return float(rng.uniform(0.45, 0.65))
    return float(rng.uniform(0.1, 0.35))


def _size_range(kind: str) -> tuple[float, float]:
    if kind in ("pedestal", "rampart", "rayed"):
        return (0.24, 0.5)
    if kind in ("chained", "clustered"):
        return (0.2, 0.36)
    if kind == "double":
        return (0.3, 0.5)
    return (0.28, 0.74)


def sample_parameters(rng: np.random.Generator, **fixed: Any) -> CraterParameters:
    """Draw one picture's parameters; `fixed` names fields to hold, the others are drawn to agree with them.

    With a `sensor` other than "none" the scenes are those of that instrument's crater pictures (`sensors.py`); interiors of `SUN` that are held have their sun.
    Raises InputError for an unknown field or value."""
    sensor = fixed.get("sensor", "none")
    if sensor in PRESETS:
        drawn = PRESETS[sensor].draw(rng, fixed)
        if fixed.get("interiors") in SUN:
            drawn.pop("sun_elevation", None)
        fixed = drawn | fixed
    return _sample(rng, fixed)


def _sample(rng: np.random.Generator, fixed: dict[str, Any]) -> CraterParameters:
    unknown = set(fixed) - {f.name for f in dataclasses.fields(CraterParameters)}
    if unknown:
        raise InputError(f"unknown crater parameter {sorted(unknown)[0]!r}; see CraterParameters for the names")
    view = fixed.get("view", "aerial" if rng.random() < 0.65 else "ground")
    kind = fixed.get("kind", pick(rng, KINDS, {"bowl": 2.2, "complex": 1.6, "degraded": 1.3, "clustered": 0.6, "chained": 0.6}))
    terrain = fixed.get("terrain", pick(rng, TERRAINS, {"smooth plains": 2.4}))
    rim_weights = {"ghost": {"worn": 4.0, "sharp": 0.0}, "degraded": {"worn": 4.0, "sharp": 0.0}, "rayed": {"worn": 0.0}}.get(kind, {})
    rims = fixed.get("rims", pick(rng, RIMS, {"sharp": 2.0, "frosted": 0.5} | rim_weights))
    unseen = {"gullied walls": 0.0, "layered walls": 0.0, "shadowed interiors": 0.0} if kind == "ghost" else {}
    interiors = fixed.get("interiors", pick(rng, INTERIORS, {"smooth floors": 2.0} | unseen))
    freshness = float(fixed.get("freshness", _freshness(rng, kind, rims)))
    is_complex = kind in COMPLEX_KINDS
    diameter = float(fixed.get("diameter_km", math.exp(rng.uniform(*((math.log(8), math.log(40)) if is_complex else (math.log(1.5), math.log(7)))))))
    infill = float(fixed.get("infill", _infill(rng, kind, interiors)))
    shallow = (0.25 + 0.75 * freshness) * (0.45 if kind in ("infilled", "ghost") else 1.0)
    low, high = SUN.get(interiors, (18.0, 50.0))
    small = {"cratered highlands": 55.0, "dusty plains": 3.0, "dune fields": 3.0}.get(terrain, 11.0)
    rough = {"rocky plains": 1.3, "dusty plains": 0.5, "smooth plains": 0.7, "cratered highlands": 1.4}.get(terrain, 1.0)
    drawn = {
        "size": rng.uniform(*_size_range(kind)),
        "depth_ratio": shallow * fresh_depth_km(diameter) / diameter * rng.uniform(0.9, 1.15),
        "rim_ratio": (0.3 + 0.7 * freshness) * fresh_rim_km(diameter) / diameter * rng.uniform(0.9, 1.2),
        "irregularity": rng.uniform(0.05, 0.08) if rims == "scalloped" else rng.uniform(0.01, 0.035),
        "ellipticity": rng.uniform(0.0, 0.1),
        "orientation": rng.uniform(0.0, 360.0),
        "centre_x": rng.normal(0.0, 0.035),
        "centre_y": rng.normal(0.0, 0.035),
        "ejecta": freshness * rng.uniform(0.3, 1.0),
        "roughness": rough * math.exp(rng.normal(math.log(0.08), 0.4)),
        "spectrum": rng.uniform(4.2, 5.2),
        "small_craters": small * rng.uniform(0.4, 1.6),
        "repose": REPOSE,
        "sun_azimuth": rng.uniform(0.0, 360.0),
        "sun_elevation": rng.uniform(low, high),
        "colour": rng.uniform(0.0, 1.0),
        "albedo": rng.uniform(0.4, 0.58) + (0.06 if terrain == "dusty plains" else 0.0),
        "albedo_contrast": rng.uniform(0.03, 0.14),
        "contrast": rng.uniform(1.0, 1.5),
        "camera_elevation": rng.uniform(15.0, 34.0),
        "haze": rng.uniform(0.05, 0.5),
        "blur": rng.uniform(0.75, 1.0),
    }
    drawn |= {"view": view, "kind": kind, "terrain": terrain, "rims": rims, "interiors": interiors, "freshness": freshness, "diameter_km": diameter, "infill": infill}
    drawn = {k: v if isinstance(v, str) else float(v) for k, v in drawn.items()}
    return CraterParameters(**(drawn | fixed))
