"""What the evaluation measures: ceiling, adherence, guards and judges against brute force."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from backend.evaluation import adherence, renders
from backend.evaluation.bootstrap import Interval
from backend.evaluation.compare import compare, guards_of, memorisation_rows
from backend.evaluation.guards import gap_in_words, verdict_of
from backend.evaluation.judges import Judges, Measured
from backend.evaluation.protocol import Protocol

PROMPTS = ("aerial view of bowl mars craters on dune fields", "ground view of complex mars craters on smooth plains")


def test_ceiling_obeys_its_captions_and_varies(cache):
    protocol = Protocol(PROMPTS, 8, 10, 7.5)
    images = renders.ceiling_images(protocol, 128)
    assert images.shape == (8, 128, 128, 3)
    assert len({image.tobytes() for image in images}) == 8
    assert (renders.ceiling_images(Protocol(PROMPTS, 6, 10, 7.5), 128) == images[:6]).all()


def test_correlation_is_numpys():
    generator = np.random.default_rng(0)
    read, wanted = generator.normal(size=(2, 40, 3))
    read[:, 0] += wanted[:, 0]
    wanted[:7, 1] = np.nan
    wanted[:, 2] = 1.0
    counts = generator.integers(0, 3, size=(1, 40)).astype(float)
    found = adherence.correlations(counts, read, wanted)[0]
    rows = np.repeat(np.arange(40), counts[0].astype(int))
    assert found[0] == pytest.approx(np.corrcoef(read[rows, 0], wanted[rows, 0])[0, 1] ** 2)
    kept = rows[rows >= 7]
    assert found[1] == pytest.approx(max(np.corrcoef(read[kept, 1], wanted[kept, 1])[0, 1], 0) ** 2)
    assert math.isnan(found[2])


def test_adherence_falls_when_half_of_the_images_ignore_their_prompt():
    generator = np.random.default_rng(1)
    wanted = np.repeat(generator.normal(size=(10, 2)), 40, axis=0)
    obedient = wanted + 0.3 * generator.normal(size=wanted.shape)
    half = obedient.copy()
    half[::2] = generator.permutation(half[::2])
    result = adherence.adherence_change(obedient, [half], obedient, wanted, generator)
    assert result["attributes"] == 2
    assert result["relative"].high < -0.5
    same = adherence.adherence_change(obedient, [obedient], obedient, wanted, generator)
    assert same["relative"].estimate == pytest.approx(0)
    assert adherence.adherence_change(obedient, [half], np.zeros_like(wanted), wanted, generator)["relative"] is None
    assert adherence.adherence_change(-obedient, [half], obedient, wanted, generator)["relative"] is None


def test_adherence_says_whether_obedience_or_variety_changed():
    generator = np.random.default_rng(4)
    wanted = np.repeat(generator.normal(size=(10, 2)), 400, axis=0)
    base = wanted + 0.5 * generator.normal(size=wanted.shape)
    varied, faint = base + 0.5 * generator.normal(size=wanted.shape), base - 0.3 * wanted
    more = adherence.adherence_change(base, [varied], base, wanted, generator)
    assert more["relative"].high < 0 and more["slope"].estimate == pytest.approx(0, abs=0.03) and more["residual"].estimate == pytest.approx(1, abs=0.1)
    less = adherence.adherence_change(base, [faint], base, wanted, generator)
    assert less["slope"].estimate == pytest.approx(-0.3, abs=0.02) and less["residual"].estimate == pytest.approx(0, abs=1e-6)


def test_reader_recovers_a_linear_attribute():
    generator = np.random.default_rng(2)
    features = generator.normal(size=(300, 20))
    targets = features @ generator.normal(size=(20, 2)) + 0.1 * generator.normal(size=(300, 2))
    reader = adherence.Reader(features[:200], targets[:200])
    residual = targets[200:] - reader.read(features[200:])
    assert 1 - residual.var() / targets[200:].var() > 0.97


def test_guards():
    still = Interval(0, 0, 0)
    assert guards_of(Interval(-1, -2.9, 1), Interval(-0.04, -0.2, 0.1), Interval(0.01, 0, 0.02))["passed"]
    assert not guards_of(Interval(-1, -3.1, 1), None, still)["passed"]
    assert not guards_of(still, Interval(-0.06, -0.1, 0), still)["passed"]
    copied = guards_of(still, still, Interval(0.02, 0, 0.04))
    assert not copied["passed"] and not copied["memorisation"] and copied["precision"] and copied["adherence"]
    few, damage = guards_of(still, None, Interval(0, -0.06, 0.06)), guards_of(still, still, Interval(0.05, 0.01, 0.09))  # copies beyond chance are damage
    assert [verdict_of(g) for g in (guards_of(still, None, still), few, damage, few | {"adherence": False})] == ["yes", "not settled", "no", "no"]
    assert guards_of(still, None, still)["passed"] and guards_of(still, still, None)["passed"] and guards_of(still, still, None)["memorisation"] is None
    assert guards_of(Interval(0, math.nan, math.nan), None, None)["precision_low"] is None  # JSON has no NaN


@pytest.mark.parametrize(("images", "settled"), [(64, False), (1024, True)])
def test_a_copy_that_nobody_saw_is_excluded_by_many_images_only(images, settled):
    """Resampling zeros gives an interval without width; scipy's exact one is what none of N says."""
    generator = np.random.default_rng(3)
    reference, unseen, base, tuned = (Measured({"lite2": generator.normal(size=(count, 3)) + shift}, None) for count, shift in ((12, 0), (40, 0.5), (images, 9), (images, 9)))
    _, close = memorisation_rows(base, [tuned], reference, SimpleNamespace(real=unseen), generator)
    assert (close.estimate, close.high, close.low) == pytest.approx((0, high := stats.binomtest(0, images).proportion_ci(0.95).high, -high))
    guards = guards_of(Interval(0, 0, 0), None, close)
    assert guards["passed"] == guards["memorisation"] == settled and guards["unsettled"] == ([] if settled else ["memorisation"])


def test_judges_see_diversity_where_it_is(cache):
    """Half-way: the base repeats one caption's renders, tuned mixes in all of them, the ceiling is all of them."""
    real, targets = renders.held_out(60, 128)
    judges = Judges(real[:40], targets[:40], key=None)
    narrow = np.repeat(real[40:42], 10, axis=0)
    wide = real[40:60]
    mixed = np.concatenate([narrow[:10], wide[10:]])
    seen = [judges.measure(images) for images in (narrow, mixed, wide)]
    result = compare(seen[0], [seen[1]], seen[2], judges.measure(real[:12]), judges, None, np.random.default_rng(0))
    for name in ("lite2", "wavelet", "attributes"):
        assert 0.2 < result["gap"][name]["estimate"] < 1.0
    assert result["gap"]["lite2"]["low"] > 0
    few = compare(seen[0], [seen[1]], judges.measure(wide[:9]), judges.measure(real[:12]), judges, None, np.random.default_rng(0))
    assert 0.2 < few["gap"]["lite2"]["estimate"] < 1.0  # a ceiling of nine photographs
    assert judges.measure(np.repeat(np.repeat(real[:2], 2, 1), 2, 2)).spaces["lite2"].shape == judges.measure(real[:2]).spaces["lite2"].shape


def test_what_judges_saw_is_measured_anew_with_other_statistics(cache, monkeypatch):
    real, targets = renders.held_out(12, 128)
    Judges(real, targets, key="twelve")
    before = set(cache.glob("judged_*"))
    Judges(real, targets, key="twelve")
    assert set(cache.glob("judged_*")) == before
    monkeypatch.setattr("backend.evaluation.judges.statistics_digest", lambda: "edited")
    Judges(real, targets, key="twelve")
    assert len(set(cache.glob("judged_*")) - before) == 1


def test_the_gap_closed_is_never_said_without_what_it_rests_on():
    def words(closed, low=None, high=None, images=None, guards=None):
        return gap_in_words(SimpleNamespace(gap_closed=closed, gap_low=low, gap_high=high, images=images, guards=guards))

    open_guards = {"passed": False, "precision": False, "unsettled": ["precision"]}
    assert words(0.416, 0.196, 1.222, 64, open_guards) == "42 % (20 to 122), 64 images, guards not settled"
    assert words(-0.05, -0.12, 0.03, 1024, {"passed": False, "precision": False}) == "−5 % (−12 to 3), 1024 images, guards not kept"
    assert words(0.56, 0.49, 0.64, 1024, {"passed": True}).endswith("guards kept") and words(0.5) == "50 %" and words(None) == ""
