"""A whole evaluation on a miniature pipeline, its images and its cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from backend.analysis.report import comparison_html, report_html
from backend.config import TrainConfig
from backend.diffusion.sampler import Stopped
from backend.errors import InputError
from backend.evaluation import evaluate, generate, renders
from backend.evaluation.bootstrap import Interval
from backend.evaluation.compare import PRECISION, REALISM, guards_of
from backend.evaluation.notes import against_constants, notes_on, on_words
from backend.evaluation.results import load_map
from backend.policies.base import build_policy
from backend.policies.lora import WEIGHTS_FILE
from backend.reference.manifest import pixel_sha256, write_manifest
from backend.runs import Run, RunStore

PROMPTS = ("aerial view of bowl mars craters on dune fields", "ground view of complex mars craters on smooth plains")


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """Twelve renders as a simulated reference set."""
    images, _ = renders.held_out(12, 128)
    folder = tmp_path / "reference"
    folder.mkdir()
    entries = []
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03d}.png")
        entries.append({"file": f"{i:03d}.png", "sha256": pixel_sha256(image), "caption": PROMPTS[0]})
    write_manifest(folder, {"name": "test", "simulated": True}, entries)
    return folder


@pytest.fixture
def make_run(tmp_path: Path, tiny_pipeline: Path, reference: Path) -> Callable[..., Run]:
    """A run with one checkpoint whose adapters are moved by `push` from the base."""

    def make(push: float = 0.0, **changes: object) -> Run:
        prompts = tmp_path / "test.txt"
        prompts.write_text("\n".join(PROMPTS))
        config = TrainConfig(
            base_model=str(tiny_pipeline), test_prompts=str(prompts), reference=str(reference), num_inference_steps=4, window_start=0, window_size=2, eval_images=16, **changes
        )
        run = RunStore(tmp_path / "runs").create(config)
        policy = build_policy(config, generate.open_backbone(config, "cpu"))
        generator = torch.Generator().manual_seed(0)
        policy.load_trainable({name: value + push * torch.randn(value.shape, generator=generator) for name, value in policy.trainable_state().items()})
        folder = run.checkpoints_dir / "episode_000003" / "policy"
        folder.mkdir(parents=True)
        policy.save(folder)
        return run

    return make


def test_prompts_without_a_word_of_the_captions_are_said_to_leave_obedience_unmeasured(make_run, tmp_path):
    run = make_run()
    (tmp_path / "test.txt").write_text("a watercolour of a boat\na photo of a cat\n")
    result = evaluate.evaluate_run(run, device="cpu", real_images=40, guidances=())
    assert result["adherence"]["relative"] is None and result["guards"]["adherence"] is None
    (note,) = [note for note in result["notes"] if "No test prompt names a crater attribute" in note]
    assert "freely drawn craters" in note and "--reference" in note
    assert on_words(["a boat", PROMPTS[0]], True) == []
    assert "freely drawn" not in on_words(["a boat"], False)[0]


def test_an_untouched_policy_closes_nothing(make_run):
    run = make_run()
    result = evaluate.evaluate_run(run, device="cpu", real_images=40)
    assert result["gap_closed"] == pytest.approx(0, abs=1e-9)
    precision = next(row for row in result["table"] if row["measure"].startswith("Precision"))
    assert (precision["estimate"], precision["low"], precision["high"]) == (0, 0, 0)
    assert result["guards"]["precision"] and result["guards"]["unsettled"] == ["memorisation"]  # sixteen images exclude little
    said = " ".join(result["notes"])
    assert "The guard against memorisation is not settled by 16 images" in said and "up to +20.6" in said and "paid for" not in said
    assert "Compared without the guards, which 16 images do not settle for the policy" in said
    assert [candidate["guidance"] for candidate in result["trivial"]["candidates"]] == pytest.approx([0.6 * 7.5, 1.4 * 7.5])
    stored = json.loads(run.evaluation_path.read_text())
    assert stored["gap_closed"] == result["gap_closed"]
    assert stored["small"]
    assert (run.path / "evaluation.png").is_file()
    assert "Precision" in (run.path / "evaluation/table.md").read_text()
    pair = stored["pairs"][0]
    base, tuned = (np.asarray(Image.open(run.path / "evaluation" / pair[name])) for name in ("base", "tuned"))
    assert (base == tuned).all()


def test_a_mixture_of_checkpoints_is_evaluated_like_a_checkpoint(make_run):
    """An untouched adapter and a moved one, half each: between the two, and named as it was asked for."""
    still, moved = make_run(), make_run(push=0.2)
    half = generate.find_checkpoint(moved, f"last+{still.id}:last")
    files = (path / "policy" / WEIGHTS_FILE for path in (half, generate.find_checkpoint(moved)))
    mixed, whole = (sum(float(t.norm()) for name, t in load_file(path).items() if "lora_B" in name) for path in files)
    assert 0 < mixed < whole and half.parent == moved.path / "mixtures"
    assert evaluate.evaluate_run(moved, 16, f"last+{still.id}:last", device="cpu", real_images=40, guidances=())["checkpoint"] == half.name
    for name, message in (("last+nothing", "no checkpoint 'nothing'"), ("last+gone:last", "gone")):
        with pytest.raises(InputError, match=message):
            generate.find_checkpoint(moved, name)


@pytest.mark.parametrize(("mode", "unit", "other"), [("LORA_UNET", "lora_alpha", 32.0), ("DIVERSITY_POLICY", "perturbation_scale", 0.1)])
def test_runs_that_scale_their_policies_otherwise_are_not_mixed(make_run, mode, unit, other):
    one, same, strange = make_run(mode=mode), make_run(mode=mode), make_run(mode=mode, **{unit: other})
    assert generate.find_checkpoint(one, f"last+{same.id}:last").is_dir()
    with pytest.raises(InputError, match=f"{strange.id} has {unit} {other:g}.*mix runs with one {unit}"):
        generate.find_checkpoint(one, f"last+{strange.id}:last")


def test_a_moved_policy_is_seen_and_its_seeds_are_the_bases(make_run):
    run = make_run(push=0.2)
    result = evaluate.evaluate_run(run, device="cpu", real_images=40, guidances=(1.0,))
    moved = load_map(run)
    assert moved["base"].shape == moved["tuned"].shape == moved["ceiling"].shape
    assert np.abs(moved["base"] - moved["tuned"]).max() > 0.01
    assert result["trivial"]["candidates"][0]["guidance"] == 1.0
    assert result["trivial"]["best"]["gap_closed"] >= 0  # the untouched base is a candidate
    precision = next(row for row in result["table"] if row["measure"].startswith("Precision"))
    assert precision["ceiling"] > precision["base"] and precision["reference"] > precision["base"]  # both are renders
    assert next(row for row in result["table"] if row["measure"].startswith("Vendi"))["reference"] > 1  # twelve images, and subsets of two
    assert "| Ceiling | Reference |" in (run.path / "evaluation" / "table.md").read_text()
    assert result["pairs"][1]["prompt"] == PROMPTS[1]
    drawn = generate.generate_images([PROMPTS[1]], [result["pairs"][1]["seed"]], run=run, device="cpu")
    shown = np.asarray(Image.open(run.path / "evaluation" / result["pairs"][1]["tuned"]))
    assert np.abs(drawn[0].astype(int) - shown).max() <= 1  # another batch size may round the last bit differently


def test_photographs_leave_memorisation_unmeasured_and_no_nan_behind(make_run, reference):
    """The real side is the reference itself: nothing is unseen, so no distance to it means anything."""
    manifest = reference / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"simulated": False}))
    run = make_run(push=0.2)
    guards = evaluate.evaluate_run(run, device="cpu", guidances=())["guards"]
    stored = json.loads(run.evaluation_path.read_text(), parse_constant=pytest.fail)
    rows = [row for row in stored["table"] if "reference" in row["measure"]]
    assert len(rows) == 2 and all(row[key] is None for row in rows for key in ("base", "tuned", "estimate", "low", "high"))
    assert guards["memorisation"] is None and guards["passed"] == guards["precision"]
    assert any("neither caption adherence nor memorisation is measured" in note for note in stored["notes"])
    assert "| Suspiciously close to the reference (share) | – | – |" in (run.path / "evaluation" / "table.md").read_text()
    assert "Suspiciously close" in report_html(run) and "Evaluation on test prompts" in comparison_html([run, run])


@pytest.mark.parametrize("settings", [{"extractor": "efficientnet_lite2"}, {"ensemble": "MMD=1, COVERAGE@efficientnet_lite2=0.2"}])
def test_a_judge_that_the_reward_saw_gives_no_headline(make_run, settings):
    run = make_run(push=0.2, **settings)
    result = evaluate.evaluate_run(run, device="cpu", real_images=40, guidances=(1.0,))
    assert result["gap_closed"] is None and result["gap"]["lite2"]["estimate"] is not None and run.evaluation()["reward_saw_judge"]
    said, levels = " ".join(result["notes"]), next(row for row in result["table"] if row["measure"] == "Vendi score, wavelets")
    assert "The reward saw this judge's network (efficientnet_lite2)" in said and levels["ceiling"] > levels["base"]
    assert f"By wavelets, which need no network, {result['gap']['wavelet']['estimate']:.0%}" in said
    assert "constant guidance" not in said and not evaluate.reward_sees_judge(TrainConfig(extractor="efficientnet_lite2", ensemble="MMD@efficientnet_lite0=1"))


def test_test_prompts_that_were_trained_on_are_noted(make_run, tmp_path):
    training = tmp_path / "train.txt"
    training.write_text(PROMPTS[1])
    run = make_run(train_prompts=str(training))
    protocol = evaluate.protocol_for(run.config, 4)
    said = evaluate.overlap(run.config, protocol)
    assert said.startswith(f"1 of 2 test prompts stand among the training prompts too (first '{PROMPTS[1][:60]}')")
    judged = {"images": 4, "real_images": 40, "small": True, "guards": {"passed": True}, "table": []}
    assert said + "." in notes_on(judged | {"overlap": said}) and not any("training prompts" in note for note in notes_on(judged | {"overlap": ""}))
    training.unlink()
    assert evaluate.overlap(run.config, protocol) == "", "elsewhere the training prompts may not be at hand"


def test_attainable_share_of_the_gap_is_what_the_autoencoder_leaves(make_run, monkeypatch):
    def through(change: Callable[[torch.Tensor], torch.Tensor]) -> dict:
        monkeypatch.setattr("backend.diffusion.backbone.Backbone.reconstruct", lambda self, images: change(images))
        return evaluate.evaluate_run(make_run(), device="cpu", real_images=40)

    kept, lost = through(lambda images: images), through(lambda images: images.mean(0, keepdim=True).expand_as(images))
    assert kept["attainable"]["estimate"] == pytest.approx(1)
    assert any("perfect denoiser would close 100%" in note for note in kept["notes"])
    vendi = next(row for row in lost["table"] if row["measure"] == "Vendi score, Lite2")
    assert lost["attainable"]["estimate"] == pytest.approx((1 - vendi["base"]) / (vendi["ceiling"] - vendi["base"]), abs=1e-6)  # images all alike score 1
    odd = kept | {"attainable": {"estimate": 2.0}}  # as where the base is more varied than the ceiling
    assert not any("perfect denoiser" in note for note in [*lost["notes"], *notes_on(odd)])


@pytest.mark.parametrize(("high", "said", "unsaid"), [(7.8, "cannot tell damage from luck", "paid for with"), (-1.0, "paid for with precision", "luck")])
def test_a_guard_that_few_images_miss_is_no_damage_yet(high: float, said: str, unsaid: str):
    rows = [{"measure": PRECISION, "estimate": -2.0, "low": -11.0, "high": high}, {"measure": REALISM, "estimate": 0.001, "low": -0.009, "high": 0.013}]
    guards = guards_of(Interval(-2.0, -11.0, high), None, Interval(0, 0, 0))
    notes = " ".join(notes_on({"images": 64, "real_images": 400, "small": True, "guards": guards, "table": rows}))
    assert said in notes and unsaid not in notes


def test_policy_and_constants_are_compared_under_the_same_guards():
    """A policy that pays with precision is not said to beat a constant that was held to it."""
    kept, luck, damage = (guards_of(Interval(-2.0, low, high), None, Interval(0, 0, 0)) for low, high in ((-2.5, 0), (-11, 7), (-9, -1)))
    candidates = [{"guidance": 9.0, "gap_closed": 0.1, "guards": kept}, {"guidance": 12.0, "gap_closed": 0.3, "guards": damage}]
    trivial = {"best": candidates[0], "candidates": candidates}

    def said(guards: dict, constants: dict = trivial) -> str:
        return against_constants({"images": 64, "guidance": 7.5, "gap_closed": 0.2, "guards": guards, "trivial": constants})

    assert "closes more" in said(kept) and "Guidance 12 does not count, though it closes 30%: it does not keep the guards" in said(kept)
    for guards, why in ((damage, "which the policy does not keep"), (luck, "which 64 images do not settle for the policy")):
        assert f"without the guards, {why}: the best constant guidance (12) closes 30% of the gap, the policy 20%" in said(guards)
        assert "more" not in said(guards)
    unsettled = {"best": {"guidance": 7.5, "gap_closed": 0.0}, "candidates": [{"guidance": 10.5, "gap_closed": 0.26, "guards": luck}]}
    assert "64 images do not settle its guards. Of the other guidances that were tried none passes." in said(kept, unsettled)


def test_the_ceiling_is_decoded_with_progress_and_can_be_stopped_midway(make_run, monkeypatch):
    told, chunks = [], []
    monkeypatch.setattr(evaluate, "BATCH", 4)
    monkeypatch.setattr("backend.diffusion.backbone.Backbone.reconstruct", lambda self, images: chunks.append(len(images)) or images)
    with pytest.raises(Stopped):
        evaluate.evaluate_run(make_run(), device="cpu", real_images=40, progress=lambda what, share: told.append((what, share)), should_stop=lambda: len(chunks) > 1)
    assert chunks == [4, 4]
    assert [share for what, share in told if what == "encoding and decoding the ceiling"] == [0.25, 0.5]


def test_evaluation_repeats_to_the_digit_and_draws_the_base_once(make_run, monkeypatch):
    run = make_run(push=0.3)
    first = evaluate.evaluate_run(run, device="cpu", real_images=40)
    calls = []
    real = generate.draw
    monkeypatch.setattr(generate, "draw", lambda *a, **k: calls.append(1) or real(*a, **k))
    second = evaluate.evaluate_run(run, device="cpu", real_images=40)
    assert calls == []
    assert first["table"] == second["table"]


def test_stopping_leaves_no_result(make_run):
    run = make_run()
    with pytest.raises(Stopped):
        evaluate.evaluate_run(run, device="cpu", real_images=40, should_stop=lambda: True)
    assert run.evaluation() is None


def test_bad_input_is_named(make_run, tmp_path):
    run = make_run()
    with pytest.raises(InputError, match="episode_000003"):
        evaluate.evaluate_run(run, checkpoint="77")
    with pytest.raises(InputError, match="at least 4"):
        evaluate.evaluate_run(run, images=1)
    (run.checkpoints_dir / "episode_000003").rename(tmp_path / "gone")
    with pytest.raises(InputError, match="no checkpoint"):
        evaluate.evaluate_run(run)


def test_a_guidance_changed_while_training_is_what_is_evaluated_and_drawn(make_run):
    run, plain = make_run(), make_run()
    (generate.find_checkpoint(run) / "trainer.json").write_text(json.dumps({"progress": {"live": {"guidance_scale": 3.0}}}))
    assert evaluate.evaluate_run(run, device="cpu", real_images=40, guidances=())["guidance"] == 3.0
    assert evaluate.evaluate_run(plain, device="cpu", real_images=40, guidances=())["trivial"] is None
    changed, asked = generate.generate_images([PROMPTS[0]], [3], run=run, device="cpu"), generate.generate_images([PROMPTS[0]], [3], run=plain, guidance=3.0, device="cpu")
    assert np.array_equal(changed, asked) and not np.array_equal(changed, generate.generate_images([PROMPTS[0]], [3], run=plain, device="cpu"))
