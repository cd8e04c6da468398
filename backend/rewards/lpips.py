"""Mean perceptual distance between the images of a group, on deep features of several stages.

Zhang et al., arXiv:1801.03924, equation 1: channels are normalised at every position, differences squared, weighted by the
learned linear heads and averaged over space. That is a squared Euclidean distance between long vectors, so that all pairs
come from one Gram matrix. Where torchvision's AlexNet and the heads are cached this is LPIPS itself; else it is the
Lite0 perceptual distance: the same formula on three stages of EfficientNet-Lite0 with equal weights, and it says so.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.config.schema import TrainConfig
from backend.errors import InputError
from backend.features.base import resized
from backend.features.download import hub_folder
from backend.features.efficientnet_lite import EfficientNetLite, lite0
from backend.rewards.base import Credit, MetricContext, RewardBatch, SetMetric, finite
from backend.rewards.kernels import squared_distances
from backend.rewards.pairwise import mean_distance, pairwise_credit
from backend.rewards.queue import FeatureQueue

ALEXNET_FILE = "alexnet-owt-7be5be79.pth"  # torchvision's AlexNet_Weights.IMAGENET1K_V1
HEADS_FILE = "lpips_alex_v0.1.pth"  # the package's weights/v0.1/alex.pth under this name in the same folder
LITE_BLOCKS = (2, 4, 10)  # ends of the stages with strides 4, 8 and 16
ALEX_LAYERS = (1, 4, 7, 9, 11)  # the five ReLUs of torchvision's AlexNet
ALEX_SIZE = 128
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # the scaling layer of LPIPS, for images in [-1, 1]
LITE_LABEL = "Lite0 perceptual distance (LPIPS' formula on EfficientNet-Lite0, equal weights; not LPIPS itself)"
LPIPS_LABEL = "LPIPS (AlexNet)"


def perceptual_rows(maps: list[Tensor], weights: list[Tensor] | None = None) -> Tensor:
    """Vectors whose squared Euclidean distances are the perceptual distances.

    Args:
        maps: one [n, c, h, w] per stage.
        weights: [c] >= 0 per stage, the linear heads; ones where not given.

    Returns:
        [n, sum of c h w]
    """
    rows = []
    for stage, x in enumerate(maps):
        unit = x / (x.norm(dim=1, keepdim=True) + 1e-10)
        if weights is not None:
            unit = unit * weights[stage].sqrt()[:, None, None]
        rows.append(unit.flatten(1) / (x.shape[-2] * x.shape[-1]) ** 0.5)
    return torch.cat(rows, 1)


def find_heads(folder: Path) -> Path | None:
    """The linear heads: in the weights' folder, or in an installed `lpips` package."""
    spec = importlib.util.find_spec("lpips")
    packaged = [Path(p) / "weights" / "v0.1" / "alex.pth" for p in (spec.submodule_search_locations or [])] if spec else []
    return next((p for p in [folder / HEADS_FILE, *packaged] if p.is_file()), None)


class AlexNetRows(nn.Module):
    """LPIPS' AlexNet trunk and heads, as vectors.

    Args:
        backbone: torchvision's state dict.
        heads: state dict with `lin0.model.1.weight` [1, c, 1, 1] and so on.
    """

    def __init__(self, backbone: dict[str, Tensor], heads: dict[str, Tensor]) -> None:
        super().__init__()
        from torchvision.models import alexnet

        trunk = alexnet(weights=None).features
        try:
            trunk.load_state_dict({k.removeprefix("features."): v for k, v in backbone.items() if k.startswith("features.")})
            self.heads = [heads[f"lin{i}.model.1.weight"].flatten().clamp_min(0) for i in range(len(ALEX_LAYERS))]
        except (RuntimeError, KeyError) as error:
            raise InputError(f"cached LPIPS weights do not fit ({str(error)[:120]}): delete {ALEXNET_FILE} and {HEADS_FILE} from {hub_folder()}") from error
        self.trunk = trunk.eval().requires_grad_(False)
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """[n, 3, h, w] in [0, 1] -> vectors whose squared distances are LPIPS."""
        x = (resized(images, ALEX_SIZE) * 2 - 1 - self.shift) / self.scale
        maps = []
        for index, layer in enumerate(self.trunk):
            x = F.relu(x) if isinstance(layer, nn.ReLU) else layer(x)
            if index in ALEX_LAYERS:
                maps.append(x)
        return perceptual_rows(maps, self.heads)


def perceptual_network(folder: Path | None = None, extractor: EfficientNetLite | None = None) -> tuple[Callable[[Tensor], Tensor], str]:
    """The function from images to vectors, and its name: LPIPS where backbone and heads are cached, else the Lite0 distance.

    Args:
        folder: of the cached weights; torch's own unless given.
        extractor: a Lite0 that is loaded already.
    """
    folder = folder or hub_folder()
    backbone, heads = folder / ALEXNET_FILE, find_heads(folder)
    if backbone.is_file() and heads is not None:
        states = [torch.load(path, map_location="cpu", weights_only=True) for path in (backbone, heads)]
        return AlexNetRows(*states), LPIPS_LABEL
    network = extractor or lite0()
    return (lambda images: perceptual_rows(network.maps(images.to(network.device), LITE_BLOCKS))), LITE_LABEL


class LPIPS(SetMetric):
    """Mean perceptual distance to the other images, with exact credit.

    Args:
        config: the run's settings.
        context: reference, queue and models.
        folder: of cached weights; torch's own unless given.
    """

    name = "LPIPS"
    minimum = 3
    lazy_state = frozenset({"recent.rows"})

    def __init__(self, config: TrainConfig, context: MetricContext, folder: Path | None = None) -> None:
        super().__init__(config, context)
        shared = context.extractor if isinstance(context.extractor, EfficientNetLite) and context.extractor.name == "efficientnet_lite0" else None
        self.network, self.label = perceptual_network(folder, shared)
        self.note = f"{self.label}: far from the other images pays"
        self.needs_company = config.group_size < self.minimum or config.reward_mode == "single"
        self.recent: FeatureQueue | None = None

    def embed(self, batch: RewardBatch) -> Tensor:
        """[B, all positions and channels] float64."""
        finite(batch.features)
        with torch.inference_mode():
            rows = [self.network(part).float().cpu() for part in batch.images.split(8)]
        return finite(torch.cat(rows).clone()) if rows else torch.zeros(0, 0, dtype=torch.float64)

    def company(self, count: int) -> Tensor:
        """Vectors of recent images, kept only where groups are too small to do without."""
        return self.recent.recent(count) if self.recent is not None else torch.zeros(0, 0, dtype=torch.float64)

    def observe(self, batch: RewardBatch) -> None:
        """Keep the group's vectors as later company, where company is needed."""
        if self.needs_company and len(batch):
            rows = self.embed(batch)
            if self.recent is None:
                self.recent = FeatureQueue(min(self.config.queue_size, 64), rows.shape[1])
            self.recent.push(rows)

    def set_score(self, x: Tensor) -> float:
        """Mean perceptual distance of [N, *], N >= 2."""
        return mean_distance(squared_distances(x, x))

    def set_credit(self, x: Tensor) -> Credit:
        """Exact difference reward."""
        return Credit(torch.zeros(len(x), dtype=x.dtype), pairwise_credit(squared_distances(x, x)))

    def state_dict(self) -> dict[str, Any]:
        """Vectors of recent images, where they are kept."""
        return {} if self.recent is None else {"recent.rows": self.recent.rows.float()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over vectors of recent images; none where the state was saved before the first group."""
        rows, self.recent = state.get("recent.rows"), None
        if rows is not None:
            self.recent = FeatureQueue(min(self.config.queue_size, 64), rows.shape[1])
            self.recent.push(rows)
