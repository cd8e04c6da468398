"""The reward of one group: metrics and bonuses, each normalised before it is weighted, and no image's reward ever NaN."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from backend.config.catalogue import METRICS
from backend.config.ensemble import Part, parse_ensemble
from backend.config.schema import SMALLEST_SET, TrainConfig
from backend.errors import InputError
from backend.features.base import check_images
from backend.rewards.attributes_model import load_attribute_model
from backend.rewards.base import Metric, MetricResult, PointwiseMetric, RewardBatch, SetMetric
from backend.rewards.bonuses import adherence_bonus, group_bonuses, guarded_means
from backend.rewards.kernels import median_distance
from backend.rewards.normalise import RunningNormaliser, anchor
from backend.rewards.result import WEIGHTS, RewardResult, spread, spread_explanations
from backend.rewards.spaces import Space


class RewardFunction:
    """Scores groups of images and gives each image its share.

    Args:
        config: the run's settings.
        reference_images: [M, 3, h, w] float in [0, 1], M >= 2.
        reference_captions: M captions, or none.
        device: where the extractors run; all other arithmetic is float64 on the CPU.
        base_images: [*, 3, h, w] of the untrained model, which fill the queue so that FID and MI have a pool at once.

    Raises:
        InputError: a reference that cannot be used, weights that cannot be found, or settings that contradict each other.
    """

    def __init__(
        self, config: TrainConfig, reference_images: Tensor, reference_captions: list[str] | None = None, device: str | torch.device = "cpu", base_images: Tensor | None = None
    ) -> None:
        self.config, self.reference_share = config, 1.0
        if not torch.isfinite(check_images(reference_images)).all():
            raise InputError("the reference images have values that are not finite: import them again", field="reference")
        self.attribute_model = load_attribute_model()
        self.parts = parse_ensemble(config.ensemble, config.extractor) or [Part(config.metric, config.extractor, 1.0)]
        captions = list(reference_captions or [])
        names = dict.fromkeys(part.extractor for part in self.parts)
        self.spaces = {name: Space(name, config, reference_images, captions, self.attribute_model, device) for name in names}
        self.metrics = self._build_metrics()
        self.primary = self.spaces[self.parts[0].extractor]
        self.bandwidth = median_distance(self.primary.context.reference)
        self.weights = {name: float(getattr(config, f"{name}_weight")) for name in WEIGHTS}
        self.set_weight("adherence", self.weights["adherence"])
        self.normalisers = {key: RunningNormaliser(config.normalise_floor) for key in [p.key for p in self.parts] + list(WEIGHTS[1:])}
        self.anchors = self._anchors(reference_images, captions) if len(self.parts) > 1 else []
        if base_images is not None and len(base_images):
            self.prefill(base_images)

    def set_weight(self, name: str, value: float) -> None:
        """Change a weight while a run is training; `name` as in `WEIGHTS`, or with `_weight` behind it.

        Raises:
            InputError: no such weight, one below zero, or prompt relevance without the regressors it needs.
        """
        key = name.removesuffix("_weight")
        if key not in self.weights or not 0 <= value < float("inf"):
            raise InputError(f"weight {name} = {value}: names are {', '.join(WEIGHTS)}, values 0 or more", field=name)
        if key == "adherence" and value > 0 and self.attribute_model is None:
            raise InputError(f"adherence_weight = {value} needs the attribute regressors: build them with `python -m backend base-model attributes`", field="adherence_weight")
        self.weights[key] = float(value)

    def _build_metrics(self, config: TrainConfig | None = None) -> list[Metric]:
        """One metric per part, on its space as it is now."""
        return [METRICS.get(p.metric).load()(config or self.config, self.spaces[p.extractor].context) for p in self.parts]

    def set_reference_share(self, share: float) -> None:
        """Let the metrics see only the most typical part of the reference set (a curriculum); 1 is all of it.

        Args:
            share: in (0, 1]; of the images by distance from the set's mean, nearest first, at least knn_k + 2 of them.

        Raises:
            InputError: outside that range.
        """
        if not 0 < share <= 1:
            raise InputError(f"share of the reference set is {share}: give more than 0 and at most 1", field="curriculum_start")
        self.reference_share = share
        least = self.config.knn_k + 2
        changed = [space.narrow(share, least) for space in self.spaces.values()]
        if not any(changed):
            return
        memories = [metric.state_dict() for metric in self.metrics]
        self.metrics = self._build_metrics()
        for metric, memory in zip(self.metrics, memories, strict=True):
            metric.load_state_dict(memory)

    @contextmanager
    def whole_reference(self) -> Iterator[None]:
        """Within it a curriculum's share of the reference set is all of it, so that scores of different episodes compare."""
        share = self.reference_share
        self.set_reference_share(1.0)
        try:
            yield
        finally:
            self.set_reference_share(share)

    def prefill(self, images: Tensor) -> None:
        """Put images [*, 3, h, w] into the queues without scoring them; those that are not finite are left out."""
        batches, _ = self._batches(images, [""] * len(images), torch.zeros(len(images), dtype=torch.long))
        for name, space in self.spaces.items():
            space.context.queue.push(batches[name].features)

    @property
    def scores_alone(self) -> bool:
        """Whether `score_set` sees nothing but the set and the reference, so that scores of different episodes compare."""
        alone = all(isinstance(metric, SetMetric | PointwiseMetric) for metric in self.metrics)
        return alone and self.config.group_size >= SMALLEST_SET and self.config.reward_mode != "single"

    def score_set(self, images: Tensor, captions: list[str]) -> float:
        """Raw score of a set, to compare with the scores of groups of the same size; nothing is remembered.

        Args:
            images: [N, 3, h, w] in [0, 1]
            captions: N prompts
        """
        return self._score_of(self._batches(images, captions, torch.zeros(len(images), dtype=torch.long))[0])

    def probe(self, images: Tensor, captions: list[str]) -> dict[str, float | None]:
        """Raw `score` of a set, and what variety must not cost as `guarded_means` gives it; nothing is remembered. Arguments as for `score_set`."""
        batches, _ = self._batches(images, captions, torch.zeros(len(images), dtype=torch.long))
        batch = batches[self.parts[0].extractor]
        return {"score": float(self._score_of(batches)), **guarded_means(batch, self.primary.context.reference, self.config.knn_k, self.attribute_model)}

    def _score_of(self, batches: dict[str, RewardBatch]) -> float:
        """Raw score of a set's batches."""
        return self._score([m.evaluate(batches[p.extractor]) for p, m in zip(self.parts, self.metrics, strict=True)])

    def __call__(self, images: Tensor, captions: list[str], prompt_index: Tensor) -> RewardResult:
        """Score one group, then remember it.

        Args:
            images: [B, 3, h, w] float in [0, 1]
            captions: B prompts
            prompt_index: [B] long

        Raises:
            InputError: no image, or lengths that differ.
        """
        result, batches, values = self._evaluate(images, captions, prompt_index)
        self._remember(batches, values)
        return result

    def credit(self, images: Tensor, captions: list[str], prompt_index: Tensor) -> Tensor:
        """Total reward [B] that a group would get now; nothing is remembered. Arguments as for a call."""
        return self._evaluate(images, captions, prompt_index)[0].total

    def image_gradient(self, images: Tensor, captions: list[str], prompt_index: Tensor) -> Tensor:
        """What a small change of each pixel would do to the rewards that a group would get now; nothing is remembered.

        A metric's part is the derivative of the group's score: since the others' score without an image does not depend on it,
        that is the derivative of the image's own credit. Bonuses add theirs; that of the histogram's entropy is zero everywhere.

        Args:
            images, captions, prompt_index: as for a call. Metrics must be differentiable by their catalogue entries.

        Returns:
            [B, 3, h, w] in units of the total reward; zeros for an image that is not finite, NaN for a finite one whose derivative is
            not, so that the update can leave it out and count it.
        """
        leaf = images.detach().float().cpu().requires_grad_()
        with torch.enable_grad():
            batches, keep = self._batches(leaf, captions, torch.as_tensor(prompt_index, dtype=torch.long), preserve_gradients=True)
            bonuses = self._bonuses(batches[self.parts[0].extractor])
            weighted = {key: value for key, value in bonuses.items() if self.weights[key]}  # what counts for nothing may have no derivative
            total = sum(self.weights[key] * value.sum() / self.normalisers[key].scale(value.detach()) for key, value in weighted.items())
            for part, metric in zip(self.parts, self.metrics, strict=True):
                total = total + self.weights["diversity"] * self._share(part) * self._set_term(part, metric, batches[part.extractor])
            if not total.requires_grad:  # no image is left that a metric or a bonus could look at
                return torch.zeros_like(images)
            gradient = torch.autograd.grad(total, leaf)[0]
        gradient = gradient.masked_fill(~torch.isfinite(gradient).flatten(1).all(1)[:, None, None, None], float("nan"))
        return gradient.masked_fill(~keep[:, None, None, None], 0.0).to(images.device)

    def _set_term(self, part: Part, metric: Metric, batch: RewardBatch) -> Tensor:
        """The group's score in the units of the images' normalised credit; a constant where the group is too small to have one."""
        if len(batch) < metric.minimum:
            return torch.zeros((), dtype=torch.float64)
        normaliser = self.normalisers[part.key]
        credit = torch.zeros(1) if normaliser.settled else metric.evaluate(batch).credit * len(batch)
        features = torch.cat([self.spaces[part.extractor].context.queue.recent(self.config.company), batch.features])
        return metric.set_value(features) * len(features) / normaliser.scale(credit)

    def _share(self, part: Part) -> float:
        """The part's weight in the ensemble; shares add to 1."""
        return part.weight / sum(p.weight for p in self.parts)

    def _evaluate(self, images: Tensor, captions: list[str], prompt_index: Tensor) -> tuple[RewardResult, dict[str, RewardBatch], dict[str, Tensor]]:
        """A group's result, and what would be remembered of it."""
        index = torch.as_tensor(prompt_index, dtype=torch.long)
        batches, keep = self._batches(images, captions, index)
        results = [m.evaluate(batches[p.extractor]) for p, m in zip(self.parts, self.metrics, strict=True)]
        broadcast = self.config.reward_mode == "batch" or self.config.advantage == "broadcast"
        found = [(p.key, r) for p, r in zip(self.parts, results, strict=True)]
        values = {key: torch.full_like(r.credit, r.score) if broadcast else r.credit * r.set_size for key, r in found if r.defined}
        values |= self._bonuses(batches[self.parts[0].extractor])
        normalised = {key: self.normalisers[key].apply(value) for key, value in values.items()}
        normalised |= {key: r.credit for key, r in found if not r.defined}  # zeros: they say nothing, and no normaliser learns from them
        credits = [values[key] if broadcast and r.defined else r.credit for key, r in found]
        result = self._assemble(results, credits, values, normalised, keep)
        result.features[keep] = batches[self.parts[0].extractor].features.float()
        return result, batches, values

    def _batches(self, images: Tensor, captions: list[str], index: Tensor, preserve_gradients: bool = False) -> tuple[dict[str, RewardBatch], Tensor]:
        """One batch per extractor of the images that are finite [b <= B], and which those are [B] bool."""
        check_images(images)
        if not len(images) == len(captions) == len(index):
            raise InputError(f"{len(images)} images, {len(captions)} captions and {len(index)} prompt indices: one of each per image")
        if len(images) == 0:
            raise InputError("a group without images has no reward: raise prompts_per_group or images_per_prompt", field="prompts_per_group")
        images = (images if preserve_gradients else images.detach()).float().cpu()
        keep = torch.isfinite(images).flatten(1).all(1)
        clean = torch.where(keep[:, None, None, None], images, 0.5)
        raw = {name: space.raw(clean, preserve_gradients) for name, space in self.spaces.items()}
        for features in raw.values():
            keep = keep & torch.isfinite(features).all(1)
        kept = [c for c, ok in zip(captions, keep.tolist(), strict=True) if ok]
        attributes = self._attributes(images[keep], {name: features[keep] for name, features in raw.items()}, preserve_gradients and self.weights["adherence"] > 0)
        batches = {}
        for name, space in self.spaces.items():
            batches[name] = RewardBatch(space.standardiser.transform(raw[name][keep]), images[keep], kept, index[keep], attributes)
        return batches, keep

    def _attributes(self, images: Tensor, raw: dict[str, Tensor], preserve_gradients: bool) -> Tensor | None:
        """Measured attributes [b, A] where the regressors are there; features that were computed anyway are used again."""
        model = self.attribute_model
        if model is None or len(images) == 0:
            return None
        return model.from_features(raw[model.extractor]) if model.extractor in raw else model.predict(images, preserve_gradients)

    def _bonuses(self, batch: RewardBatch) -> dict[str, Tensor]:
        """Raw bonuses [b] by name; none where they are off."""
        if len(batch) == 0:
            return {}
        found = group_bonuses(batch, self.primary.context, self.bandwidth, self.config.knn_k) if self.config.use_bonuses else {}
        return found if self.attribute_model is None else found | {"adherence": adherence_bonus(self.attribute_model, batch)}

    def _assemble(self, results: list[MetricResult], credits: list[Tensor], values: dict[str, Tensor], normalised: dict[str, Tensor], keep: Tensor) -> RewardResult:
        """Weighted sums over the finite images, spread over the group."""
        shares = [self._share(p) for p in self.parts]
        diversity = sum(w * normalised[p.key] for w, p in zip(shares, self.parts, strict=True))
        raw = {"diversity": sum(w * c for w, c in zip(shares, credits, strict=True))}
        components = {"diversity": diversity}
        if len(self.parts) > 1:
            raw |= {p.key: c for p, c in zip(self.parts, credits, strict=True)}
            components |= {p.key: normalised[p.key] for p in self.parts}
        raw |= {k: v for k, v in values.items() if k in WEIGHTS}
        components |= {k: v for k, v in normalised.items() if k in WEIGHTS}
        total = sum(self.weights[k] * v for k, v in components.items() if k in WEIGHTS)
        shown = {k: spread(v, keep) for k, v in components.items()}
        explanations = spread_explanations(results[0].explanations, keep)
        features = torch.zeros(len(keep), self.primary.extractor.dimension)
        scores = {p.key if len(self.parts) > 1 else p.metric: r.score for p, r in zip(self.parts, results, strict=True)}
        return RewardResult(self._score(results), spread(total, keep), shown, {k: spread(v, keep) for k, v in raw.items()}, explanations, features, scores)

    def _score(self, results: list[MetricResult]) -> float:
        """The raw score; for an ensemble, on the anchored scale."""
        if len(results) == 1:
            return results[0].score
        weighted = [p.weight * (r.score - top) / span for p, r, (top, span) in zip(self.parts, results, self.anchors, strict=True)]
        return sum(weighted) / sum(p.weight for p in self.parts)

    def _anchors(self, images: Tensor, captions: list[str]) -> list[tuple[float, float]]:
        """For each metric: the score of reference images, and its distance from that of one of them repeated."""
        count = min(len(images), max(self.config.group_size, 4))
        words = (captions or [""] * len(images))[:count]
        alone = self.config.reward_mode == "single"  # such metrics need company, which there is not
        metrics = self._build_metrics(self.config.model_copy(update={"reward_mode": "difference"})) if alone else self.metrics
        whole, _ = self._batches(images[:count], words, torch.zeros(count, dtype=torch.long))
        single, _ = self._batches(images[:1].expand(count, -1, -1, -1), words[:1] * count, torch.zeros(count, dtype=torch.long))
        return [anchor(metric, whole[part.extractor], single[part.extractor]) for part, metric in zip(self.parts, metrics, strict=True)]

    def _remember(self, batches: dict[str, RewardBatch], values: dict[str, Tensor]) -> None:
        """Queues, archives and normalisers take the group in."""
        for part, metric in zip(self.parts, self.metrics, strict=True):
            metric.observe(batches[part.extractor])
        for name, space in self.spaces.items():
            space.context.queue.push(batches[name].features)
        for key, value in values.items():
            self.normalisers[key].update(value)

    def state_dict(self) -> dict[str, Any]:
        """Queues, archives, normalisers and weights: tensors and numbers under flat keys."""
        state: dict[str, Any] = {f"weight.{k}": v for k, v in self.weights.items()}
        for prefix, owner in self._owners():
            state |= {f"{prefix}.{k}": v for k, v in owner.state_dict().items()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave, so that the next group is scored bit for bit alike.

        Raises:
            InputError: it was saved with other metrics or extractors.
        """
        for prefix, owner in self._owners():
            own = {k[len(prefix) + 1 :]: v for k, v in state.items() if k.startswith(f"{prefix}.")}
            lacking = set(owner.state_dict()) - set(own) - (owner.lazy_state if isinstance(owner, Metric) else set())
            if lacking:
                raise InputError(f"the checkpoint's reward state has no {prefix}.{min(lacking)}: resume with the same metrics and extractors")
            owner.load_state_dict(own)
        for name in WEIGHTS:
            if f"weight.{name}" in state:
                self.set_weight(name, float(state[f"weight.{name}"]))

    def _owners(self) -> list[tuple[str, Any]]:
        """Everything with a state, under the prefix of its keys."""
        queues = [(f"queue.{name}", space.context.queue) for name, space in self.spaces.items()]
        metrics = [(f"metric.{p.key}", m) for p, m in zip(self.parts, self.metrics, strict=True)]
        return queues + metrics + [(f"normaliser.{k}", n) for k, n in self.normalisers.items()]
