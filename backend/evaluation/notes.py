"""What a reader of an evaluation must know, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backend.evaluation.compare import CLOSE, CLOSE_MARGIN, PRECISION, REALISM
from backend.evaluation.guards import GUARDS, missed, too_few
from backend.evaluation.protocol import PUBLISHED
from backend.reference.captions import parse_caption


def notes_on(result: Mapping[str, Any], known: Sequence[str] = ()) -> list[str]:
    """All notes of an evaluation.

    Args:
        result: of `evaluate_run`.
        known: what the stage has to say.
    """
    notes = [f"{result['images']} images each of base and tuned at the same prompts and seeds; {result['real_images']} real images; intervals by paired bootstrap."]
    if result["small"]:
        notes.append(f"This is a first look: published figures use {PUBLISHED} images, and Vendi scores of other subset sizes cannot be compared.")
    if result.get("reward_saw_judge"):
        notes.append(_no_stranger(result))
    if result.get("overlap"):
        notes.append(result["overlap"] + ".")
    notes += [*known, *_guards(result)]
    reach = result.get("attainable")
    if reach and reach["estimate"] is not None and 0 <= round(reach["estimate"], 2) <= 1:  # outside, base and ceiling do not stand as this sentence supposes
        notes.append(f"A perfect denoiser would close {reach['estimate']:.0%} of the gap: the rest is lost in the autoencoder, which no policy changes.")
    if result.get("trivial") and result["gap_closed"] is not None:
        notes.append(against_constants(result))
    return notes


def _no_stranger(result: Mapping[str, Any]) -> str:
    """That the judge's network is the reward's own, and what the judge without a network says instead."""
    gap, levels = result["gap"].get("wavelet"), next(row for row in result["table"] if row["measure"] == "Vendi score, wavelets")
    wide = gap is not None and gap["low"] is not None and levels["ceiling"] > levels["base"]  # else there is no gap to close
    instead = f" By wavelets, which need no network, {gap['estimate']:.0%} of the gap ({gap['low']:.0%} to {gap['high']:.0%}) is closed." if wide else ""
    return (
        f"The reward saw this judge's network ({result['judge']['extractor']}): what Lite2 says of gap, precision, adherence and memorisation is no stranger's verdict, "
        f"so no share of the gap stands as the result.{instead} Train with another extractor."
    )


def _guards(result: Mapping[str, Any]) -> list[str]:
    """What is said of guards that are not kept: damage, or too few images to tell."""
    guards, notes = result["guards"], []
    if "precision" in guards.get("unsettled", ()):
        rows = {row["measure"]: row for row in result["table"]}
        notes.append(
            f"The guard of precision is not kept, but {result['images']} images cannot tell damage from luck: its change, {rows[PRECISION]['estimate']:+.1f} points, may be "
            f"{rows[PRECISION]['low']:+.1f} to {rows[PRECISION]['high']:+.1f}. Realism, which tells sooner, changed by {rows[REALISM]['estimate']:+.4f} "
            f"({rows[REALISM]['low']:+.4f} to {rows[REALISM]['high']:+.4f}). Evaluate more images."
        )
    if "memorisation" in guards.get("unsettled", ()):
        close = next(row for row in result["table"] if row["measure"] == CLOSE)
        notes.append(
            f"The guard against memorisation is not settled by {result['images']} images: the share that is suspiciously close to the reference changed by "
            f"{100 * close['estimate']:+.1f} points and may have by up to {100 * close['high']:+.1f} (the margin is {100 * CLOSE_MARGIN:g})."
        )
    broken = [words for name, words in GUARDS if name in missed(guards) and name not in guards.get("unsettled", ())]
    if broken:
        notes.append(f"The guards are not kept: what diversity was gained is paid for with {' and '.join(broken)}.")
    return notes


def against_constants(result: Mapping[str, Any]) -> str:
    """How the policy stands to constant guidances: under the guards where it keeps them, else both without."""
    tried = [c for c in result["trivial"]["candidates"] if c["gap_closed"] is not None]
    widest = max([{"guidance": result["guidance"], "gap_closed": 0.0, "guards": result["guards"]}, *tried], key=lambda c: c["gap_closed"])
    if not result["guards"]["passed"]:
        why = f"which {result['images']} images do not settle for the policy" if too_few(result["guards"]) else "which the policy does not keep"
        return (
            f"Compared without the guards, {why}: the best constant guidance ({widest['guidance']:g}) closes {widest['gap_closed']:.0%} of the gap, "
            f"the policy {result['gap_closed']:.0%}."
        )
    best = result["trivial"]["best"]
    verdict = "more" if result["gap_closed"] > best["gap_closed"] else "not more"
    said = f"The best constant guidance under the guards ({best['guidance']:g}) closes {best['gap_closed']:.0%} of the gap; the policy, which keeps them too, closes {verdict}."
    if widest["gap_closed"] > best["gap_closed"]:
        why = f"{result['images']} images do not settle its guards" if too_few(widest["guards"]) else "it does not keep the guards"
        said += f" Guidance {widest['guidance']:g} does not count, though it closes {widest['gap_closed']:.0%}: {why}."
    if not any(c["guards"]["passed"] for c in tried):
        said += " Of the other guidances that were tried none passes."
    return said


def on_words(prompts: Sequence[str], simulated: bool) -> list[str]:
    """What must be known where no prompt has a word that the captions of renders are made of.

    Args:
        prompts: the test prompts.
        simulated: the reference set is rendered.
    """
    if any(parse_caption(prompt) for prompt in prompts):
        return []
    said = "No test prompt names a crater attribute in the words of the renderer's captions: whether images follow their prompts is not measured."
    rendered = " The ceiling and the real side are freely drawn craters; train and evaluate with photographs of what the prompts ask for as the reference set (--reference)."
    return [said + rendered * simulated]
