"""Chart data: thinning keeps extremes, levels and bands are what they say, marks stand where changes happened."""

from __future__ import annotations

import json
import math
import random

from hypothesis import given
from hypothesis import strategies as st

from components.charts import CHARTS
from components.context import PageContext
from components.monitor import SAMPLES_CAPTION
from components.series import MAX_POINTS, axes, band, base_levels, bins, chart_payload, places, thin
from tests.components.fake_run import score, write_fake_run


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5000))
def test_thinned_series_keeps_extremes_and_stays_small(values: list[float]) -> None:
    ranges = bins(len(values))
    kept = thin(values, ranges)
    assert len(kept) <= MAX_POINTS
    assert len(places(values, ranges)) == len(kept)
    assert math.isclose(max(kept), max(values), rel_tol=1e-4, abs_tol=1e-9)
    assert math.isclose(min(kept), min(values), rel_tol=1e-4, abs_tol=1e-9)


def test_bins_partition_all_rows() -> None:
    for length in (0, 1, 999, 1000, 1001, 10_000, 123_457):
        ranges = bins(length)
        assert [i for a, b in ranges[:1] for i in range(a, b)][:1] == ([0] if length else [])
        assert sum(b - a for a, b in ranges) == length
        assert all(first[1] == second[0] for first, second in zip(ranges, ranges[1:], strict=False))


def test_missing_and_infinite_values_become_gaps() -> None:
    assert thin([1.0, None, math.nan, math.inf, "LEARNING", 2.0], bins(6)) == [1.0, None, None, None, None, 2.0]


def test_band_of_a_constant_has_no_width_and_of_noise_about_one_deviation() -> None:
    low, high = band([3.0] * 50)
    assert low == high == [3.0] * 50
    noise = random.Random(0)
    values = [noise.gauss(0, 1) for _ in range(4000)]
    low, high = band(values)
    widths = [(h - b) / 2 for b, h in zip(low[100:], high[100:], strict=True)]
    assert 0.75 < sum(widths) / len(widths) < 1.0  # the deviation around a moving mean of span 8 is a little below one


def test_minutes_add_up_and_ignore_blanks() -> None:
    assert axes({"episode": [1, 2, 3], "time_per_episode": [60.0, None, 30.0], "images": [16, 32, 48]})["minutes"] == [1.0, 1.0, 1.5]


def test_payload_has_levels_components_and_marks() -> None:
    rows = 30
    columns = {
        "episode": [float(i) for i in range(1, rows + 1)],
        "images": [16.0 * i for i in range(1, rows + 1)],
        "time_per_episode": [6.0] * rows,
        "batch_score": [i / rows for i in range(rows)],
        "base_level": [0.1] * rows,
        "component_diversity": [0.5] * rows,
        "entropy": [None] * rows,
    }
    payload = chart_payload("run", columns, [{"field": "guidance_scale", "value": 4.0, "episode": 10}])
    names = [t["name"] for t in payload["charts"]["reward"]["traces"]]
    assert names == ["± 1 std", "group score", "base model, mean of groups"]
    assert [t["name"] for t in payload["charts"]["components"]["traces"]] == ["diversity"]
    assert payload["charts"]["entropy"]["traces"] == [], "an empty column must not make a legend entry"
    assert payload["marks"] == [{"episode": 10.0, "minutes": 1.0, "images": 160.0, "label": "guidance_scale → 4.0"}]
    assert payload["charts"]["reward"]["points"] == rows


def test_the_base_line_lies_at_its_newest_value_under_each_guidance() -> None:
    columns = {"base_level": [-0.035, None, -0.01, None, -0.3, -0.2], "trend_from": [1, 1, 1, 1, 5, 5]}
    assert base_levels(columns) == [-0.01] * 4 + [-0.2] * 2, "a running mean of more and more base groups would climb by itself"
    assert base_levels({"base_level": [-0.2, -0.1, None]}) == [-0.1] * 3, "runs of earlier versions have no column trend_from"
    assert base_levels({"base_level": [None, None], "trend_from": [1, 2]}) == [None, None]


def test_gains_of_probes_are_drawn_beside_the_base(context: PageContext) -> None:
    run = write_fake_run(context.store.root, 12)
    feed = context.feed(run.id, "runs")

    def drawn(chart: str) -> dict[str, dict]:
        feed._read_at = 0
        feed.refresh()
        return {t["name"]: t for t in feed.parts["charts"]["charts"][chart]["traces"]}

    assert drawn("gain") == drawn("cost") == {}, "the base was not probed yet"
    with run.events_path.open("a", encoding="utf-8") as events:
        events.write(json.dumps({"seq": 9, "time": 0, "kind": "probe", "episode": 0, "score": -0.3, "quality": 0.1, "base": -0.3}) + "\n")
    gain = drawn("gain")["gain in score, 20 images"]
    assert gain["kind"] == "trail" and [i for i, y in enumerate(gain["y"]) if y is not None] == [10] and gain["y"][10] == float(f"{score(10) + 0.3:.5g}")
    assert drawn("gain")["base model"]["y"][1:] == [0.0] * 11
    assert drawn("cost")["realism"]["y"][10] == float(f"{0.2 - 0.1:.5g}") and "prompt relevance" not in drawn("cost")


def test_samples_are_not_said_to_be_what_the_policy_is_paid_for() -> None:
    assert "not trained on" in SAMPLES_CAPTION and "paid" not in SAMPLES_CAPTION


def test_a_plan_is_drawn_beside_the_stock_schedule() -> None:
    policy = {"betas": [[0.1, 0.2, 0.4], [0.3, 0.2, 0.2]], "stock_betas": [0.1, 0.1, 0.1], "guidance": [6.0, 9.0], "stock_guidance": 7.5}
    payload = chart_payload("run", {"episode": [1.0]}, [], policy)
    drawn = {t["name"]: t["y"] for t in payload["charts"]["plan"]["traces"]}
    assert drawn == {"stock schedule": [0.1, 0.1, 0.1], "mean over prompts": [0.2, 0.2, 0.3], "smallest": [0.1, 0.2, 0.2], "largest": [0.3, 0.2, 0.4]}
    assert payload["axes"]["plan"]["minutes"] == [1, 2, 3] and payload["charts"]["plan"]["across"] == "denoising step"
    assert [t["y"] for t in payload["charts"]["plan_guidance"]["traces"]] == [[6.0, 9.0], [7.5, 7.5]]
    assert chart_payload("run", {"episode": [1.0]})["charts"]["plan"]["traces"] == []


def test_mark_labels_cannot_carry_markup() -> None:
    payload = chart_payload("run", {"episode": [1.0], "batch_score": [0.0]}, [{"field": "<img src=x>", "value": "<b>", "episode": 1}])
    assert "<" not in payload["marks"][0]["label"] and ">" not in payload["marks"][0]["label"]


def test_ten_thousand_episodes_stay_small() -> None:
    columns = {"episode": [float(i) for i in range(10_000)], **{t.column: [0.1] * 10_000 for c in CHARTS for t in c.traces}}
    payload = chart_payload("run", columns)
    assert all(len(t.get("y", t.get("low"))) <= MAX_POINTS for c in payload["charts"].values() for t in c["traces"])


def test_every_line_differs_from_its_neighbours_in_colour_and_dash() -> None:
    for chart in CHARTS:
        lines = [t for t in chart.traces if t.kind != "points"]
        assert len({t.slot for t in lines}) == len(lines) == len({t.dash for t in lines}), chart.key
