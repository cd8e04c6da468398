"""What scores are compared with: the untouched base, the reference set, fixed test images, and each image's noise-free twin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from backend.config import TrainConfig
from backend.training.progress import Progress, mean_of_finite
from backend.training.seeds import BASE_GROUPS, PROBE, choose_group, fixed_group, reference_subsets
from backend.training.session import Session

BASE_LEVEL_GROUPS = 3  # one before the first episode, the others after it: the first point of the curve does not wait for them
BASE_EVERY, MOST_BASE_GROUPS = 10, 24  # then one every ten episodes, since the luck of three groups' prompts is a large part of what is learned
SPARE_BASE_GROUP = MOST_BASE_GROUPS  # a group beyond those of the level
REFERENCE_SUBSETS = 8


class Levels:
    """Measures the levels, all from fixed seeds and at the guidance that the settings ask for, and keeps them in the run's progress."""

    def __init__(self, config: TrainConfig, session: Session, progress: Progress) -> None:
        self.config, self.session, self.progress = config, session, progress
        self.base_probed: dict[str, float | None] = {}  # all that the base's newest probe told, until an event has kept it

    @property
    def guidance(self) -> float:
        """Guidance scale of the settings, live changes included; a curriculum's present value is on its way there."""
        return self.progress.live.get("guidance_scale", self.config.guidance_scale)

    def forget(self) -> None:
        """What the base scored no longer compares (another guidance): `refine` measures it anew."""
        self.progress.base_scores, self.progress.probes, self.progress.levels_from = [], [], self.progress.episode

    def _base_prompts(self, number: int) -> tuple[list[int], list[int]]:
        return choose_group(self.config, len(self.session.train_prompts), BASE_GROUPS + number)

    def draw_base_group(self, number: int, should_stop: Callable[[], bool]) -> torch.Tensor:
        """Images [B, 3, h, w] of the untouched base, sampled with the noise that a policy has before its first update, in the window of that episode number.

        Raises:
            Stopped: on request.
        """
        index, seeds = self._base_prompts(number)
        return self.session.agent.rollout(self.session.train_embeds[index], seeds, number, base=True, should_stop=should_stop, guidance_scale=self.guidance).images

    def add_first_score(self, reward: Any, images: torch.Tensor, should_stop: Callable[[], bool]) -> None:
        """The level's first group: the images [B, 3, h, w] that fill the reward's queue, or another group's where these would be their own company.

        Raises:
            Stopped: on request.
        """
        number = 0 if reward.scores_alone else SPARE_BASE_GROUP
        self.add_base_score(reward, self.draw_base_group(number, should_stop) if number else images, number)

    def add_base_score(self, reward: Any, images: torch.Tensor, number: int) -> None:
        """Score a base group; the base level is the mean over groups."""
        index, _ = self._base_prompts(number)
        with reward.whole_reference():
            self.progress.base_scores.append(float(reward.score_set(images, [self.session.train_prompts[i] for i in index])))

    def measure(self, reward: Any, should_stop: Callable[[], bool]) -> None:
        """The rest of the levels: more base groups, equal-N subsets of the reference set, the base's probe.

        Raises:
            Stopped: on request; what was measured is measured again after a resume.
        """
        self.progress.base_scores = self.progress.base_scores[:1]
        self._draw_base_groups(reward, BASE_LEVEL_GROUPS, should_stop)
        if self.config.probe_every:
            self._probe_base(reward)
        self.progress.reference_level = self._reference_level(reward)

    def refine(self, reward: Any, should_stop: Callable[[], bool]) -> bool:
        """Draw the base groups that are due after so many episodes; what is due follows from the episode alone, so a resume catches up.

        A reward that remembers earlier groups would score the base in their company, and is left with the first groups.

        Returns:
            Whether the base level has changed.

        Raises:
            Stopped: on request.
        """
        later = (self.progress.episode - self.progress.levels_from) // BASE_EVERY if reward.scores_alone else 0
        changed = self._draw_base_groups(reward, min(MOST_BASE_GROUPS, BASE_LEVEL_GROUPS + later), should_stop)
        if self.config.probe_every and not self.progress.probes:
            self._probe_base(reward)
        return changed

    def _draw_base_groups(self, reward: Any, due: int, should_stop: Callable[[], bool]) -> bool:
        """Draw and score what is missing of the first `due` base groups; returns whether any was."""
        had = len(self.progress.base_scores)
        for number in range(had, due):
            self.add_base_score(reward, self.draw_base_group(number, should_stop), number)
        return due > had

    def _reference_level(self, reward: Any) -> float:
        images, captions = self.session.reference_images, self.session.reference_captions or [""] * len(self.session.reference_images)
        subsets = reference_subsets(self.config, len(images), self.config.group_size, REFERENCE_SUBSETS)
        with reward.whole_reference():
            scores = [float(reward.score_set(images[subset], [captions[i] for i in subset])) for subset in subsets]
        return mean_of_finite(scores)

    def _probe_base(self, reward: Any) -> None:
        self.base_probed = self.probe(reward, base=True)
        self.progress.probes = [self.base_probed["score"]]

    def probe(self, reward: Any, base: bool = False) -> dict[str, float | None]:
        """Score, realism and prompt relevance (`RewardFunction.probe`) of the fixed test images under the averaged policy or the base, without exploration noise."""
        index, seeds = fixed_group(self.config, len(self.session.test_prompts), self.config.probe_images, PROBE)
        embeds = self.session.test_embeds[index]
        images = self.session.agent.rollout(embeds, seeds, None, deterministic=True, use_ema=not base, base=base, guidance_scale=self.guidance).images
        with reward.whole_reference():
            return reward.probe(images, [self.session.test_prompts[i] for i in index])

    def probe_pair(self, reward: Any, episode: int, index: list[int], seeds: list[int], should_stop: Callable[[], bool]) -> dict[str, float | None]:
        """Score, realism and prompt relevance of what the base draws from an episode's prompts and seeds, with the noise that a policy has before its first update.

        Raises:
            Stopped: on request.
        """
        images = self.session.agent.rollout(self.session.train_embeds[index], seeds, episode, base=True, should_stop=should_stop).images
        return reward.probe(images, [self.session.train_prompts[i] for i in index])

    def twin_credit(self, reward: Any, episode: int, index: list[int], seeds: list[int], should_stop: Callable[[], bool]) -> torch.Tensor:
        """Credit [B] of the group that the policy's mean action draws from the same prompts and seeds.

        Raises:
            Stopped: on request.
        """
        images = self.session.agent.rollout(self.session.train_embeds[index], seeds, episode, deterministic=True, should_stop=should_stop).images
        return reward.credit(images, [self.session.train_prompts[i] for i in index], torch.tensor(index))
