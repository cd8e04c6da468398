"""The fixed-seed sample grid, with what the reward says of each image, and the denoising of its first image."""

from __future__ import annotations

from typing import Any

import torch

from backend.config import TrainConfig
from backend.runs import Run
from backend.training.levels import Levels
from backend.training.packing import snapshot
from backend.training.pictures import save_grid
from backend.training.recorder import Recorder
from backend.training.seeds import BASE, fixed_group
from backend.training.session import Session

SAMPLES = 8  # images of a grid: half a default group, so that a sample costs about a tenth of the episodes between two


class Sampler:
    """Draws the same prompts and seeds again and again, in the window and at the guidance of the settings, so that only the policy changes."""

    def __init__(self, config: TrainConfig, run: Run, recorder: Recorder, session: Session, levels: Levels) -> None:
        self.config, self.run, self.recorder, self.session, self.levels = config, run, recorder, session, levels

    def draw(self, episode: int, reward: Any) -> None:
        """Write `images/episode_<n>.png` and `images/denoising_<n>.png` with their descriptions; the training state stays as it is.

        Episode 0 is the untouched base, whenever it is drawn.
        """
        self.recorder.phase("drawing samples")
        prompts = self.session.train_prompts
        index, seeds = fixed_group(self.config, len(prompts), SAMPLES, BASE)
        texts = [prompts[i] for i in index]
        agent = self.session.agent
        how = {"deterministic": True, "use_ema": episode > 0, "base": episode == 0, "guidance_scale": self.levels.guidance}
        trajectory = agent.rollout(self.session.train_embeds[index], seeds, None, **how)
        with reward.whole_reference():
            result = score_without_trace(reward, trajectory.images, texts, torch.tensor(index))
        described = [describe(result, i, texts[i], seeds[i]) for i in range(len(seeds))]
        name = f"episode_{episode:06d}"
        facts = {"episode": episode, "score": result.score, "kind": "sample", "prompts_of": "train"}
        facts["policy"] = agent.describe(self.session.train_embeds[index], use_ema=episode > 0, base=episode == 0)
        try:
            save_grid(self.run.images_dir / name, trajectory.images, described, columns=4, **facts)
            self._strip(episode, index[0], described[0])
        except OSError as error:
            self.recorder.alert(f"the sample after episode {episode} could not be written ({error.strerror or error})")
            return
        self.recorder.event("sample", episode=episode, image=f"{name}.png", score=result.score)

    def _strip(self, episode: int, index: int, described: dict[str, Any]) -> None:
        """The first image's way out of the noise."""
        if self.session.denoise is None:
            return
        frames = self.session.denoise(self.session.train_embeds[index : index + 1], described["seed"], base=episode == 0, guidance_scale=self.levels.guidance)
        facts = {"prompt": described["prompt"], "seed": described["seed"]}
        steps = [{"step": i} for i in range(len(frames))]
        save_grid(self.run.images_dir / f"denoising_{episode:06d}", frames, steps, columns=len(frames), episode=episode, kind="denoising", **facts)


def score_without_trace(reward: Any, images: torch.Tensor, prompts: list[str], index: torch.Tensor) -> Any:
    """The reward's full answer for a group that is not trained on; its memory is put back."""
    before = snapshot(reward.state_dict())
    try:
        return reward(images, prompts, index)
    finally:
        reward.load_state_dict(before)


def describe(result: Any, i: int, prompt: str, seed: int) -> dict[str, Any]:
    """What the page shows under image i."""
    return {
        "prompt": prompt,
        "seed": seed,
        "credit": float(result.total[i]),
        "raw_credit": float(result.raw_components["diversity"][i]) if "diversity" in result.raw_components else None,
        "components": {name: float(values[i]) for name, values in result.components.items()},
        "explanation": result.explanations[i],
    }
