"""Tokenizer and text encoder of the embedded model: CLIP's classes, with a vocabulary of the captions' own words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from transformers import CLIPTextModel, CLIPTokenizer

MAX_TOKENS = 32  # longest caption of the grammar is 24 words; start and end tokens besides
EMBED_DIM = 128


def byte_alphabet() -> list[str]:
    """The 256 printable stand-ins for bytes that byte-level BPE uses (GPT-2's table, as in `tokenizers`)."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def learn_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent first, until every word is one token (Sennrich et al. 2016, 1508.07909, algorithm 1).

    Args:
        words: lower-case words.

    Returns:
        Merges in the order of their rank. Applying them in that order makes each word one token.
    """
    pieces = {word: [*word[:-1], word[-1] + "</w>"] for word in sorted(set(words))}
    merges: list[tuple[str, str]] = []
    while True:
        counts: dict[tuple[str, str], int] = {}
        for tokens in pieces.values():
            for pair in zip(tokens, tokens[1:], strict=False):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            return merges
        best = max(sorted(counts), key=counts.__getitem__)
        merges.append(best)
        for word, tokens in pieces.items():
            pieces[word] = _merge(tokens, best)


def _merge(tokens: list[str], pair: tuple[str, str]) -> list[str]:
    merged, i = [], 0
    while i < len(tokens):
        if i + 1 < len(tokens) and (tokens[i], tokens[i + 1]) == pair:
            merged.append(tokens[i] + tokens[i + 1])
            i += 2
        else:
            merged.append(tokens[i])
            i += 1
    return merged


def build_tokenizer(words: Iterable[str]) -> CLIPTokenizer:
    """A `CLIPTokenizer` that knows `words` as single tokens and spells every other word in bytes."""
    from transformers import CLIPTokenizer

    alphabet = byte_alphabet()
    merges = learn_merges(words)
    names = [*alphabet, *(a + "</w>" for a in alphabet), *dict.fromkeys(a + b for a, b in merges), "<|startoftext|>", "<|endoftext|>"]
    vocab = {name: index for index, name in enumerate(dict.fromkeys(names))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)


def tokenise(tokenizer: CLIPTokenizer, words: Sequence[str]) -> torch.Tensor:
    """Token ids [P, L] of P prompts."""
    return tokenizer(list(words), padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt").input_ids


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A two-layer `CLIPTextModel` for that tokenizer; it is trained together with the UNet."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=EMBED_DIM,
            intermediate_size=2 * EMBED_DIM,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=EMBED_DIM,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def with_unknown_words(caption: str, rng: np.random.Generator, share: float = 0.15) -> str:
    """Put made-up words into a caption now and then, so that the model learns that they mean nothing.

    Args:
        caption: words separated by spaces.
        rng: source of randomness.
        share: probability that the caption gets one to three of them.
    """
    if rng.random() >= share:
        return caption
    words = caption.split()
    for _ in range(rng.integers(1, 4)):
        letters = rng.integers(ord("a"), ord("z") + 1, size=rng.integers(2, 9))
        words.insert(int(rng.integers(0, len(words) + 1)), "".join(map(chr, letters)))
    return " ".join(words)
