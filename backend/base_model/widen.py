"""More latent channels for a trained model: further principal components behind those that it knows.

The new components are orthogonal to the old ones, so nothing that was learned becomes wrong. Every weight that meets a new channel starts
at zero: the wider model draws and decodes exactly what the narrower one did, and learns the rest from there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from backend.base_model.denoiser import Denoiser, build_unet
from backend.base_model.linear_code import ENCODER_WIDTH, WHITENING, LinearCode, build_autoencoder, to_patches
from backend.errors import InputError

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny


def check_channels(code: LinearCode, channels: int) -> None:
    """Refuse a number of channels that the code cannot be widened to.

    Raises:
        InputError: fewer channels than the code has, or more than the encoder holds.
    """
    known, dimensions = code.matrix.shape
    most = min(dimensions, ENCODER_WIDTH)
    if not known <= channels <= most:
        raise InputError(f"{channels} latent channels: this model has {known} already and its encoder holds {most}; give one of {known} to {most}")


def widen_code(code: LinearCode, images: np.ndarray, channels: int) -> LinearCode:
    """The code with further components of the patches of uint8 images [N, h, w, 3].

    Args:
        code: its components stay as they are.
        images: whose patches say what is missing.
        channels: in all.

    Raises:
        InputError: as `check_channels`.
    """
    check_channels(code, channels)
    known, dimensions = code.matrix.shape
    patches = to_patches(images).astype(np.float64)
    covariance = np.cov((patches - patches.mean(0)).T)
    axes = code.matrix / np.linalg.norm(code.matrix, axis=1, keepdims=True)
    old = np.einsum("ci,ij,cj->c", axes, covariance, axes)  # variance along each known axis
    gain = float(np.exp(np.mean(np.log(np.linalg.norm(code.matrix, axis=1)) + WHITENING / 2 * np.log(old))))
    aside = np.eye(dimensions) - np.linalg.pinv(axes) @ axes
    values, vectors = np.linalg.eigh(aside @ covariance @ aside)
    order = np.argsort(values)[::-1][: channels - known]
    added = (vectors[:, order] * gain * values[order] ** (-WHITENING / 2)).T
    added *= np.sign(added[np.arange(len(added)), np.abs(added).argmax(1)])[:, None]
    matrix = np.concatenate([code.matrix, added])
    kept = (old.sum() + values[order].sum()) / np.trace(covariance)
    return replace(code, matrix=matrix, offset=np.concatenate([code.offset, -added @ patches.mean(0)]), kept=float(kept))


def widen(vae: AutoencoderTiny, denoiser: Denoiser, code: LinearCode) -> tuple[AutoencoderTiny, Denoiser]:
    """Autoencoder and denoiser for a code of `widen_code`; what they knew they do as before."""
    wider = build_autoencoder(code)
    wider.decoder.load_state_dict(_padded(vae.decoder, wider.decoder))
    unet = build_unet(len(code.matrix))
    unet.load_state_dict(_padded(denoiser.unet, unet))
    return wider, Denoiser(unet, denoiser.text_encoder)


def _padded(narrow: torch.nn.Module, wide: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The narrow module's weights in the wide one's shapes, zero where a channel is new."""
    state, out = narrow.state_dict(), {}
    for name, value in wide.state_dict().items():
        out[name] = torch.zeros_like(value)
        out[name][tuple(slice(side) for side in state[name].shape)] = state[name]
    return out
