"""Comparisons of runs, alerts and reports against known answers."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from scipy import stats

from backend.analysis import alerts, comparison, convergence, figures, report
from backend.config import TrainConfig
from backend.errors import InputError
from backend.runs import TABLES
from backend.runs.tables import TableWriter


def test_overlay_subtracts_the_base(make_run):
    run, other = make_run(), make_run(np.full(30, 0.6), seed=1)
    figure = comparison.overlay([run, other], relative=True)
    assert figure["data"][1]["y"] == pytest.approx([0.5] * 30)
    with pytest.raises(InputError, match="1 to 6"):
        comparison.overlay([run] * 7)


def test_a_base_is_compared_with_what_was_scored_under_the_same_guidance(make_run, monkeypatch):
    later = np.arange(30) >= 20
    data = {"episode": np.arange(30.0), "batch_score": np.where(later, 0.9, 0.4), "base_level": np.where(later, 0.8, 0.2), "trend_from": np.where(later, 21.0, 1.0)}
    data["base_level"][:3], data["base_level"][20:22] = np.nan, np.nan
    monkeypatch.setattr(comparison, "columns", lambda *args: data)
    drawn = comparison.overlay([make_run()], relative=True)["data"][0]["y"]
    assert drawn[:20] == pytest.approx([0.2] * 20) and drawn[-1] == pytest.approx(0.1, abs=0.02)
    data["base_level"] = np.full(30, np.nan)
    assert comparison.overlay([make_run()], relative=True)["data"] == [], "a run without a base's level has no place on that axis"


def test_config_diff_names_only_what_differs(make_run):
    rows = comparison.config_diff([make_run(), make_run(learning_rate=1e-5, note="x")])
    assert [row["field"] for row in rows] == ["learning_rate"]
    assert sorted(v for k, v in rows[0].items() if k.startswith("crater")) == [1e-5, TrainConfig().learning_rate]


def test_convergence_of_a_broken_stick(make_run):
    result = comparison.convergence(make_run())
    assert result["plateau_episode"] == pytest.approx(50, abs=8)
    assert result["change_since_start"] == pytest.approx(0.45, abs=0.06)
    assert result["base_level"] == pytest.approx(0.1) and result["over_base"] == pytest.approx(result["last"] - 0.1)
    assert result["state"] in ("PLATEAUING", "FLAT")


def test_what_a_curriculum_moved_is_no_plateau(make_run):
    """Guidance grows for fifty episodes and the score with it; then it is level, and the base level is the newest."""
    generator = np.random.default_rng(0)
    ramp = np.minimum(np.arange(100), 50) / 50 + generator.normal(0, 0.02, 100)
    run = make_run(ramp)
    path = run.table_path("policy_updates")
    lines = path.read_text().splitlines()
    head = lines[0].split(",")
    from_, base = head.index("trend_from"), head.index("base_level")
    out = [lines[0]]
    for number, text in enumerate(lines[1:], 1):
        cells = text.split(",")
        cells[from_], cells[base] = str(min(number, 51)), "0.9" if number > 60 else "0.1"
        out.append(",".join(cells))
    path.write_text("\n".join(out) + "\n")
    result = comparison.convergence(run)
    assert result["plateau_episode"] is None
    assert abs(result["change_since_start"]) < 0.05 and result["base_level"] == 0.9
    assert "annotations" not in figures.rewards(run)["layout"]


def test_policy_comparison_plots_the_gain_over_the_base(make_run):
    runs = [make_run(np.full(40, 0.4), mode="DIVERSITY_POLICY"), make_run(np.full(40, 0.7), mode="LORA_UNET")]
    gains = {trace["name"]: trace["y"][0] for trace in comparison.policy_comparison(runs)["data"]}
    assert gains == pytest.approx({"DIVERSITY_POLICY": 0.3, "LORA_UNET": 0.6})


def test_runs_whose_scores_do_not_compare_are_said_to(make_run):
    run, alike = make_run(), make_run(learning_rate=1e-5, seed=3)
    other = make_run(metric="FID", images_per_prompt=4)
    assert comparison.unlike([run, alike]) == "" and "note" not in comparison.overlay([run, alike])
    said = comparison.unlike([run, alike, other])
    assert "metric (MMD_VENDI, FID) and images in a group (16, 32)" in said and "do not compare" in said
    assert comparison.overlay([run, other])["note"] == comparison.policy_comparison([run, other])["note"] == comparison.unlike([run, other])
    assert said not in report.comparison_html([run, alike]) and said in report.comparison_html([run, alike, other])


def test_decomposition_shares_follow_the_variances(make_run):
    """total = 2a + b with independent a and b of equal variance: 4/5 and 1/5."""
    shares = {row["component"]: row["share"] for row in comparison.decomposition(make_run())}
    assert shares == pytest.approx({"diversity": 0.8, "spatial": 0.2}, abs=0.06)
    assert sum(shares.values()) == pytest.approx(1)


def test_stability_reads_the_losses(make_run):
    result = comparison.stability_of(make_run())
    assert result["actor_loss"]["ratio"] == pytest.approx(1, abs=0.8)
    assert result["grad_norm_actor_after" if "grad_norm_actor_after" in result else "grad_norm_actor"]["variation"] > 0


def test_change_is_welchs_interval():
    generator = np.random.default_rng(0)
    first, last = generator.normal(0, 1, 20), generator.normal(1, 2, 20)
    expected = stats.ttest_ind(last, first, equal_var=False).confidence_interval(0.99)
    difference, low, high = alerts.change([*first, *last], 20)
    assert difference == pytest.approx(last.mean() - first.mean())
    assert (low, high) == pytest.approx((expected.low, expected.high))


def test_reward_hacking_needs_both_a_rise_and_a_fall():
    generator = np.random.default_rng(1)
    noise = lambda: generator.normal(size=80) * 0.1  # noqa: E731
    up, level, down = np.arange(80) / 80 + noise(), noise(), -np.arange(80) / 80 + noise()
    alert = alerts.reward_hacking(up, {"precision": down, "adherence": level}, 16)
    assert alert.kind == "reward_hacking"
    assert "precision fell" in alert.message
    assert "between the first and the last 16 episodes" in alert.message
    assert "adherence" not in alert.numbers
    assert alerts.reward_hacking(up, {"precision": level}, 16) is None
    assert alerts.reward_hacking(level, {"precision": down}, 16) is None
    assert alerts.reward_hacking(up[:20], {"precision": down[:20]}, 16) is None


@pytest.mark.parametrize(("trend_from", "kinds"), [(1.0, ["reward_hacking"]), (33.0, [])])
def test_another_guidance_is_no_reward_hacking(make_run, monkeypatch, trend_from, kinds):
    """More diversity and less quality from one episode to the next, where the guidance was changed, and nothing before or after."""
    noise, jump = np.random.default_rng(2).normal(size=(3, 64)) * 0.1, np.arange(64) >= 32
    data = {"batch_score": np.arange(64) / 10, "sample_diversity": jump + noise[0], "component_quality": noise[1] - jump, "trend_from": np.where(jump, trend_from, 1.0)}
    monkeypatch.setattr(alerts, "columns", lambda *args: data)
    assert [alert.kind for alert in alerts.of_run(make_run()) if alert.kind == "reward_hacking"] == kinds


def test_reward_hacking_rarely_cries_wolf():
    generator = np.random.default_rng(2)
    alarms = [alerts.reward_hacking(generator.normal(size=64), {"a": generator.normal(size=64), "b": generator.normal(size=64)}, 16) for _ in range(300)]
    assert sum(alarm is not None for alarm in alarms) <= 2


def test_plateau_alert_names_the_episode():
    t = np.arange(200)
    scores = 0.02 * np.minimum(t, 60) + np.random.default_rng(3).normal(size=200) * 0.1
    assert alerts.plateau(scores).numbers["episode"] == pytest.approx(60, abs=10)
    assert alerts.plateau(scores).numbers["episode"] == convergence.plateau_episode(scores) + 1, "episodes count from 1"
    assert alerts.plateau(scores, before=25).numbers["episode"] == alerts.plateau(scores).numbers["episode"] + 25
    assert alerts.plateau(scores[:30]) is None
    assert alerts.plateau(0.02 * t) is None


def test_alerts_of_a_run_read_its_tables(make_run):
    assert [alert.kind for alert in alerts.of_run(make_run())] == ["plateau"]
    assert alerts.of_run(make_run(np.arange(80) * 0.01)) == []
    run = make_run()
    for last, kinds in ((0.3, []), (0.1, ["plateau"])):  # written again after a resume, the later one counts
        with run.events_path.open("a", encoding="utf-8") as file:
            for number, score in ((0, 0.1), (30, 0.15), (60, 0.2), (100, last)):
                file.write(json.dumps({"seq": 1, "time": 0, "kind": "probe", "episode": number, "score": score, "base": 0.1}) + "\n")
        assert [alert.kind for alert in alerts.of_run(run)] == kinds


def test_reward_hacking_is_found_in_a_runs_own_tables(make_run):
    run, noise = make_run(), np.random.default_rng(1).normal(size=(120, 2))
    path = run.logs_dir / "policy_updates.csv"
    path.unlink()
    table = TableWriter(path, [*TABLES["policy_updates"], "component_quality"])
    rising = [0.02 * i + 0.1 * n for i, n in enumerate(noise[:, 0])]
    table.append({"episode": i, "batch_score": v, "sample_diversity": v, "component_quality": -v + 0.1 * noise[i, 1]} for i, v in enumerate(rising))
    found = alerts.of_run(run)
    assert [alert.kind for alert in found] == ["reward_hacking"] and found[0].numbers["quality"] < 0 < found[0].numbers["diversity"]


def test_a_report_leaves_the_run_as_it_was_and_follows_no_link(make_run, tmp_path):
    run, secret = make_run(), tmp_path / "secret.png"
    secret.write_bytes(b"not for others")
    run.plots_dir.mkdir(exist_ok=True)
    for link in (run.plots_dir / "samples.png", run.path / "evaluation.png"):
        link.symlink_to(secret)
    before = sorted(run.path.rglob("*"))
    page, _ = report.write_report(run, tmp_path / "elsewhere")
    assert sorted(run.path.rglob("*")) == before and secret.read_bytes() == b"not for others"
    found = page.read_text()
    assert "The same seeds through the episodes" in found and base64.b64encode(b"not for others").decode() not in found


def test_report_is_self_contained_and_escapes_everything(make_run):
    attack = "<img src=x onerror=alert(1)></script>"
    run = make_run(note=attack)
    run.events_path.write_text(f'{{"seq": 1, "time": 0, "kind": "alert", "episode": 1, "message": "{attack}"}}\n')
    run.evaluation_path.write_text(f'{{"table": [{{"measure": "{attack}", "base": 1.0, "tuned": 2.0, "estimate": 1.0, "low": 0.5, "high": 1.5}}]}}')
    page, plain = report.write_report(run)
    text = page.read_text()
    assert "<img src=x" not in text
    assert text.count("&lt;img src=x") == 4
    body = text[text.index("<body>") :]
    assert "http://" not in body
    assert "https://" not in body
    assert "data:image/png;base64," in body
    assert "<img src=x" not in plain.read_text().replace("\\<", "")


def test_script_json_cannot_leave_its_element():
    assert report.script_json({"a": "</script>", "b": float("nan")}) == '{"a": "\\u003c/script\\u003e", "b": null}'


def test_markdown_cells_stay_in_their_cell():
    assert report.markdown_table([["a|b\nc", 1.0]], ["x", "y"]).splitlines()[2] == "| a\\|b c | 1 |"
