"""Every attribute of a rendered crater picture, by name, and the distribution they are drawn from."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from backend.errors import InputError

VIEWS = ("aerial", "ground")
KINDS = (
    "bowl",
    "complex",
    "terraced",
    "pitted",
    "pedestal",
    "rampart",
    "double",
    "chained",
    "clustered",
    "ghost",
    "degraded",
    "infilled",
    "rayed",
)
TERRAINS = ("smooth plains", "dune fields", "layered terrain", "fractured terrain", "cratered highlands", "dusty plains", "rocky plains", "streaked plains")
RIMS = ("sharp", "worn", "scalloped", "frosted")
INTERIORS = ("smooth floors", "dune floors", "rocky floors", "frosted floors", "layered walls", "gullied walls", "shadowed interiors", "sunlit interiors")
SENSORS = ("none", "themis", "ctx", "hirise")
COMPLEX_KINDS = ("complex", "terraced", "pitted", "infilled")


@dataclasses.dataclass(frozen=True)
class CraterParameters:
    """What one picture shows. Lengths are fractions of the frame width unless named otherwise; angles in degrees."""

    view: str = "aerial"
    kind: str = "bowl"
    terrain: str = "smooth plains"
    rims: str = "sharp"
    interiors: str = "smooth floors"
    size: float = 0.5  # crater diameter / frame width
    diameter_km: float = 5.0  # sets depth and rim height by published power laws
    depth_ratio: float = 0.15  # rim to floor / diameter, as it is now (after erosion and infill)
    rim_ratio: float = 0.03  # rim height above the plain / diameter
    freshness: float = 0.8  # 1 = just formed, 0 = almost erased
    infill: float = 0.2  # radius of the flat floor / crater radius
    irregularity: float = 0.03  # relative amplitude of the rim's deviation from a circle
    ellipticity: float = 0.0  # 1 − short axis / long axis
    orientation: float = 0.0  # of the long axis, chain, dunes, wind
    centre_x: float = 0.0  # offset from the middle of the frame
    centre_y: float = 0.0
    ejecta: float = 0.6  # strength of the ejecta's texture
    roughness: float = 0.05  # root mean square slope of the plain (tangent)
    spectrum: float = 4.7  # power spectrum of the plain's height falls as k^-spectrum
    small_craters: float = 12.0  # expected number of small craters in the frame
    sun_azimuth: float = 180.0
    sun_elevation: float = 35.0
    colour: float = 0.6  # 0 grey, 0.33 tan, 0.67 ochre, 1 red
    albedo: float = 0.5  # brightness of the flat plain in the picture
    albedo_contrast: float = 0.06
    camera_elevation: float = 20.0  # ground view: angle above the plain from which the crater is seen
    haze: float = 0.2  # ground view
    sensor: str = "none"
    blur: float = 0.8  # standard deviation in pixels at 128
    noise: float = 0.003
    contrast: float = 1.0

    def __post_init__(self) -> None:
        for name, allowed in (("view", VIEWS), ("kind", KINDS), ("terrain", TERRAINS), ("rims", RIMS), ("interiors", INTERIORS), ("sensor", SENSORS)):
            value = getattr(self, name)
            if value not in allowed:
                raise InputError(f"{name} is {value!r}; known are {', '.join(allowed)}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "float" and not (isinstance(value, (int, float)) and math.isfinite(value)):
                raise InputError(f"{field.name} is {value!r}; it must be a finite number")

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-able values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CraterParameters:
        """Inverse of `to_dict`. Raises InputError on unknown fields."""
        unknown = set(values) - {f.name for f in dataclasses.fields(cls)}
        if unknown:
            raise InputError(f"unknown crater parameter {sorted(unknown)[0]!r}; see CraterParameters for the names")
        return cls(**values)

    def replace(self, **changes: Any) -> CraterParameters:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def fresh_depth_km(diameter_km: float) -> float:
    """Rim-to-floor depth of a fresh Martian crater: 0.21 D^0.81 (simple), 0.36 D^0.49 (complex), Garvin et al. 2003 (Sixth Mars Conf., 3277)."""
    return 0.21 * diameter_km**0.81 if diameter_km < 7.0 else 0.36 * diameter_km**0.49


def fresh_rim_km(diameter_km: float) -> float:
    """Rim height above the plain of a fresh crater: 0.04 D^0.31 (simple), 0.02 D^0.84 (complex), Garvin et al. 2003."""
    return 0.04 * diameter_km**0.31 if diameter_km < 7.0 else 0.02 * diameter_km**0.84


def _pick(rng: np.random.Generator, names: tuple[str, ...], weights: dict[str, float]) -> str:
    p = np.array([weights.get(n, 1.0) for n in names])
    return names[int(rng.choice(len(names), p=p / p.sum()))]


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

    Raises InputError for an unknown field or value."""
    unknown = set(fixed) - {f.name for f in dataclasses.fields(CraterParameters)}
    if unknown:
        raise InputError(f"unknown crater parameter {sorted(unknown)[0]!r}; see CraterParameters for the names")
    view = fixed.get("view", "aerial" if rng.random() < 0.65 else "ground")
    kind = fixed.get("kind", _pick(rng, KINDS, {"bowl": 2.2, "complex": 1.6, "degraded": 1.3, "clustered": 0.6, "chained": 0.6}))
    terrain = fixed.get("terrain", _pick(rng, TERRAINS, {"smooth plains": 2.4}))
    rims = fixed.get(
        "rims",
        _pick(rng, RIMS, {"sharp": 2.0, "frosted": 0.5} | ({"worn": 4.0, "sharp": 0.0} if kind in ("ghost", "degraded") else {}) | ({"worn": 0.0} if kind == "rayed" else {})),
    )
    interiors = fixed.get(
        "interiors", _pick(rng, INTERIORS, {"smooth floors": 2.0} | ({"gullied walls": 0.0, "layered walls": 0.0, "shadowed interiors": 0.0} if kind == "ghost" else {}))
    )
    freshness = float(fixed.get("freshness", _freshness(rng, kind, rims)))
    is_complex = kind in COMPLEX_KINDS
    diameter = float(fixed.get("diameter_km", math.exp(rng.uniform(*((math.log(8), math.log(40)) if is_complex else (math.log(1.5), math.log(7)))))))
    infill = float(fixed.get("infill", _infill(rng, kind, interiors)))
    shallow = (0.25 + 0.75 * freshness) * (0.45 if kind in ("infilled", "ghost") else 1.0)
    low, high = {"shadowed interiors": (11.0, 20.0), "sunlit interiors": (48.0, 65.0)}.get(interiors, (18.0, 50.0))
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
