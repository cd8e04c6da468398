"""The agent: draws groups with its policy, turns their reward into credit, and updates the policy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from backend.config import TrainConfig, field_meta, field_names, make_config
from backend.diffusion.backbone import Backbone
from backend.diffusion.noise import NoiseSource, mix
from backend.diffusion.sampler import ShouldStop, check_stop, rollout
from backend.diffusion.trajectory import Trajectory
from backend.errors import InputError
from backend.policies.base import Policy
from backend.policies.value import ValueNetwork
from backend.ppo.advantages import Credit, CreditEstimator
from backend.ppo.batch import Batch
from backend.ppo.coefficients import AdaptiveCoefficient
from backend.ppo.ema import MovingAverage
from backend.ppo.losses import explained_variance
from backend.ppo.memory import ReplayMemory
from backend.ppo.noise_scale import GradientNoiseScale
from backend.ppo.objective import Settings, fill_stats
from backend.ppo.pulls import add_pulls, pulls_of
from backend.ppo.ranks import Ranks
from backend.ppo.state import agent_state, load_agent_state
from backend.ppo.stats import UpdateStats
from backend.ppo.trpo import TRPO
from backend.ppo.update import PPO

CRITIC_STREAM, WINDOW_STREAM = 1 << 21, 1 << 22
KL_BASE_SHRINK = 10.0  # it must be at hand again when the policy leaves the base


class Agent:
    """A policy with everything that trains it.

    Args:
        config: settings; live ones change by `set_knob`.
        backbone: the frozen model.
        policy: as `build_policy(config, backbone)` makes it.
    """

    def __init__(self, config: TrainConfig, backbone: Backbone, policy: Policy) -> None:
        self.config, self.backbone, self.policy = config, backbone, policy
        if config.gradient_checkpointing:
            backbone.save_memory()
        backbone.sliced = config.attention_slicing
        self.optimiser = torch.optim.Adam(policy.trainable().values(), lr=config.learning_rate, eps=config.adam_eps)
        self.critic = self.critic_optimiser = None
        if config.advantage == "gae":
            generator = torch.Generator().manual_seed(mix(config.seed, CRITIC_STREAM))
            self.critic = ValueNetwork(backbone.null_embedding.shape[-1], generator).to(backbone.device)
            self.critic_optimiser = torch.optim.Adam(self.critic.parameters(), lr=config.learning_rate_critic)
        self.credit = CreditEstimator(config)
        self.entropy_coef = AdaptiveCoefficient(config.entropy_coef, config.entropy_coef)
        self.kl_base_coef = AdaptiveCoefficient(config.kl_base_coef, config.kl_base_coef, KL_BASE_SHRINK)
        self.noise_scale = GradientNoiseScale()
        self.memory = ReplayMemory(config.replay_groups)
        self.ema = MovingAverage(policy, config.ema_decay)
        self.ppo = PPO(policy, self.optimiser, self.critic, self.critic_optimiser, self.noise_scale)
        self.trpo = TRPO(policy, self.optimiser, self.critic, self.critic_optimiser, self.noise_scale)
        self.ranks = Ranks()

    def join_ranks(self, ranks: Ranks) -> None:
        """From now on share rollouts, the way back and the pairs of each minibatch with other processes that do the same."""
        self.ranks = self.ppo.ranks = ranks

    @property
    def clip_range(self) -> float:
        """PPO's clip range per action element: the joint one in nats over d_a."""
        return self.clip_nats / self.policy.action_dimension

    @property
    def clip_nats(self) -> float:
        """PPO's clip range of the joint log-ratio in force."""
        return self.clip_nats_of(self.config)

    def clip_nats_of(self, config: TrainConfig) -> float:
        """The clip range that settings ask for; the mode's own where they say 0."""
        return config.clip_range_nats or self.policy.default_clip_nats

    def window(self, episode: int | None) -> tuple[int, int]:
        """First trained step and K in an episode: fixed, one step further each episode, or drawn from the run's seed; None is evaluation, where it stays."""
        c = self.config
        positions = c.num_inference_steps - 2 - c.window_size + 1
        if episode is None:
            return c.window_start, c.window_size
        if c.window_mode == "sliding":
            return (c.window_start + episode) % positions, c.window_size
        if c.window_mode == "random":
            generator = torch.Generator().manual_seed(mix(mix(c.seed, WINDOW_STREAM), episode))
            return int(torch.randint(positions, (1,), generator=generator)), c.window_size
        return c.window_start, c.window_size

    def rollout(
        self,
        prompt_embeds: torch.Tensor,
        seeds: Sequence[int],
        episode: int | None = 0,
        deterministic: bool = False,
        use_ema: bool = False,
        should_stop: ShouldStop | None = None,
        base: bool = False,
        guidance_scale: float | None = None,
    ) -> Trajectory:
        """Draw one group.

        Args:
            prompt_embeds: [B, L, E].
            seeds: noise seed of each image [B].
            episode: decides the window where it moves; None leaves it where the settings say.
            deterministic: mean actions, eta 0 (evaluation).
            use_ema: with the averaged weights.
            should_stop: asked before each denoising step.
            base: with the policy switched off (mean actions are then the base model's).
            guidance_scale: of this group alone; None takes the one in force.

        Raises:
            Stopped: the callback said so.
            InputError: as many prompts as seeds are needed.
        """
        if len(prompt_embeds) != len(seeds):
            raise InputError(f"{len(prompt_embeds)} prompt embeddings for {len(seeds)} seeds: give one of each per image")
        guidance = self.config.guidance_scale if guidance_scale is None else guidance_scale
        window, keywords = self.window(episode), {"num_inference_steps": self.config.num_inference_steps, "guidance_scale": guidance}
        with self.acting(use_ema, base):

            def draw(embeds: torch.Tensor, own: Sequence[int], stop: ShouldStop | None) -> Trajectory:
                device = self.backbone.device
                return rollout(self.backbone, self.policy, embeds.to(device), NoiseSource(own, device), window, deterministic=deterministic, should_stop=stop, **keywords)

            if self.ranks.size == 1:
                return draw(prompt_embeds, seeds, should_stop)
            # Nobody leaves half-way, or the others would wait for ever.
            mine = self.ranks.share(len(seeds)).tolist()
            part = draw(prompt_embeds[mine], [seeds[i] for i in mine], None).to("cpu") if mine else None
            return Trajectory.join([p for p in self.ranks.gather(part) if p is not None]).to(self.backbone.device)

    @contextmanager
    def acting(self, use_ema: bool = False, base: bool = False) -> Iterator[None]:
        """Within it the policy has the averaged weights, or acts as the base model does."""
        with ExitStack() as stack:
            if use_ema:
                stack.enter_context(self.ema.applied())
            if base:
                stack.enter_context(self.policy.as_base())
            yield

    def describe(self, prompt_embeds: torch.Tensor, use_ema: bool = True, base: bool = False) -> dict[str, Any]:
        """JSON-able facts of the policy for prompts [P, L, E], with the averaged weights or as the base acts; see `Policy.describe`."""
        with self.acting(use_ema, base):
            return self.policy.describe(prompt_embeds)

    @property
    def wants_twins(self) -> bool:
        """Whether `update` should be given the credit of each image's noise-free twin."""
        return self.config.draws_twins

    @property
    def wants_image_gradient(self) -> bool:
        """Whether `update` should be given the derivative of the reward by the images."""
        return self.config.pathwise_share > 0

    def advantages(self, trajectory: Trajectory, total_reward: torch.Tensor, prompt_index: torch.Tensor, group_score: float | None = None) -> Credit:
        """Advantages [K, B] of a group; the group joins the running baselines. See `CreditEstimator`."""
        values = torch.zeros_like(trajectory.log_probs)
        if self.critic is not None:
            with torch.no_grad():
                values = torch.stack([self.critic(trajectory.embeds, t) for t in trajectory.timesteps])
        return self.credit.estimate(total_reward, prompt_index, values, group_score)

    def update(
        self,
        trajectory: Trajectory,
        total_reward: torch.Tensor,
        prompt_index: torch.Tensor,
        prompt_embeds: torch.Tensor | None,
        generator: torch.Generator,
        should_stop: ShouldStop | None = None,
        group_score: float | None = None,
        baseline: torch.Tensor | None = None,
        image_gradient: torch.Tensor | None = None,
    ) -> UpdateStats:
        """Train on one group (and on remembered ones).

        Args:
            trajectory: what `rollout` gave.
            total_reward: credit of each image [B].
            prompt_index: which prompt each image has [B].
            prompt_embeds: [B, L, E]; None takes those of the trajectory.
            generator: shuffles the minibatches (CPU).
            should_stop: asked before each micro-batch.
            group_score: the set's score, used where the advantage is `broadcast`.
            baseline: what is subtracted from each image's reward [B]. The reward of its twin, drawn from the same seed by the mean
                action, does not depend on the action and takes away what the initial noise and the prompt decided
                (self-critical training, Rennie et al. 2017, arXiv 1612.00563; ReMax, 2310.10505).
            image_gradient: derivative of the group's reward by its images [B, 3, h, w], for the pathwise share of the update.

        Raises:
            Stopped: the callback said so; the minibatch under way is discarded.
        """
        if prompt_embeds is not None:
            trajectory.embeds = prompt_embeds.to(self.backbone.device)
        own = total_reward if baseline is None else total_reward - baseline.to(total_reward)
        credit = self.advantages(trajectory, own, prompt_index, group_score)
        stats = UpdateStats(advantage_std=credit.std, degenerate_share=float(credit.degenerate), skipped_nonfinite=float(credit.nonfinite > 0))
        group = Batch.of(trajectory, credit)
        settings = self._settings(len(trajectory))
        if image_gradient is not None:
            found = None if credit.degenerate else self.pulls(trajectory, image_gradient, credit.scale, settings.micro_batch, should_stop)
            stats.skipped_nonfinite = float(add_pulls(group, found) or credit.nonfinite > 0)
        if not self.policy.base_is_zero and bool(credit.advantages.any()):  # without a penalty too: a policy that runs away is to be seen
            self._add_base_means(group, trajectory, settings, generator, should_stop)
        batch = Batch.join([group, *self.memory.recall(self.backbone.device)])
        trainer = self.trpo if self.config.algorithm == "TRPO" else self.ppo
        tally = trainer.run(batch, settings, generator, should_stop)
        fill_stats(stats, tally, settings, self.policy.action_dimension)
        stats.entropy_coef = settings.entropy_coef
        self._after(stats, group, tally.steps)
        if baseline is not None:
            stats.explained_variance = explained_variance(baseline.to(total_reward), total_reward)
        return stats

    def _settings(self, images: int) -> Settings:
        c = self.config
        return Settings(
            clip_range=self.clip_range, target_kl=c.target_kl_nats * self.policy.kl_unit, epochs=c.ppo_epochs, minibatches=c.minibatches,
            micro_batch=c.micro_batch or -(-images // c.minibatches), max_grad_norm=c.max_grad_norm, vf_coef=c.vf_coef, clip_range_value=c.clip_range_value,
            entropy_coef=self.entropy_coef.value if self.policy.learns_std else 0.0, kl_base_coef=self.kl_base_coef.value / self.policy.kl_unit, pathwise=c.pathwise_share,
        )  # fmt: skip

    def pulls(
        self, trajectory: Trajectory, image_gradient: torch.Tensor, scale: float, micro_batch: int, should_stop: ShouldStop | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pulls of a group's actions, and which images have none that is finite: `pulls_of` with this agent's policy."""
        return pulls_of(self.backbone, self.policy, self.ranks, trajectory, image_gradient, scale, micro_batch, should_stop)

    def _add_base_means(self, group: Batch, trajectory: Trajectory, settings: Settings, generator: torch.Generator, should_stop: ShouldStop | None) -> None:
        """Base means of one random step of the window, for all images: 2 forwards an image rather than 2 K, and unbiased."""
        step = int(torch.randint(trajectory.steps, (1,), generator=generator))
        index = (group.transitions.step == step).nonzero().squeeze(1)
        means, found = torch.zeros_like(group.transitions.mean), []
        with torch.no_grad(), self.policy.as_base():
            mine = index[self.ranks.share(len(index)).to(index.device)]
            for part in mine.split(settings.micro_batch) if len(mine) else ():
                check_stop(should_stop)
                found.append(self.policy.distribution(group.transitions.take(part)).mean)
        means[index] = self.ranks.join(torch.cat(found) if found else None).to(means)
        group.transitions.base_mean, group.transitions.base_known = means, group.transitions.step == step
        settings.base_share = 1 / trajectory.steps

    def _after(self, stats: UpdateStats, group: Batch, steps: int) -> None:
        stats.explained_variance = explained_variance(group.values, group.returns) if self.critic is not None else 0.0
        stats.gradient_noise_scale = self.noise_scale.value
        stats.learning_rate = self.config.learning_rate
        stats.kl_base_coef = self.kl_base_coef.value
        if steps:
            self.ema.update()
            if self.policy.learns_std:
                self.entropy_coef.adapt(self.config.entropy_target - stats.entropy)
            if self.kl_base_coef.value:
                self.kl_base_coef.adapt(stats.kl_base / (self.config.kl_base_target_nats * self.policy.kl_unit) - 1)
        if bool(group.advantages.any()):
            self.memory.push(group)

    def set_knob(self, name: str, value: Any) -> None:
        """Change a setting while a run is training.

        Raises:
            InputError: unknown, not live, or out of bounds.
        """
        if name not in field_names() or not field_meta(name)["live"]:
            raise InputError(f"{name!r} cannot be changed during a run: live settings are {', '.join(n for n in field_names() if field_meta(n)['live'])}", field=name)
        config = make_config(self.config.model_dump() | {name: value})
        self.config = self.policy.config = self.credit.config = config
        if name in ("learning_rate", "learning_rate_critic"):
            optimiser = self.optimiser if name == "learning_rate" else self.critic_optimiser
            for group in optimiser.param_groups if optimiser else []:
                group["lr"] = getattr(config, name)
        if name in ("entropy_coef", "kl_base_coef"):
            getattr(self, name).reset(getattr(config, name))
        if name == "pathwise":
            self.memory.groups.clear()  # groups with and without pulls cannot be trained on together

    def state_dict(self) -> dict[str, Any]:
        """Everything an exact resume needs: `tensors` by name (safetensors) and JSON-able `scalars`."""
        return agent_state(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave, live settings included.

        Raises:
            InputError: the state is that of another mode or shape.
        """
        load_agent_state(self, state)

    def save_policy(self, folder: str | Path, use_ema: bool = True) -> Path:
        """Write the policy that evaluation draws with (LORA_UNET: diffusers' LoRA format), the averaged one unless told otherwise; returns the file."""
        with ExitStack() as stack:
            if use_ema:
                stack.enter_context(self.ema.applied())
            return self.policy.save(folder)

    def load_policy(self, folder: str | Path) -> None:
        """Read what `save_policy` wrote; the average starts again from it.

        Raises:
            InputError: missing, or another policy's.
        """
        self.policy.load(folder)
        self.ema.reset()
