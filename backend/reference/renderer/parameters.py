"""Every attribute of a rendered crater picture, by name."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

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
    lommel: float = 0.55  # Lunar–Lambert mixing: 1 = Lommel–Seeliger, 0 = Lambert
    ambient: float = 0.10  # sky light / light on the flat plain
    repose: float = 90.0  # slope in degrees above which a wall slumps, so that the crater is shallower; 90 = never
    hummocks: float = 0.0  # relief of hummocky ejecta around the crater, root mean square slope (tangent)
    old_craters: float = 0.0  # expected number of worn craters comparable with the main one, overlapped by it
    dune_height: float = 1.0  # of dunes on plains and floors / the usual one, some 0.06 of their spacing
    dune_spacing: float = 1.0  # from crest to crest / the usual one, a tenth of the frame on plains
    layer_height: float = 0.011  # one step of layered terrain
    wall_layers: float = 6.0  # how many layers a layered wall shows from rim to floor
    gullies: float = 26.0  # channels around a gullied wall
    gully_depth: float = 0.011  # of the deepest cut / crater diameter
    frost: float = 0.85  # share of the ground that frost hides where it lies
    streaks: float = 0.2  # contrast of wind streaks
    massifs: float = 0.0  # height of isolated rough hills in the plain / frame width
    sharpening: float = 0.0  # strength of the halo along edges that resampling and enhancement leave in mosaics
    grain: float = 0.0  # standard deviation in pixels over which the noise is correlated
    column_noise: float = 0.0  # standard deviation of detector column offsets

    def __post_init__(self) -> None:
        for name, allowed in (("view", VIEWS), ("kind", KINDS), ("terrain", TERRAINS), ("rims", RIMS), ("interiors", INTERIORS), ("sensor", SENSORS)):
            value = getattr(self, name)
            if value not in allowed:
                raise InputError(f"{name} is {value!r}; known are {', '.join(allowed)}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "float" and not (isinstance(value, (int, float)) and math.isfinite(value)):
                raise InputError(f"{field.name} is {value!r}; it must be a finite number")
        for name in ("size", "diameter_km", "dune_spacing"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be above 0")
        for name in ("small_craters", "old_craters"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)!r}; it is an expected number, 0 or more")
        for name in ("gullies", "wall_layers"):
            if getattr(self, name) < 0 or getattr(self, name) % 1:
                raise InputError(f"{name} is {getattr(self, name)!r}; it is a number of things, 0 or more and whole")
        if not 0 <= self.frost <= 1:
            raise InputError(f"frost is {self.frost!r}; it is a share, from 0 to 1")
        if not 0 <= self.ellipticity < 1:
            raise InputError(f"ellipticity is {self.ellipticity!r}; it must be from 0 to below 1")

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
