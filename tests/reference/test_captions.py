"""Captions are true of the parameters, can be read back, and use a closed vocabulary."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import InputError
from backend.reference.captions import ATTRIBUTES, VOCABULARY, attribute_targets, caption, caption_targets, parse_caption, recombined, sample_for_caption, words
from backend.reference.renderer import INTERIORS, KINDS, RIMS, TERRAINS, CraterParameters, sample_parameters

PROMPTS = Path(__file__).parents[2] / "assets" / "prompts"
GRAMMAR = re.compile(r"(aerial|ground) view of ([a-z]+ )*mars craters( on [a-z ]+)?( with [a-z ]+)?( under (low|high) sun)?")


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_full_caption_says_exactly_the_words_of_the_parameters(seed):
    p = sample_parameters(np.random.default_rng(seed))
    text = caption(p)
    assert parse_caption(text) == words(p)
    assert GRAMMAR.fullmatch(text)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_short_captions_say_a_part_of_the_truth_in_known_words(seed):
    rng = np.random.default_rng(seed)
    p = sample_parameters(rng)
    text = caption(p, rng)
    assert parse_caption(text).items() <= words(p).items()
    assert set(text.split()) <= set(VOCABULARY)
    assert GRAMMAR.fullmatch(text)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_parameters_drawn_for_a_caption_obey_it(seed):
    rng = np.random.default_rng(seed)
    text = caption(sample_parameters(rng), rng)
    assert parse_caption(text).items() <= words(sample_for_caption(text, rng)).items()


@pytest.mark.parametrize("text", ["aerial view of ancient rayed mars craters", "ground view of large clustered mars craters under high sun with shadowed interiors"])
def test_words_that_seldom_go_together_are_obeyed_all_the_same(text):
    p = sample_for_caption(text, np.random.default_rng(0))
    assert parse_caption(text).items() <= words(p).items()


def test_unknown_words_and_order_do_not_matter():
    assert parse_caption("A breathtaking GROUND photo, red dust; craters: Bowl, with sharp   rims!") == {"view": "ground", "kind": "bowl", "rims": "sharp rims", "colour": "red"}
    assert parse_caption("") == {}


def test_the_same_generator_gives_the_same_captions():
    p = CraterParameters()
    assert [caption(p, np.random.default_rng(3)) for _ in range(2)] == [caption(p, np.random.default_rng(3))] * 2


@pytest.mark.parametrize("name, count", [("train", 400), ("test", 10)])
def test_prompts_are_in_the_grammar_and_name_every_part(name, count):
    prompts = (PROMPTS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    assert len(prompts) == len(set(prompts)) == count
    for prompt in prompts:
        assert GRAMMAR.fullmatch(prompt) and set(prompt.split()) <= set(VOCABULARY)
        assert {"view", "kind", "terrain", "rims", "interiors"} <= parse_caption(prompt).keys()


def test_test_prompts_are_new_combinations_of_words_seen_in_training():
    train, test = ((PROMPTS / f"{name}.txt").read_text(encoding="utf-8").splitlines() for name in ("train", "test"))
    assert not set(train) & set(test)
    assert {w for prompt in test for w in prompt.split()} <= {w for prompt in train for w in prompt.split()}
    pairs = {(p["kind"], p["terrain"]) for p in map(parse_caption, train)}
    assert sum((p["kind"], p["terrain"]) not in pairs for p in map(parse_caption, test)) >= 8


def test_recombined_prompts_are_new_and_use_only_their_words():
    prompts = (PROMPTS / "test.txt").read_text(encoding="utf-8").splitlines()
    found = recombined(prompts, 200, np.random.default_rng(0))
    assert len(found) == 200 and len(set(found)) > 150 and not set(found) & set(prompts)
    assert {w for text in found for w in text.split()} <= {w for text in prompts for w in text.split()}
    assert all(GRAMMAR.fullmatch(text) for text in found)
    assert recombined(prompts, 5, np.random.default_rng(0)) == found[:5]


WHOLE = "aerial view of bowl mars craters on dune fields with worn rims and smooth floors"


@pytest.mark.parametrize("change", [[], ["aerial view of bowl mars craters on dune fields"], [WHOLE, WHOLE], [WHOLE, WHOLE.replace("bowl", "pitted")]])
def test_what_cannot_be_recombined_is_refused(change):
    with pytest.raises(InputError):
        recombined(change, 3, np.random.default_rng(0))


def test_training_prompts_cover_every_kind_terrain_rim_and_interior():
    parsed = [parse_caption(p) for p in (PROMPTS / "train.txt").read_text(encoding="utf-8").splitlines()]
    assert {p["kind"] for p in parsed} == set(KINDS)
    assert {p["terrain"] for p in parsed} == set(TERRAINS)
    assert {p["rims"] for p in parsed} == {f"{r} rims" for r in RIMS}
    assert {p["interiors"] for p in parsed} == set(INTERIORS)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_caption_targets_agree_with_the_parameters_they_speak_of(seed):
    p = sample_parameters(np.random.default_rng(seed))
    truth, said = attribute_targets(p), caption_targets(caption(p))
    assert tuple(truth) == tuple(said) == ATTRIBUTES
    assert all(0.0 <= v <= 1.0 for v in truth.values())
    for name in ATTRIBUTES:
        if name in ("size", "freshness", "colour", "light"):
            assert math.isnan(said[name]) or abs(said[name] - truth[name]) <= 0.18
        else:
            assert said[name] == truth[name]


def test_a_silent_caption_implies_nothing():
    assert all(math.isnan(v) for v in caption_targets("mars craters").values())
    said = caption_targets("aerial view of bowl mars craters")
    assert said["view"] == 0.0 and said["kind: bowl"] == 1.0 and said["kind: ghost"] == 0.0 and math.isnan(said["size"])
