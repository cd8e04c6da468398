"""Tables of committed results are what their commands make of the committed figures."""

from __future__ import annotations

import json
import shutil
from argparse import Namespace
from pathlib import Path

import pytest

from backend.config import TrainConfig, make_config
from backend.errors import InputError
from backend.evaluation.protocol import protocol_for
from tests.benchmarks import bench_endurance, bench_learning, bench_page, bench_speed, limits
from tests.benchmarks.common import RESULTS, policy_digest, read, write
from tests.benchmarks.learning_tables import ablation_table, row_of, share_of_constant, write_tables

EARLIER = RESULTS / "version_4" / "learning"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the results, which tables may be written into."""
    return Path(shutil.copytree(RESULTS, tmp_path / "results"))


def test_learning(copy: Path) -> None:
    together = read(RESULTS / "learning" / "summary.json")["together"]
    assert write_tables(copy, bench_learning.ARMS, together) == (RESULTS / "learning.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("bench", "title"), [(bench_page, "The page under load"), (bench_speed, "Speed and memory")])
def test_limits(bench, title: str) -> None:
    name = bench.__name__.rpartition("bench_")[2]
    results = {path.stem: read(path) for path in sorted((RESULTS / name).glob("*.json"))}
    text, kept = limits.table(title, f"python -m {bench.__name__}", bench.LIMITS, results)
    assert text == (RESULTS / f"{name}.md").read_text(encoding="utf-8") and kept


def test_every_arm_refuses_another_base_model_than_earlier_ones(copy: Path) -> None:
    kept = read(copy / "learning" / "frozen.json")
    (copy / "learning" / "frozen.json").write_text(json.dumps({**kept, "model_sha256": "0" * 64}))
    write(copy / "learning" / "grid.json", {"best": {"guidance": 10.0, "warp": 1.0}})  # `constant` asks for it first
    chosen = Namespace(results=copy, runs=copy, device="cpu", images=kept["images"], set=[])
    before = (copy / "learning.md").read_text(encoding="utf-8")
    for arm in ("grid", "constant", "trivial", "attainable", "LORA_UNET:0"):
        with pytest.raises(InputError, match="another model_sha256"):
            bench_learning.work(arm, chosen)
    assert (copy / "learning.md").read_text(encoding="utf-8") == before


def test_seeds_are_compared_from_the_policies_that_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No run is needed, and nothing is drawn where the same policies were compared before."""
    chosen, judged = Namespace(results=tmp_path, runs=tmp_path / "none", device="cpu", images=1024, set=[]), []
    arms = [f"LORA_UNET:{seed}" for seed in bench_learning.SEEDS]
    monkeypatch.setattr(bench_learning, "judge_base", lambda config, chosen, images: judged.append((config.seed, images)) or (_ for _ in ()).throw(InputError("judged anew")))
    for arm in arms:
        assert bench_learning.judge_together("LORA_UNET", chosen) is None
        write(tmp_path / "learning" / f"{arm.replace(':', '_')}.json", {"images": 512, "settings": TrainConfig(seed=int(arm[-1])).model_dump()})
        bench_learning.kept_policy(arm, chosen).mkdir(parents=True)
        (bench_learning.kept_policy(arm, chosen) / "policy.safetensors").write_text(arm)
    with pytest.raises(InputError, match="judged anew"):
        bench_learning.judge_together("LORA_UNET", chosen)
    facts = {"policies_sha256": [policy_digest(bench_learning.kept_policy(arm, chosen)) for arm in arms], "images": 512}
    write(tmp_path / "learning" / "summary.json", {"together": {"LORA_UNET": {"guards": {}, **facts}}})
    assert bench_learning.judge_together("LORA_UNET", chosen) == {"guards": {}, **facts} and judged == [(0, 512)] and not chosen.runs.exists()
    (bench_learning.kept_policy(arms[1], chosen) / "policy.safetensors").write_text("another")
    with pytest.raises(InputError, match="judged anew"):
        bench_learning.judge_together("LORA_UNET", chosen)


def test_the_policies_are_kept_that_were_judged() -> None:
    chosen = Namespace(results=RESULTS)
    for arm in bench_learning.MAIN:
        result = read(RESULTS / "learning" / f"{arm.replace(':', '_')}.json")
        assert result is None or policy_digest(bench_learning.kept_policy(arm, chosen)) == result["policy_sha256"], arm


def test_more_images_begin_with_those_of_fewer() -> None:
    """DIVERSITY_POLICY is judged by four times as many: its base's images are those of the other policies, and more."""
    chosen = Namespace(images=64)
    counts = {name: bench_learning.judged_images(name, chosen) for name in ("LORA_UNET", "DIVERSITY_POLICY", "default", "mixture")}
    assert counts == {"LORA_UNET": 64, "DIVERSITY_POLICY": 256, "default": 64, "mixture": 64}
    assert bench_learning.judged_images("default", Namespace(images=1024)) == 256
    few, many = (protocol_for(TrainConfig(), counts[name]) for name in ("LORA_UNET", "DIVERSITY_POLICY"))
    assert (many.seeds[:64], many.captions[:64], many.guidance) == (few.seeds, few.captions, few.guidance)


def test_an_arm_names_its_settings_and_its_code() -> None:
    for path in (*(RESULTS / "learning").glob("*_[0-9].json"), *EARLIER.glob("*_[0-9].json")):
        arm = read(path)
        assert make_config(arm["settings"]).seed == arm["seed"] and arm["commit"], path


def test_ablations_stand_side_by_side() -> None:
    arm = read(EARLIER / "LORA_UNET_0.json")
    first, second = ({**arm, "name": "no-kl", "raw": {**arm["raw"], "gain": gain}} for gain in (0.01, 0.03))
    line = ablation_table({"no-kl:0": first, "no-kl:1": second})[-1]
    gap, precision = arm["verdict"]["gap_closed"], row_of(arm["verdict"], "Precision")["estimate"]
    assert line.startswith(f"| no-kl | pathwise | 2 | +0.02 ± 0.01 | {100 * gap:+.3g} ± 0 | {precision:+.3g} ± 0 |")


def test_the_share_of_the_best_constant_is_a_ratio_of_means_with_an_interval() -> None:
    arms = {f"SCHEDULER_POLICY:{seed}": {"name": "SCHEDULER_POLICY", "raw": {"gains": [shift + 1.0, shift + 2.0, shift + 3.0]}} for seed, shift in ((0, 0.0), (1, 1.0))}
    found = share_of_constant(arms, {"raw": {"gains": [2.0, 4.0, 6.0]}})
    assert found.estimate == pytest.approx(2.5 / 4) and 0.5 <= found.low < found.estimate < found.high <= 1.0


def test_endurance() -> None:
    results = {arm: read(RESULTS / "endurance" / f"{arm}.json") for arm in bench_endurance.ARMS}
    assert bench_endurance.table(results) == (RESULTS / "endurance.md").read_text(encoding="utf-8")
    assert not [fault for result in results.values() for fault in bench_endurance.missed(result)]


def test_a_missed_limit_is_said() -> None:
    found = {"arm": {"machine": {"processor": "p", "cores": 2, "memory_gib": 1, "python": "3", "torch": "2"}, "seconds": 3.0}}
    text, kept = limits.table("T", "c", {"seconds": limits.Limit(2.0, "wait, s")}, found)
    assert "| wait, s | 3.00 | ≤ 2 | no |" in text and not kept
    assert limits.table("T", "c", {"seconds": limits.Limit(2.0, "rate", least=True)}, found)[1]


def test_a_figure_is_said_to_be_of_its_machine_where_there_are_several() -> None:
    machine = {"processor": "p", "cores": 2, "memory_gib": 1, "python": "3", "torch": "2"}
    found = {"one": {"machine": machine, "first": 1.0}, "other": {"machine": {**machine, "processor": "q"}, "second": 1.5}}
    text, _ = limits.table("T", "c", {key: limits.Limit(2.0, key) for key in ("first", "second")}, found)
    assert "Machine A: p" in text and "Machine B: q" in text and "| first | 1.00 | ≤ 2 | yes | A |" in text and "| second | 1.50 | ≤ 2 | yes | B |" in text


def test_the_mixture_is_judged_from_its_folder(monkeypatch, tmp_path):
    """`mix_checkpoints` names the file that it wrote; a policy is read from its folder."""
    judged = []
    monkeypatch.setattr(bench_learning, "frozen_base", lambda config, chosen: None)
    monkeypatch.setattr(bench_learning, "train_arm", lambda config, folder: (folder, "", 0.0))
    monkeypatch.setattr(bench_learning, "newest_policy", lambda run: run)
    monkeypatch.setattr(bench_learning, "curve_facts", lambda run: {"seconds_per_episode": 1.0})
    monkeypatch.setattr(bench_learning, "mix_checkpoints", lambda folders, target: target / "pytorch_lora_weights.safetensors")
    monkeypatch.setattr(bench_learning, "judge_policy", lambda config, policy, *rest: judged.append(policy) or {})
    assert bench_learning.judge_mixture(Namespace(set=[], runs=tmp_path, images=1024))["name"] == "mixture"
    assert judged == [tmp_path / "learning" / "mixture"]
