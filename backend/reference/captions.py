"""Captions in the grammar "aerial/ground view of <kind> mars craters on <terrain> with <rims> and <interiors>", made from parameters and read back."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from backend.errors import InputError
from backend.reference.renderer.parameters import INTERIORS, KINDS, RIMS, TERRAINS, CraterParameters
from backend.reference.renderer.sampling import sample_parameters

SIZES = {"small": (0.0, 0.37), "medium": (0.37, 0.52), "large": (0.52, 1.0)}
AGES = {"ancient": (0.0, 0.2), "old": (0.2, 0.5), "young": (0.5, 0.8), "fresh": (0.8, 1.01)}
COLOURS = {"grey": (0.0, 0.17), "tan": (0.17, 0.5), "ochre": (0.5, 0.83), "red": (0.83, 1.01)}
LIGHTS = {"low sun": (0.0, 24.0), "high sun": (40.0, 91.0)}
VIEW_WORDS = ("aerial", "ground")
FILLER = ("view", "of", "mars", "craters", "crater", "on", "with", "and", "rims", "under", "a")
VOCABULARY: list[str] = sorted({w for group in (SIZES, AGES, COLOURS, LIGHTS, VIEW_WORDS, KINDS, TERRAINS, RIMS, INTERIORS, FILLER) for phrase in group for w in phrase.split()})

_BANDS = {"size": SIZES, "age": AGES, "colour": COLOURS, "light": LIGHTS}
_FIELDS = {"size": "size", "age": "freshness", "colour": "colour", "light": "sun_elevation"}
_ATTRIBUTE_OF = {"size": "size", "age": "freshness", "colour": "colour", "light": "light"}
NAMED = {"view": VIEW_WORDS, "kind": KINDS, "terrain": TERRAINS, "rims": tuple(f"{r} rims" for r in RIMS), "interiors": INTERIORS}
ATTRIBUTES: tuple[str, ...] = (
    "view",
    "size",
    "freshness",
    "colour",
    "light",
    *(f"kind: {k}" for k in KINDS),
    *(f"terrain: {t}" for t in TERRAINS),
    *(f"rims: {r}" for r in RIMS),
    *(f"interiors: {i}" for i in INTERIORS),
)


def _band(value: float, bands: dict[str, tuple[float, float]]) -> str | None:
    return next((word for word, (low, high) in bands.items() if low <= value < high), None)


def words(params: CraterParameters) -> dict[str, str]:
    """Every word that is true of the parameters, by attribute: view, kind, terrain, rims, interiors, size, age, colour, light (absent between low and high)."""
    found = {"view": params.view, "kind": params.kind, "terrain": params.terrain, "rims": f"{params.rims} rims", "interiors": params.interiors}
    for name, bands in _BANDS.items():
        word = _band(getattr(params, _FIELDS[name]), bands)
        if word is not None:
            found[name] = word
    return found


def caption(params: CraterParameters, rng: np.random.Generator | None = None) -> str:
    """The caption of a picture; with `rng` parts are left out at random so that short prompts are known too, without it every word is there."""
    w = words(params)

    def keep(probability: float) -> bool:
        return rng is None or rng.random() < probability

    adjectives = [w[name] for name, chance in (("size", 0.4), ("age", 0.4), ("kind", 0.85)) if keep(chance)]
    text = " ".join([f"{w['view']} view of", *adjectives, "mars craters"])
    if keep(0.82):
        colour = f"{w['colour']} " if keep(0.45) else ""
        text += f" on {colour}{w['terrain']}"
    elif keep(0.3):
        text += f" on {w['colour']} plains"
    details = [w[name] for name, chance in (("rims", 0.7), ("interiors", 0.75)) if keep(chance)]
    if details:
        text += " with " + " and ".join(details)
    if "light" in w and keep(0.35):
        text += f" under {w['light']}"
    return text


def parse_caption(text: str) -> dict[str, str]:
    """Attribute words recognised in a prompt: a subset of the keys of `words`. Unknown words are ignored; the first match of an attribute counts."""
    plain = f" {' '.join(re.findall(r'[a-z]+', text.lower()))} "
    found: dict[str, str] = {}
    for attribute, phrases in (*NAMED.items(), *_BANDS.items()):
        hits = [(plain.find(f" {phrase} "), phrase) for phrase in phrases if f" {phrase} " in plain]
        if hits:
            found[attribute] = min(hits)[1]
    return found


def recombined(prompts: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    """Captions that join the words of different prompts anew, none of them a prompt itself.

    Args:
        prompts: each names view, kind, terrain, rims and interiors.
        count: captions; the same one may come twice.
        rng: draws each part by itself.

    Raises:
        InputError: a prompt lacks a part, or the words can be joined in no other way.
    """
    parts = [{name: word for name, word in parse_caption(p).items() if name in NAMED} for p in prompts]
    lacking = next((p for p, part in zip(prompts, parts, strict=True) if len(part) < len(NAMED)), None)
    if lacking is not None:
        raise InputError(f"the prompt {lacking!r} does not name each of {', '.join(NAMED)}: only whole prompts can be recombined")
    options = {name: [p[name] for p in parts] for name in NAMED}
    if math.prod(len(set(words)) for words in options.values()) <= len({tuple(p[name] for name in NAMED) for p in parts}):
        raise InputError(f"the words of {len(prompts)} prompts can be joined in no other way: give prompts that differ in two parts")
    found: list[str] = []
    while len(found) < count:
        w = {name: words[int(rng.integers(len(words)))] for name, words in options.items()}
        text = f"{w['view']} view of {w['kind']} mars craters on {w['terrain']} with {w['rims']} and {w['interiors']}"
        found += [text] * (w not in parts)
    return found


def sample_for_caption(text: str, rng: np.random.Generator) -> CraterParameters:
    """Parameters that obey the words of a caption, everything else free. It defines the diversity that a caption allows."""
    found = parse_caption(text)
    fixed: dict[str, Any] = {name: found[name] for name in ("view", "kind", "terrain", "interiors") if name in found}
    if "rims" in found:
        fixed["rims"] = found["rims"].removesuffix(" rims")
    bands = {name: _BANDS[name][found[name]] for name in _BANDS if name in found}
    for _ in range(60):
        drawn = sample_parameters(rng, **fixed)
        if all(low <= getattr(drawn, _FIELDS[name]) < high for name, (low, high) in bands.items()):
            return drawn
    limits = {"size": (0.24, 0.74), "age": (0.02, 0.99), "colour": (0.0, 1.0), "light": (11.0, 65.0)}
    for name, (low, high) in bands.items():
        lowest, highest = limits[name]
        fixed[_FIELDS[name]] = float(rng.uniform(max(low, lowest), min(high, highest) - 1e-6))
    return sample_parameters(rng, **fixed)


def attribute_targets(params: CraterParameters) -> dict[str, float]:
    """Every attribute of ATTRIBUTES as a number in [0, 1]."""
    targets = dict.fromkeys(ATTRIBUTES, 0.0)
    targets |= {"view": float(params.view == "ground"), "size": params.size, "freshness": params.freshness, "colour": params.colour, "light": params.sun_elevation / 90.0}
    for group, value in (("kind", params.kind), ("terrain", params.terrain), ("rims", params.rims), ("interiors", params.interiors)):
        targets[f"{group}: {value}"] = 1.0
    return targets


def caption_targets(text: str) -> dict[str, float]:
    """What the words of a caption imply for ATTRIBUTES; NaN where the caption is silent. A band's word stands for its middle."""
    found = parse_caption(text)
    targets = dict.fromkeys(ATTRIBUTES, math.nan)
    if "view" in found:
        targets["view"] = float(found["view"] == "ground")
    for group in ("kind", "terrain", "rims", "interiors"):
        if group in found:
            value = found[group].removesuffix(" rims")
            targets |= {name: float(name == f"{group}: {value}") for name in ATTRIBUTES if name.startswith(f"{group}: ")}
    middles = {"size": (0.24, 0.74), "age": (0.0, 1.0), "colour": (0.0, 1.0), "light": (11.0, 65.0)}
    for name, bands in _BANDS.items():
        if name in found:
            low, high = max(bands[found[name]][0], middles[name][0]), min(bands[found[name]][1], middles[name][1])
            targets[_ATTRIBUTE_OF[name]] = (low + high) / 2.0 / (90.0 if name == "light" else 1.0)
    return targets
