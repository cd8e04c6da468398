"""An agent and its optimisers as plain tensors by name and JSON-able scalars, so that they can be kept in safetensors and resumed to the bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from backend.config import field_meta, field_names

if TYPE_CHECKING:
    from backend.ppo.agent import Agent

ADAM = ("exp_avg", "exp_avg_sq", "step")
COEFFICIENTS = ("entropy_coef", "kl_base_coef")


def adam_tensors(optimiser: torch.optim.Optimizer, named: dict[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    """Adam's moments and step counts by `name/moment`; parameters never stepped have none."""
    out = {}
    for name, parameter in named.items():
        for key in ADAM:
            if key in optimiser.state.get(parameter, {}):
                out[f"{name}/{key}"] = torch.as_tensor(optimiser.state[parameter][key]).detach().clone().contiguous()
    return out


def load_adam(optimiser: torch.optim.Optimizer, named: dict[str, torch.nn.Parameter], tensors: dict[str, torch.Tensor]) -> None:
    """Take over what `adam_tensors` gave."""
    optimiser.state.clear()
    for name, parameter in named.items():
        if f"{name}/step" in tensors:
            moments = {key: tensors[f"{name}/{key}"].to(parameter).clone() for key in ADAM[:2]}
            optimiser.state[parameter] = moments | {"step": tensors[f"{name}/step"].clone().cpu()}


def prefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names with a prefix."""
    return {f"{prefix}/{name}": t.detach().clone().contiguous() for name, t in tensors.items()}


def unprefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of one prefix, without it."""
    return {name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")}


def agent_state(agent: Agent) -> dict[str, Any]:
    """`tensors` by name and JSON-able `scalars`."""
    tensors = prefixed("policy", agent.policy.trainable_state()) | prefixed("ema", agent.ema.tensors)
    tensors |= prefixed("adam", adam_tensors(agent.optimiser, agent.policy.trainable())) | prefixed("memory", agent.memory.tensors())
    if agent.critic is not None:
        named = dict(agent.critic.named_parameters())
        tensors |= prefixed("critic", agent.critic.state_dict()) | prefixed("critic_adam", adam_tensors(agent.critic_optimiser, named))
    scalars = {
        "credit": agent.credit.state(),
        "noise_scale": agent.noise_scale.state(),
        "ema_updates": agent.ema.updates,
        "memory": agent.memory.sizes(),
        "live": {n: getattr(agent.config, n) for n in field_names() if field_meta(n)["live"]},
        **{name: [getattr(agent, name).value, getattr(agent, name).start] for name in COEFFICIENTS},
    }
    return {"tensors": tensors, "scalars": scalars}


def load_agent_state(agent: Agent, state: dict[str, Any]) -> None:
    """Take over what `agent_state` gave."""
    tensors, scalars = state["tensors"], state["scalars"]
    agent.policy.load_trainable(unprefixed("policy", tensors))
    for name, value in scalars["live"].items():
        if getattr(agent.config, name) != value:
            agent.set_knob(name, value)
    load_adam(agent.optimiser, agent.policy.trainable(), unprefixed("adam", tensors))
    agent.ema.tensors = {n: t.to(agent.backbone.device).clone() for n, t in unprefixed("ema", tensors).items()}
    agent.ema.updates = scalars["ema_updates"]
    if agent.critic is not None:
        agent.critic.load_state_dict(unprefixed("critic", tensors))
        load_adam(agent.critic_optimiser, dict(agent.critic.named_parameters()), unprefixed("critic_adam", tensors))
    agent.credit.load_state(scalars["credit"])
    agent.noise_scale.load_state(scalars["noise_scale"])
    agent.memory.load(unprefixed("memory", tensors), scalars["memory"])
    for name in COEFFICIENTS:
        coefficient = getattr(agent, name)
        coefficient.value, coefficient.start = scalars[name]
