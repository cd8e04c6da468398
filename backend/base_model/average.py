"""The mean of several trainings' weights: what each learned by chance falls out.

Weights of trainings that branched off one another, or that go on from each other with the learning rate raised anew, can be averaged (Izmailov et al. 2018,
arXiv 1803.05407; Wortsman et al. 2022, 2203.05482). The adversarial finish takes few pictures a step, and each of its runs gets other attributes right.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from backend.base_model.linear_code import read_code
from backend.base_model.recipe import DESCRIBED, assemble, open_parts, training_record, weights_sha256
from backend.base_model.target import check_target, replace_folder
from backend.errors import InputError


def average(folders: Sequence[Path], out: Path) -> Path:
    """Write the pipeline whose weights are the mean of those of several.

    Args:
        folders: two or more pipelines of this recipe, with the same latents and the same words.
        out: folder of the new one.

    Raises:
        InputError: fewer than two, one twice, `out` among them, or pipelines that cannot be averaged; nothing is written then.
    """
    check_target(out)
    places = [folder.resolve() for folder in (*folders, out)]
    if len(folders) < 2 or len(set(places)) < len(places):
        raise InputError(f"{len(folders)} pipelines to {out}: name two or more different folders, and another one with --out")
    (vae, denoiser, tokenizer), *others = (open_parts(folder, 0) for folder in folders)
    for folder, (other, _, words) in zip(folders[1:], others, strict=True):
        if words.get_vocab() != tokenizer.get_vocab() or not same_code(other, vae):
            raise InputError(f"{folder} has other latents or words than {folders[0]}, so their weights mean different things: name trainings that started from one another")
    _to_mean(vae, [other for other, _, _ in others])
    _to_mean(denoiser, [other for _, other, _ in others])
    record = {"averaged": [training_record(folder) | {"weights_sha256": weights_sha256(folder)} for folder in folders]}
    replace_folder(out, lambda folder: assemble(denoiser, vae, tokenizer, folder, record), DESCRIBED)
    return out


def same_code(a: nn.Module, b: nn.Module) -> bool:
    """Whether two autoencoders' latents mean the same."""
    first, second = read_code(a), read_code(b)
    return first.matrix.shape == second.matrix.shape and bool(abs(first.matrix - second.matrix).max() < 1e-3)


@torch.no_grad()
def _to_mean(model: nn.Module, others: Sequence[nn.Module]) -> None:
    """A model's parameters become the mean of its and the others', in double precision."""
    for own, *theirs in zip(model.parameters(), *(other.parameters() for other in others), strict=True):
        own.copy_(torch.stack([own, *theirs]).double().mean(0))
