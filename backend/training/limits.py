"""Caps of a public demo."""

from __future__ import annotations

from dataclasses import dataclass

from backend.config import TrainConfig
from backend.errors import InputError


@dataclass(frozen=True)
class Limits:
    """Caps of a public demo; None for no cap."""

    max_episodes: int | None = None
    max_images: int | None = None
    max_queue: int | None = 16
    runs_per_owner: int | None = None

    def check(self, config: TrainConfig, waiting: int, mine: int) -> None:
        """Refuse a run that is beyond the caps.

        Args:
            config: its settings.
            waiting: runs that wait in the queue.
            mine: runs of the same owner that train or wait.

        Raises:
            InputError: with the cap and the way out.
        """
        if self.max_episodes is not None and config.episodes > self.max_episodes:
            raise InputError(f"episodes = {config.episodes}: this demo allows {self.max_episodes}; run your own copy for more", field="episodes")
        images = config.episodes * config.group_size
        if self.max_images is not None and images > self.max_images:
            raise InputError(f"{images} images in all: this demo allows {self.max_images}; lower episodes, prompts_per_group or images_per_prompt", field="episodes")
        if self.max_queue is not None and waiting >= self.max_queue:
            raise InputError(f"{waiting} runs wait already, and no more than {self.max_queue} may: try later")
        if self.runs_per_owner is not None and mine >= self.runs_per_owner:
            raise InputError(f"you have {mine} runs going or waiting, and this demo allows {self.runs_per_owner}: stop one first")
