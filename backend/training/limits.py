"""Caps of a public demo."""

from __future__ import annotations

import math
from dataclasses import dataclass

from backend.config import TrainConfig
from backend.errors import InputError
from backend.training.cost import EVALUATED_SETS, SAMPLE_IMAGES, estimate, say_duration

STEPS_AN_IMAGE = 40  # denoising steps in all, for each image that `max_images` allows: the cap's images and as many to measure with, at 20 steps


@dataclass(frozen=True)
class Limits:
    """Caps of a public demo; None for no cap.

    Attributes:
        max_episodes: of a run.
        max_images: that a run trains on; its probes, samples and evaluation may draw as many again, and both together `STEPS_AN_IMAGE` denoising steps for each.
        max_minutes: that a run is expected to take by the cost model, updates and evaluation included.
        max_queue: runs that wait.
        runs_per_owner: that train or wait.
        keep_runs: that have ended; a new run removes the oldest beyond.
    """

    max_episodes: int | None = None
    max_images: int | None = None
    max_minutes: int | None = None
    max_queue: int | None = 16
    runs_per_owner: int | None = None
    keep_runs: int | None = None

    def check_settings(self, config: TrainConfig) -> None:
        """Refuse settings that are beyond the caps.

        Raises:
            InputError: with the cap and the way out.
        """
        if self.max_episodes is not None and config.episodes > self.max_episodes:
            raise InputError(f"episodes = {config.episodes}: this server allows at most {self.max_episodes}; run your own copy for more", field="episodes")
        if self.max_images is not None:
            self._check_images(config, self.max_images)
        if self.max_minutes is not None and (seconds := estimate(config).seconds_total) > 60 * self.max_minutes:
            said = f"{say_duration(seconds)} in all by the estimate: this server allows at most {self.max_minutes} min"
            raise InputError(f"{said}; lower episodes, ppo_epochs, replay_groups, window_size or num_inference_steps", field="episodes")

    @staticmethod
    def _check_images(config: TrainConfig, most_images: int) -> None:
        """Refuse more images, or more denoising steps for them, than are allowed."""
        images, measuring = config.episodes * config.group_size, measuring_images(config)
        if images > most_images:
            said = f"{images} images in all: this server allows at most {most_images}"
            raise InputError(f"{said}; lower episodes, prompts_per_group or images_per_prompt", field="episodes")
        if measuring > most_images:
            parts = {"eval_images": evaluated_images(config), "probe_images": probed_images(config), "sample_every": sampled_images(config)}
            said = f"{measuring} images for probes, samples and the evaluation: this server allows at most {most_images}"
            raise InputError(f"{said}; lower eval_images or probe_images, or raise probe_every or sample_every", field=max(parts, key=parts.__getitem__))
        steps, most = math.ceil(config.num_inference_steps * (images * config.rollouts + measuring)), STEPS_AN_IMAGE * most_images
        if steps > most:
            raise InputError(f"{steps} denoising steps in all: this server allows at most {most}; lower num_inference_steps or episodes", field="num_inference_steps")

    def check_place(self, waiting: int, mine: int) -> None:
        """Refuse a run that there is no place for.

        Args:
            waiting: runs that wait in the queue.
            mine: runs of the same owner that train or wait.

        Raises:
            InputError: with the cap and the way out.
        """
        if self.max_queue is not None and waiting >= self.max_queue:
            raise InputError(f"{waiting} runs wait already, and no more than {self.max_queue} may: try later")
        if self.runs_per_owner is not None and mine >= self.runs_per_owner:
            raise InputError(f"you have {mine} runs going or waiting, and this demo allows {self.runs_per_owner}: stop one first")


def probed_images(config: TrainConfig) -> int:
    """Images of all probes: the base's, then one each `probe_every` episodes and after the first."""
    return config.probe_images * (2 + config.episodes // config.probe_every) if config.probe_every else 0


def sampled_images(config: TrainConfig) -> int:
    """Images of all samples: the base's, then one grid each `sample_every` episodes and after the last."""
    return SAMPLE_IMAGES * (2 + config.episodes // config.sample_every)


def evaluated_images(config: TrainConfig) -> int:
    """Images of the final evaluation, all sets of it."""
    return EVALUATED_SETS * config.eval_images


def measuring_images(config: TrainConfig) -> int:
    """Images that a run draws to be measured and looked at, not to train on."""
    return probed_images(config) + sampled_images(config) + evaluated_images(config)
