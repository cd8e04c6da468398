"""Figures say what the tables hold, in few enough points."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from backend.analysis import feature_figures, figures
from backend.analysis.series import probe_gains, smooth, thin
from backend.analysis.static import write_png
from backend.errors import InputError


def test_analysis_needs_no_torch():
    code = "import sys, backend.analysis.report, backend.analysis.alerts; sys.exit('torch' in sys.modules or 'gradio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@settings(max_examples=40, deadline=None)
@given(arrays(np.float64, st.integers(1, 3000), elements=st.floats(-1e6, 1e6)), st.sampled_from([2, 10, 1000]))
def test_thinning_keeps_extremes_and_order(y, most):
    x = np.arange(len(y), dtype=float)
    a, b = thin(x, y, most)
    assert len(a) <= max(most, min(len(y), most))
    assert b.max() == y.max()
    assert b.min() == y.min()
    assert (np.diff(a) > 0).all()
    assert (y[a.astype(int)] == b).all()


def test_ten_thousand_episodes_stay_below_a_thousand_points(make_run):
    run = make_run(np.random.default_rng(1).normal(size=10_000))
    assert max(len(trace["x"]) for trace in figures.rewards(run)["data"]) <= 1000


def test_every_figure_is_valid_plotly_and_json(make_run):
    """The numbers of curves: a column that is misspelt would be missing here. The schedule's are those of a sample."""
    run, curves = make_run(mode="DIVERSITY_POLICY"), {}
    run.events_path.write_text('{"seq": 1, "time": 0, "kind": "probe", "episode": 0, "base": 0.4, "score": 0.4, "quality": 0.1, "adherence": 0.1}\n')
    for name, draw in figures.FIGURES.items():
        figure = draw(run)
        assert go.Figure(figure).layout.title.text, name
        json.dumps(figure, allow_nan=False)
        curves[name] = len(figure["data"])
    assert curves == {
        "rewards": 5, "gains": 1, "costs": 2, "components": 1, "losses": 3, "gradients": 4, "entropy": 2, "kl": 2, "clipping": 4, "ratio": 2, "credit": 2, "distance": 1,
        "noise_scale": 1, "schedule": 0, "memory": 4, "time": 1,
    }  # fmt: skip


def test_gains_begin_anew_where_the_base_was_probed_anew():
    base, renewed = (
        {"kind": "probe", "episode": 0, "score": 0.5, "base": 0.5, "quality": 0.2},
        {"kind": "probe", "episode": 2, "score": 0.1, "base": 0.1, "quality": None, "renewed": True},
    )
    events = [base, {"kind": "probe", "episode": 2, "score": 0.7, "base": 0.5, "quality": 0.1}, renewed, {"kind": "change", "episode": 3}]
    data = {"episode": [1.0, 2.0, 3.0, 4.0], "probe_score": [None, 0.7, None, 0.3], "probe_quality": [None, 0.1, None, 0.4]}
    found = probe_gains(events, data)
    assert found["gain_score"] == [None, pytest.approx(0.2), None, pytest.approx(0.2)], "episode 2 ended before the base was probed at another guidance"
    assert found["gain_quality"] == [None, pytest.approx(-0.1), None, None] and found["gain_adherence"] == [None] * 4, "what is not known of the base has no gain"
    assert probe_gains([], data)["gain_none"] == [None] * 4 and probe_gains([base], {}) == {name: [] for name in found}


def test_reward_figure_holds_the_raw_score_and_marks_the_plateau(make_run):
    run = make_run()
    figure = figures.rewards(run)
    rows, _, _ = run.read_columns("policy_updates", 0, ["batch_score"])
    by_name = {trace["name"]: trace for trace in figure["data"]}
    assert by_name["group score"]["y"] == rows["batch_score"]
    assert set(by_name["base model"]["y"]) == {0.1}
    assert abs(figure["layout"]["annotations"][0]["x"] - 50) <= 8


def test_clipped_share_is_a_half(make_run):
    clipped = figures.gradients(make_run())["data"][-1]
    assert clipped["y"][-1] == pytest.approx(0.5, abs=0.08)


def test_constant_entropy_of_lora_is_not_drawn(make_run):
    assert [trace["name"] for trace in figures.entropy(make_run(mode="LORA_UNET"))["data"]] == ["sample diversity"]
    assert "policy entropy" in [trace["name"] for trace in figures.entropy(make_run(mode="DIVERSITY_POLICY"))["data"]]


def test_changes_are_marked(make_run):
    run = make_run()
    run.events_path.write_text('{"seq": 1, "time": 0, "kind": "change", "episode": 7, "field": "learning_rate"}\n')
    assert figures.losses(run)["layout"]["shapes"][0]["x0"] == 7


def test_empty_run_gives_empty_figures(make_run):
    run = make_run(np.zeros(0))
    for draw in figures.FIGURES.values():
        assert all(len(trace["x"]) == 0 for trace in draw(run)["data"])


def test_smoothing_of_a_constant_is_the_constant():
    assert smooth(np.full(30, 3.0)) == pytest.approx(3.0)
    assert np.isnan(smooth(np.array([np.nan, 1.0]))[0])


def test_pca_map_separates_two_clouds_and_names_each_picture():
    generator = np.random.default_rng(2)
    figure = feature_figures.feature_map({"base": generator.normal(size=(20, 6)), "tuned": generator.normal(size=(30, 6)) + 8}, "pca")
    base, tuned = (np.array(trace["x"]) for trace in figure["data"])
    assert min(abs(base.mean() - tuned.mean()) / base.std(), 3) == 3
    assert figure["data"][1]["customdata"][29] == ["tuned", 29]


def test_map_refuses_what_it_cannot_draw():
    with pytest.raises(InputError, match="at least 3"):
        feature_figures.project(np.zeros((2, 3)))
    with pytest.raises(InputError, match="pca or tsne"):
        feature_figures.project(np.zeros((5, 3)), "umap")


def test_tiles_and_grid_are_the_recorded_pixels(make_run, tmp_path):
    run = make_run()
    sample = run.images()[0]
    sheet = np.asarray(Image.open(sample.png))
    cut = feature_figures.tiles(sample.png, sample.read())
    assert (cut[3] == sheet[34:66, 34:66]).all()
    grid = np.asarray(feature_figures.sample_grid(run, images=2))
    assert (grid[:32, 90:122] == cut[0]).all()


def test_evolution_has_one_trace_per_sampled_episode(make_run):
    figure = feature_figures.evolution(make_run(), "pca")
    assert [trace["name"] for trace in figure["data"]] == ["episode 0", "episode 119"]
    assert go.Figure(figure) is not None


def test_png_shows_the_curve_where_it_is(tmp_path):
    """A line along the bottom darkens the lower half of the picture only."""
    figure = {"data": [figures.line("a $b$", np.arange(50), np.r_[np.zeros(49), 1.0])], "layout": figures.layout("t", "y")}
    pixels = np.asarray(Image.open(write_png(figure, tmp_path / "a.png")).convert("RGB")).astype(int)
    blue = (pixels[..., 2] - pixels[..., 0]) > 100
    inner = blue[:, 200:900]
    assert inner[: len(inner) // 2].sum() < 0.1 * inner[len(inner) // 2 :].sum()
