"""LORA_UNET: low-rank adapters (Hu et al. 2021, arXiv 2106.09685) on a frozen UNet; each stochastic DDIM step is an action."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backend.config import TrainConfig
from backend.diffusion.backbone import Backbone
from backend.diffusion.guidance import guided_prediction
from backend.diffusion.kernel import Gaussian, stochastic_step
from backend.diffusion.noise import NoiseSource, mix
from backend.diffusion.sampler import Action, StepOutcome, StepState
from backend.diffusion.trajectory import Transitions
from backend.errors import InputError
from backend.policies.base import Policy

ADAPTER = "policy"
TARGETS = {"attention": ["to_q", "to_k", "to_v", "to_out.0"], "attention+conv": ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"]}
WEIGHTS_FILE = "pytorch_lora_weights.safetensors"
INIT_STREAM = 1 << 20


class LoRAPolicy(Policy):
    """Adapters on the UNet; pi(x_{t-1} | x_t, t, prompt) is DDIM's Gaussian in the window, all other steps are deterministic."""

    default_clip_nats = 1.6  # DDPO's 1e-4 per element at 4*64*64 elements
    base_is_zero = False

    def __init__(self, config: TrainConfig, backbone: Backbone) -> None:
        from peft import LoraConfig

        super().__init__(config, backbone)
        unet = backbone.unet
        if ADAPTER in getattr(unet, "peft_config", {}):
            unet.delete_adapters(ADAPTER)
        unet.add_adapter(LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=TARGETS[config.lora_targets], init_lora_weights=True), adapter_name=ADAPTER)
        unet.eval()
        self._start()

    def _start(self) -> None:
        """Adapters in float32; A drawn from the run's seed (Kaiming uniform, as peft draws it), B zero."""
        for index, (name, parameter) in enumerate(self.trainable().items()):
            parameter.data = parameter.data.float()
            if ".lora_A." in name:
                generator = torch.Generator().manual_seed(mix(self.config.seed, INIT_STREAM + index))
                bound = 1 / math.sqrt(parameter[0].numel())
                parameter.data.copy_((torch.rand(parameter.shape, generator=generator) * 2 - 1) * bound)

    @property
    def action_dimension(self) -> int:
        """C H W: the action is the next latent."""
        return math.prod(self.backbone.latent_shape)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The adapters' matrices by their name in the UNet."""
        return {name: p for name, p in self.backbone.unet.named_parameters() if f".{ADAPTER}." in name}

    def _gaussian(self, state: StepState | Transitions, latents: torch.Tensor, prediction: torch.Tensor) -> Gaussian:
        backbone = self.backbone
        return stochastic_step(latents, prediction, state.alpha, state.alpha_prev, self.config.eta, backbone.prediction_type)

    def step(self, state: StepState, noise: NoiseSource) -> StepOutcome:
        """A draw from the step's Gaussian in the window, deterministic DDIM elsewhere and in evaluation."""
        if not state.trained or state.deterministic:
            return super().step(state, noise)
        gaussian = self._gaussian(state, state.latents, state.prediction)
        value = gaussian.sample(noise.step(state.index, gaussian.mean.shape[1:]))
        return StepOutcome(value, Action(state.latents, value, gaussian))

    def distribution(self, transitions: Transitions) -> Gaussian:
        """The same Gaussian under the present adapters, with gradients through both guidance branches."""
        t = transitions
        prediction = guided_prediction(self.backbone, t.state, t.timestep, t.embeds, t.guidance, detach_uncond=self.config.detach_uncond)
        return self._gaussian(t, t.state, prediction)

    @contextmanager
    def as_base(self) -> Iterator[None]:
        """Adapters switched off: no second copy of the model is held."""
        self.backbone.unet.disable_adapters()
        try:
            yield
        finally:
            self.backbone.unet.enable_adapters()

    def describe(self, embeds: torch.Tensor | None = None) -> dict[str, Any]:
        """JSON-able facts for the page."""
        layers = len(self.trainable()) // 2
        return super().describe(embeds) | {"rank": self.config.lora_rank, "targets": self.config.lora_targets, "adapted_layers": layers}

    def save(self, folder: str | Path) -> Path:
        """Write the adapters in diffusers' LoRA format, for `StableDiffusionPipeline.load_lora_weights(folder)`."""
        from diffusers import StableDiffusionPipeline
        from peft.utils import get_peft_model_state_dict

        unet = self.backbone.unet
        layers = {name: t.detach().cpu().contiguous() for name, t in get_peft_model_state_dict(unet, adapter_name=ADAPTER).items()}
        metadata = {"r": self.config.lora_rank, "lora_alpha": self.config.lora_alpha, "target_modules": sorted(TARGETS[self.config.lora_targets])}
        StableDiffusionPipeline.save_lora_weights(str(folder), unet_lora_layers=layers, unet_lora_adapter_metadata=metadata, weight_name=WEIGHTS_FILE)
        return Path(folder) / WEIGHTS_FILE

    def load(self, folder: str | Path) -> None:
        """Read adapters that `save` wrote.

        Raises:
            InputError: no such file, or other layers or ranks than configured.
        """
        from safetensors.torch import load_file

        path = Path(folder) / WEIGHTS_FILE
        if not path.is_file():
            raise InputError(f"{path} does not exist: choose a checkpoint of a LORA_UNET run")
        tensors = {name.removeprefix("unet.").replace(".weight", f".{ADAPTER}.weight"): value for name, value in load_file(path).items()}
        self.load_trainable(tensors)
