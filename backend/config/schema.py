"""Every hyperparameter once. From each line come the widget, the flag, the validator, the schema and the glossary."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from backend.config.catalogue import EXTRACTORS, METRICS, POLICIES
from backend.config.ensemble import parse_ensemble
from backend.config.setting import setting

SCHEMA_VERSION = 5
PAIR_EVERY = 5  # episodes between two groups that the base draws too, for the multipliers
SMALLEST_SET = 3  # images of which a set metric can tell what one adds


class TrainConfig(BaseModel):
    """All settings of one training run; also the content of a run's config.json."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, protected_namespaces=())

    schema_version: int = SCHEMA_VERSION

    # Run
    mode: str = setting("LORA_UNET", "Run", "Policy", "What is trained: UNet adapters, pushes that strengthen or weaken what is drawn, or schedule and guidance.", options="mode")
    metric: str = setting("MMD_VENDI", "Run", "Reward", "The set reward that the policy maximises.", options="metric")
    episodes: int = setting(200, "Run", "Episodes", "Number of episodes; each draws one group of images and updates the policy once.", ge=1, le=1_000_000)
    seed: int = setting(0, "Run", "Seed", "Every random number of the run follows from it.", ge=0, le=2**31 - 1)
    base_model: str = setting("assets/models/crater-tiny", "Run", "Base model", "Folder or hub id of a pipeline like Stable Diffusion 1.x and 2.x (not SDXL).", trusted=True)
    train_prompts: str = setting("assets/prompts/train.txt", "Run", "Training prompts", "Text file with one prompt a line.", trusted=True)
    test_prompts: str = setting("assets/prompts/test.txt", "Run", "Test prompts", "Text file with prompts that are never trained on; probes and evaluation use them.", trusted=True)
    reference: str = setting("reference_data", "Run", "Reference set", "Folder of the reference images with their manifest.", trusted=True)
    note: str = setting("", "Run", "Note", "Free text shown in the table of runs.", max_length=200)

    # Sampling
    prompts_per_group: int = setting(8, "Sampling", "Prompts in a group", "G: number of different prompts in one group.", ge=1, le=1024)
    images_per_prompt: int = setting(2, "Sampling", "Images per prompt", "n: images drawn for each prompt; the group has G x n images.", ge=1, le=256)
    num_inference_steps: int = setting(10, "Sampling", "Denoising steps", "T: denoising steps of one image.", ge=3, le=1000)
    guidance_scale: float = setting(
        7.5, "Sampling", "Guidance", "Classifier-free; 1 is off. Higher usually means less variety; with the embedded model it is the other way round.", live=True, ge=1, le=20
    )
    eta: float = setting(1.0, "Sampling", "Eta", "Share of DDIM's full noise in the trained window; 0 would leave nothing to learn from.", gt=0, le=1)
    window_start: int = setting(3, "Sampling", "Window start", "First trained denoising step, counted from the noisiest.", ge=0, le=999)
    window_size: int = setting(4, "Sampling", "Window size", "K: length of the contiguous run of stochastic, trained steps.", ge=1, le=1000)
    window_mode: Literal["fixed", "sliding", "random"] = setting(
        "fixed", "Sampling", "Window position", "Fixed, sliding one step an episode, or random each episode; never the last two steps."
    )
    detach_uncond: bool = setting(False, "Sampling", "Detach unconditional branch", "Train through the conditional branch of guidance only: cheaper, but another gradient.")

    # PPO
    algorithm: Literal["PPO", "TRPO"] = setting("PPO", "PPO", "Algorithm", "Clipped surrogate (PPO) or a natural-gradient step inside a KL bound (TRPO).")
    advantage: Literal["difference", "gae", "broadcast", "centred"] = setting(
        "difference",
        "PPO",
        "Credit",
        "difference: exact R(X)-R(X without i); gae: critic and GAE; broadcast: the set's score for every image; centred: the popular biased shortcut.",
    )
    pathwise: float = setting(
        1.0,
        "PPO",
        "Pathwise share",
        "Share of the update that follows the reward's own derivative through the denoising steps; the rest is PPO's surrogate on sampled credit, whose noise is many times as large. 0 is PPO on sampled credit alone, and what a reward without a derivative gets.",
        live=True,
        ge=0,
        le=1,
    )
    baseline: Literal["auto", "twin", "prompt"] = setting(
        "auto",
        "PPO",
        "Baseline",
        "twin: each image's credit less that of the image which the policy's mean action draws from the same seed (a second, noise-free rollout); prompt: less the prompt's running mean; auto: twin where sampled credit is all there is.",
    )
    learning_rate: float = setting(1.5e-3, "PPO", "Learning rate", "Adam's step size for the policy.", live=True, gt=0, le=1)
    learning_rate_critic: float = setting(1e-3, "PPO", "Critic learning rate", "Adam's step size for the value network.", live=True, gt=0, le=1)
    lr_scheduler: Literal["constant", "linear", "cosine"] = setting(
        "linear",
        "PPO",
        "Learning rate schedule",
        "Course of both learning rates, and of TRPO's trust region, over the run's episodes: constant, or falling toward zero at its end.",
    )
    clip_range_nats: float = setting(
        0.0,
        "PPO",
        "Clip range (nats)",
        "PPO clip range of the joint log-ratio; divided by the action's dimension. 0 takes the mode's own (LoRA 1.6, diversity 50, scheduler 0.2). TRPO: trust region of its square over four.",
        live=True,
        ge=0,
        le=1000,
    )
    ppo_epochs: int = setting(1, "PPO", "Epochs", "Passes over each group; 4 as in the original costs 2.6x a rollout instead of 1.4x.", ge=1, le=64)
    minibatches: int = setting(2, "PPO", "Minibatches", "Optimiser steps per epoch; at least 2, or the ratio is always 1 and nothing ever clips.", ge=2, le=256)
    adam_eps: float = setting(
        1e-15,
        "PPO",
        "Adam's epsilon",
        "Added to Adam's root mean square of a gradient. Losses are means per action element, so gradients are of size 1e-8: the usual 1e-8 all but freezes most weights.",
        gt=0,
        le=1,
    )
    max_grad_norm: float = setting(0.5, "PPO", "Gradient clipping", "Largest norm of the policy's and the critic's gradient.", gt=0, le=1e6)
    target_kl_nats: float = setting(
        10.0,
        "PPO",
        "KL early stop (nats)",
        "An update ends early when the exact KL to the old policy per denoising step exceeds this; times 4000 for DIVERSITY_POLICY, whose noise is thirty times narrower.",
        gt=0,
        le=1e6,
    )
    gamma: float = setting(0.99, "PPO", "Discount", "Discount over denoising steps for GAE.", ge=0, le=1)
    gae_lambda: float = setting(0.95, "PPO", "GAE lambda", "Bias-variance trade-off of generalised advantage estimation.", ge=0, le=1)
    vf_coef: float = setting(0.5, "PPO", "Value coefficient", "Weight of the critic's loss.", ge=0, le=100)
    clip_range_value: float = setting(0.2, "PPO", "Value clipping", "Largest change of a value estimate in one update; 0 switches it off.", ge=0, le=100)
    advantage_clip: float = setting(5.0, "PPO", "Advantage clipping", "Advantages are cut to this many standard deviations.", gt=0, le=100)
    replay_groups: int = setting(0, "PPO", "Replayed groups", "Recent trajectories that are trained on again, their ratio guarded; 0 is on-policy.", ge=0, le=64)

    # Exploration
    entropy_coef: float = setting(
        0.01, "Exploration", "Entropy coefficient", "Start value of the entropy bonus; adapted toward the target where the policy learns its own spread.", live=True, ge=0, le=10
    )
    entropy_target: float = setting(
        -1.5, "Exploration", "Entropy target", "Wanted entropy per action element, relative to that of a unit Gaussian, for policies with a learned spread.", ge=-10, le=10
    )
    log_std_floor: float = setting(-2.5, "Exploration", "Floor of log std", "A learned log standard deviation never falls below this.", ge=-20, le=2)
    kl_base_coef: float = setting(
        0.02, "Exploration", "KL to base", "Start value of the penalty that holds the policy near the base model; 0 switches it off.", live=True, ge=0, le=1000
    )
    kl_base_target_nats: float = setting(
        20.0, "Exploration", "KL to base, target (nats)", "The penalty's coefficient is adapted toward this KL per denoising step (DIVERSITY_POLICY: times 4000).", gt=0, le=1e6
    )

    # Policy
    lora_rank: int = setting(16, "Policy", "LoRA rank", "Rank of the adapters.", ge=1, le=512)
    lora_alpha: float = setting(16.0, "Policy", "LoRA alpha", "Adapters are scaled by alpha / rank.", gt=0, le=4096)
    lora_targets: Literal["attention", "attention+conv"] = setting(
        "attention+conv", "Policy", "LoRA targets", "Attention projections alone, or the convolutions of the residual blocks too."
    )
    perturbation_scale: float = setting(
        0.3,
        "Policy",
        "Perturbation scale",
        "Largest push of DIVERSITY_POLICY per denoising step, in latent standard deviations: how far it strengthens or weakens what is drawn.",
        gt=0,
        le=2,
    )
    init_log_std: float = setting(-1.0, "Policy", "Initial log std", "Initial spread of the policies that learn their own.", ge=-5, le=2)
    ema_decay: float = setting(0.9, "Policy", "EMA decay", "Decay of the moving average of the policy's weights that evaluation uses; 0 switches it off.", ge=0, lt=1)

    # Reward
    reward_mode: Literal["difference", "batch", "single"] = setting(
        "difference",
        "Reward",
        "Reward mode",
        "difference: credit of each image in its set; batch: the set's score with a moving baseline; single: each image against the queue alone.",
    )
    extractor: str = setting("efficientnet_lite0", "Reward", "Feature extractor", "Network whose features the reward compares.", options="extractor")
    ensemble: str = setting(
        "",
        "Reward",
        "Ensemble",
        "Weighted metrics that replace the single one, each on its own extractor if named: 'MMD=1, COVERAGE=0.5, LPIPS@efficientnet_lite0=0.2'. Empty: the metric above alone.",
        max_length=400,
    )
    mmd_kernel: Literal["rbf", "rbf_mixture", "polynomial"] = setting(
        "rbf_mixture", "Reward", "MMD kernel", "RBF at the reference's median distance, a mixture of bandwidths, or KID's cubic polynomial."
    )
    mmd_weight: float = setting(0.7, "Reward", "MMD share", "Weight of MMD in MMD_MI.", ge=0, le=1)
    mi_weight: float = setting(0.3, "Reward", "MI share", "Weight of MI in MMD_MI.", ge=0, le=1)
    vendi_weight: float = setting(0.03, "Reward", "Vendi share", "Weight of the Vendi score over the number of images beside MMD in MMD_VENDI.", ge=0, le=100)
    vendi_order: float = setting(2.0, "Reward", "Vendi order", "Order q of the Vendi score; 1 is the original, 2 is exact and fast.", gt=0, le=64)
    knn_k: int = setting(3, "Reward", "Neighbours", "k of the nearest-neighbour estimates (MI, coverage, precision, novelty).", ge=1, le=50)
    pca_dims: int = setting(32, "Reward", "PCA dimensions", "Dimensions kept for the Fréchet distance; MI takes at most 8 of them.", ge=2, le=64)
    queue_size: int = setting(512, "Reward", "Feature queue", "Recent images whose features are kept as company for small groups and as FID's and MI's pool.", ge=8, le=65536)
    company: int = setting(
        48,
        "Reward",
        "Company",
        "Recent images that join the group where the reward is differentiated: sixteen images alone say little of how varied the policy is.",
        ge=0,
        le=65536,
    )
    normalise_floor: float = setting(1e-3, "Reward", "Normaliser floor", "Smallest running standard deviation a reward component is divided by.", gt=0, le=10)

    # Reward weights
    diversity_weight: float = setting(1.0, "Reward weights", "Diversity", "Weight of the chosen metric's credit.", live=True, ge=0, le=100)
    use_bonuses: bool = setting(True, "Reward weights", "Bonuses", "Add the bonuses below.")
    sequential_weight: float = setting(0.1, "Reward weights", "Sequential", "Bonus for being unlike the most recent images.", live=True, ge=0, le=100)
    spatial_weight: float = setting(0.1, "Reward weights", "Spatial", "Bonus for compositions that vary across images and regions.", live=True, ge=0, le=100)
    entropy_weight: float = setting(
        0.05,
        "Reward weights",
        "Entropy",
        "Bonus for information content of the image; it has no derivative, so it does nothing where the update is pathwise.",
        live=True,
        ge=0,
        le=100,
    )
    quality_weight: float = setting(0.2, "Reward weights", "Quality", "Bonus for realism: closeness to the reference's manifold.", live=True, ge=0, le=100)
    adherence_weight: float = setting(0.0, "Reward weights", "Prompt relevance", "Bonus for crater attributes that match the prompt.", live=True, ge=0, le=100)

    lagrange_rate: float = setting(
        0.0,
        "Reward weights",
        "Multipliers' rate",
        "By how much, every fifth episode, quality and prompt relevance gain weight for each standard deviation that they lie below the base's (Lagrange multipliers), and lose it again; 0 keeps the weights as they are set, 1 holds both.",
        ge=0,
        le=10,
    )
    lagrange_slack: float = setting(
        0.0, "Reward weights", "Multipliers' slack", "Standard deviations by which quality and prompt relevance may lie below the base's before they gain weight.", ge=0, le=10
    )

    # Curriculum
    curriculum: Literal["none", "diversity_weight", "guidance", "reference"] = setting(
        "none", "Curriculum", "Curriculum", "What grows over the run: the diversity weight, the guidance, or the share of the reference set."
    )
    curriculum_by: Literal["schedule", "success"] = setting(
        "schedule", "Curriculum", "Advance by", "By schedule over the episodes, or whenever the score beats its moving average."
    )
    curriculum_start: float = setting(0.3, "Curriculum", "Start level", "Share of the final value at episode 0.", ge=0.05, le=1)
    curriculum_episodes: int = setting(50, "Curriculum", "Length", "Episodes until the final value is reached by schedule.", ge=1, le=1_000_000)

    # Evaluation
    probe_every: int = setting(10, "Evaluation", "Probe every", "Episodes between fixed-seed probes on test prompts; 0 switches them off.", ge=0, le=1_000_000)
    probe_images: int = setting(20, "Evaluation", "Probe images", "Images of one probe.", ge=2, le=4096)
    eval_images: int = setting(
        64, "Evaluation", "Final images", "Images each of base and tuned model in the evaluation at the run's end; 0 skips it. Published figures use 1024.", ge=0, le=65536
    )

    # Checkpoints
    save_every: int = setting(10, "Checkpoints", "Save every", "Episodes between checkpoints.", ge=1, le=1_000_000)
    keep_last: int = setting(3, "Checkpoints", "Keep last", "Newest checkpoints kept besides the best.", ge=1, le=1000)
    sample_every: int = setting(5, "Checkpoints", "Sample every", "Episodes between fixed-seed sample grids.", ge=1, le=1_000_000)
    tracker: Literal["none", "tensorboard", "trackio"] = setting("none", "Checkpoints", "Tracker", "Also write the metrics to an installed tracker.")

    # Hardware
    executor: Literal["auto", "thread", "process"] = setting(
        "auto", "Hardware", "Executor", "Train in a thread of the page or in a child process; auto takes the thread for the embedded model."
    )
    device: str = setting("auto", "Hardware", "Device", "auto, cpu, cuda or cuda:N.", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    precision: Literal["fp32", "bf16", "fp16"] = setting(
        "fp32",
        "Hardware",
        "Precision",
        "Weights of the frozen base; latents and log-probs are fp32 always. On a GPU fp16 halves the memory; bf16 rounds eight times as coarsely, and guidance amplifies that to nats of KL: it costs trust region.",
    )
    threads: int = setting(0, "Hardware", "CPU threads", "Torch threads; 0 takes all cores. Recorded, since results depend on it in the last bit.", ge=0, le=1024)
    micro_batch: int = setting(
        0, "Hardware", "Micro-batch", "(Image, step) pairs replayed at once; 0 takes as many as a minibatch has images. Smaller needs less memory.", ge=0, le=4096
    )
    gradient_checkpointing: bool = setting(
        False, "Hardware", "Gradient checkpointing", "Recompute activations of UNet and autoencoder in the backward pass: less memory, a third slower."
    )
    attention_slicing: bool = setting(
        False,
        "Hardware",
        "Attention slicing",
        "The autoencoder meets one image at a time: less memory, slower. The UNet is not sliced: torch's attention needs less memory than slices do in training.",
    )
    clear_cache_every: int = setting(10, "Hardware", "Clear cache every", "Episodes between releases of the accelerator's cached memory; 0 never.", ge=0, le=1_000_000)

    @property
    def draws_twins(self) -> bool:
        """Whether each group is drawn a second time without noise, as the baseline of its credit."""
        wanted = self.baseline == "twin" or (self.baseline == "auto" and not self.pathwise_share)
        return wanted and self.advantage == "difference"

    @property
    def rollouts(self) -> float:
        """How often a group is drawn on average: by the policy, by its twin, and every fifth by the base."""
        return 1 + self.draws_twins + (1 / PAIR_EVERY if self.lagrange_rate else 0)

    @property
    def pathwise_share(self) -> float:
        """The share of the pathwise gradient: `pathwise` where policy, metrics and credit allow one, else 0."""
        metrics = [part.metric for part in parse_ensemble(self.ensemble, self.extractor)] or [self.metric]
        able = POLICIES.get(self.mode).differentiable and all(METRICS.get(name).differentiable for name in metrics)
        return self.pathwise if able and self.advantage == self.reward_mode == "difference" and self.group_size >= SMALLEST_SET else 0.0

    @property
    def group_size(self) -> int:
        """B: images in one group."""
        return self.prompts_per_group * self.images_per_prompt

    @field_validator("mode", "metric", "extractor")
    @classmethod
    def _known(cls, value: str, info: Any) -> str:
        registry = {"mode": POLICIES, "metric": METRICS, "extractor": EXTRACTORS}[info.field_name]
        registry.get(value)
        return value

    @field_validator("ensemble")
    @classmethod
    def _readable(cls, value: str, info: Any) -> str:
        parse_ensemble(value, info.data.get("extractor", cls.model_fields["extractor"].default))
        return value

    @field_validator("*")
    @classmethod
    def _tidy(cls, value: Any, info: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"is {value}: give a finite number")
        folder = info.field_name in ("base_model", "reference")
        return value.rstrip("/") or value if folder else value  # a shell completes a folder's name with a slash, and the page offers it without

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        last = self.num_inference_steps - 2
        if self.window_start + self.window_size > last:
            raise ValueError(
                f"window_start {self.window_start} + window_size {self.window_size} is beyond step {last}: the last two of "
                f"{self.num_inference_steps} steps are never trained; lower window_start or window_size, or raise num_inference_steps"
            )
        if self.minibatches > max(2, self.group_size):  # a group of one image is one minibatch
            raise ValueError(f"minibatches {self.minibatches} is more than the {self.group_size} images of a group: lower it or raise prompts_per_group")
        if self.company > self.queue_size and self.pathwise_share:
            raise ValueError(f"company {self.company} is more than the {self.queue_size} images of the feature queue that it is taken from: lower it or raise queue_size")
        return self
