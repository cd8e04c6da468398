"""Readers, labels and agreement against independent computations; versions on disk are those that are recorded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from backend.base_model import measure
from backend.base_model.agreement import LABELS, SECOND_LABELS, agreement, area_under_curve, rank_correlation, read_labels
from backend.base_model.card import _combination_rows
from backend.base_model.judges import RECORD, judge_versions, judges_markdown, second_labels
from backend.base_model.measure import group_r_squared, own_adherence_table, truth
from backend.base_model.publish import remember
from backend.base_model.readers import RegionReader, disturbed, half_disturbed, region_features, region_masks
from backend.base_model.sheets import GAP, TITLE, read_crops, side_by_side, spread_over
from backend.errors import InputError
from backend.features.load import load_extractor
from backend.reference.captions import ATTRIBUTES, NAMED
from backend.reference.prompts import load_prompts
from backend.reference.renderer import render_batch, sample_parameters


def test_statistics_of_agreement_equal_scipy_and_sklearn() -> None:
    rng = np.random.default_rng(0)
    read, levels = rng.integers(0, 6, 40).astype(float), rng.integers(0, 4, 40).astype(float)
    assert rank_correlation(read, levels) == pytest.approx(spearmanr(read, levels).statistic)
    has = (levels > 1).astype(float)
    assert area_under_curve(read, has) == pytest.approx(roc_auc_score(has, read))


def test_agreement_of_a_perfect_and_of_a_blind_judge() -> None:
    rng = np.random.default_rng(0)
    wanted = np.full((40, len(ATTRIBUTES)), np.nan)
    wanted[:, ATTRIBUTES.index("size")] = rng.choice([0.3, 0.45, 0.6], 40)
    rims = [i for i, name in enumerate(ATTRIBUTES) if name.startswith("rims: ")]
    wanted[:30, rims] = np.eye(len(rims))[rng.integers(0, 2, 30)]
    perfect = agreement(np.nan_to_num(wanted), wanted, rng)
    assert set(perfect) == {"size", "rims"} and perfect["rims"]["n"] == 30 and len(perfect["rims"]["words"]) == 2
    assert perfect["size"]["value"] == 1.0 == perfect["rims"]["value"] == perfect["rims"]["low"]
    blind = agreement(rng.random(wanted.shape), wanted, rng)
    assert blind["size"]["low"] < 0 < blind["size"]["high"] and blind["rims"]["low"] < 0.5 < blind["rims"]["high"]


def test_committed_labels_are_words_of_the_captions() -> None:
    names, wanted = read_labels(LABELS)
    assert len(names) == 40 == len(set(names)) and wanted.shape == (40, len(ATTRIBUTES))
    row = names.index("themis_dayir_acse/train_crater156_324_155_d055.png")
    assert wanted[row, ATTRIBUTES.index("kind: bowl")] == 1.0 and wanted[row, ATTRIBUTES.index("kind: ghost")] == 0.0
    assert wanted[row, ATTRIBUTES.index("size")] == pytest.approx((0.37 + 0.52) / 2)
    assert np.isnan(wanted[row, ATTRIBUTES.index("colour")])


def test_a_label_that_is_no_word_is_named(tmp_path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("file,size,age,kind,terrain,rims,interiors,light\na.png,huge,,,,,,\n")
    with pytest.raises(InputError, match="'huge' is no word for size"):
        read_labels(path)
    path.write_text("file,size\na.png,large\n")
    with pytest.raises(InputError, match="no column 'age'"):
        read_labels(path)


def test_recorded_versions_are_those_of_the_files() -> None:
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    versions = judge_versions()
    assert {name: entry["sha256"] for name, entry in record.items()} == versions and len(versions) == 4


def test_regions_hold_what_lies_in_them() -> None:
    whole, middle, ring, plain, upper, lower = region_masks(16)
    for mask in (whole, middle, ring, plain, upper, lower):
        assert float(mask.sum()) == pytest.approx(1.0)
    assert middle[8, 8] > 0 == plain[8, 8] == middle[0, 0] < plain[0, 0] and upper[0, 5] > 0 == upper[15, 5] and lower[15, 5] > 0
    assert torch.equal(((middle > 0).int() + (ring > 0).int() + (plain > 0).int()), torch.ones(16, 16, dtype=torch.int32))
    assert ring[8, 12] > 0  # a rim at 0.28 of the frame's width from the middle


def test_the_first_region_is_the_extractors_own_feature() -> None:
    network = load_extractor("efficientnet_lite0")
    images = torch.rand(3, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    regions = region_features(network, images, blocks=(network.variant.last_block,))
    plain = network(images)
    channels = plain.shape[1] // 2
    assert regions.shape == (3, 6 * 2 * channels)
    torch.testing.assert_close(regions[:, :channels], plain[:, :channels], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(regions[:, channels : 2 * channels], plain[:, channels:], atol=1e-2, rtol=2e-2)  # n instead of n - 1


def test_disturbed_copies_change_a_little_and_half_of_them_do() -> None:
    rng = np.random.default_rng(0)
    images = render_batch([sample_parameters(rng) for _ in range(4)], range(4), size=64)
    changed = np.abs(disturbed(images, rng).astype(int) - images).mean((1, 2, 3))
    assert (changed > 0.5).all() and (changed < 40).all()
    half = half_disturbed(images, 1)
    assert (half[::2] == images[::2]).all() and all((half[i] != images[i]).any() for i in (1, 3))


def test_pooled_r_squared_weighs_attributes_by_their_variance() -> None:
    true = truth([sample_parameters(np.random.default_rng(i)) for i in range(50)])
    assert set(group_r_squared(true, true).values()) == {1.0}
    assert set(group_r_squared(true.mean(0).expand_as(true), true).values()) == {0.0}


def test_own_adherence_forgives_a_style_but_not_a_lost_caption() -> None:
    rng = np.random.default_rng(0)
    params = [sample_parameters(np.random.default_rng(i)) for i in range(300)]
    renders = truth(params).numpy() @ rng.normal(size=(len(ATTRIBUTES), 64)) + 0.1 * rng.normal(size=(300, 64))
    styled, lost = 0.4 * renders - 7, rng.permutation(renders)
    assert all(row["relative"] == pytest.approx(1, abs=0.02) for row in own_adherence_table(renders, styled, params).values())
    assert all(row["relative"] < 0.05 for row in own_adherence_table(renders, lost, params).values())


def test_new_combinations_compare_renders_with_pictures_of_the_same_words(monkeypatch) -> None:
    drawn = []
    monkeypatch.setattr(measure, "render_all", lambda params, rng: drawn.append(render_batch(params, range(len(params)), size=64)) or drawn[0])
    monkeypatch.setattr(measure, "generate", lambda folder, captions, seed: drawn[0])
    found = measure.combination_table(Path("unused"), RegionReader.load(), load_prompts("assets/prompts/test.txt"), 40, np.random.default_rng(0))
    assert all(set(table) == set(NAMED) for table in found.values())
    assert all(row["generated"] == row["renders"] for table in found.values() for row in table.values())
    assert any("| view |" in line for line in _combination_rows({"combinations": found})) and _combination_rows({}) == []


def test_a_training_image_is_found_however_it_was_turned(monkeypatch) -> None:
    rng = np.random.default_rng(3)
    training = rng.integers(0, 256, size=(20, 32, 32, 3), dtype=np.uint8)
    monkeypatch.setattr(measure, "CHUNK", 8)
    monkeypatch.setattr(measure, "load_extractor", lambda name: lambda images: images.flatten(1))
    copies = np.stack([np.rot90(training[19], 3), training[4, :, ::-1], np.rot90(training[11, :, ::-1])])
    found = measure.memorisation(copies, training, rng.integers(0, 256, size=(5, 32, 32, 3), dtype=np.uint8))
    assert found["generated median"] < 0.05 < 10 < found["fresh renders minimum"] and found["training images"] == 20
    assert len({image.tobytes() for image in measure.symmetries(training)}) == 8


def test_history_keeps_versions_and_replaces_a_repeated_measurement(tmp_path) -> None:
    path = tmp_path / "history.json"
    remember({"weights_sha256": "a", "images": 100}, path)
    remember({"weights_sha256": "b", "images": 100}, path)
    history = remember({"weights_sha256": "b", "images": 200}, path)
    assert [(h["version"], h["weights_sha256"], h["images"]) for h in history] == [(1, "a", 100), (2, "b", 200)]
    assert json.loads(path.read_text()) == history


def test_sheet_has_a_block_for_each_set() -> None:
    blocks = {"rendered": np.full((64, 8, 8, 3), 10, np.uint8), "generated": np.full((64, 8, 8, 3), 200, np.uint8)}
    page = np.asarray(side_by_side(blocks))
    assert page.shape == (TITLE + 64, 2 * 64 + GAP, 3)
    assert (page[TITLE:, :64] == 10).all() and (page[TITLE:, 64 + GAP :] == 200).all()


def test_crops_are_read_by_name_and_missing_ones_named(tmp_path) -> None:
    from PIL import Image

    for i in range(3):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    images, names = read_crops(tmp_path, ["2.png", "0.png"])
    assert images.shape == (2, 128, 128, 3) and names == ["2.png", "0.png"]
    with pytest.raises(InputError, match="1 of 2 crops are not there, the first is 9.png"):
        read_crops(tmp_path, ["2.png", "9.png"])
    assert spread_over(["a", "b", "c", "d", "e"], 3) == ["a", "c", "e"]


def test_the_table_of_judges_has_every_attribute_and_interval() -> None:
    row = {"measure": "AUC", "value": 0.7, "low": 0.5, "high": 0.9, "n": 12, "words": ["bowl"]}
    accuracy = dict.fromkeys(dict.fromkeys(name.partition(":")[0] for name in ATTRIBUTES), 0.5)
    judge = {"sha256": "ab", "held_out_r2": accuracy, "disturbed_r2": accuracy, "agreement": {"all": {"kind": row}}}
    figures = {"judges": {"one": judge, "two": judge}, "labellers": {"all": {"kind": row | {"n": 8}}}, "command": "c", "held_out_renders": 9, "labelled_crops": 12}
    text = judges_markdown(figures)
    assert "| kind | AUC of bowl | 12 | 0.70 (0.50 to 0.90) | 0.70 (0.50 to 0.90) | 0.70 (0.50 to 0.90), 8 |" in text and "| freshness | 0.50 (0.50) | 0.50 (0.50) |" in text
    assert "| 0.70 (0.50 to 0.90) | – |" in judges_markdown(figures | {"labellers": {"all": {}}})


def test_two_labellers_are_compared_where_both_spoke(tmp_path) -> None:
    """The committed tables name the same crops; a copy of the first agrees with it wholly, and a silent one says nothing."""
    names, wanted = read_labels()
    assert second_labels(names, SECOND_LABELS).shape == wanted.shape
    rng = np.random.default_rng(0)
    same = agreement(wanted, wanted, rng)
    assert all(row["value"] == 1.0 for row in same.values()) and "size" in same
    silent = np.where(rng.random(len(names))[:, None] < 0.5, wanted, np.nan)
    assert 0 < agreement(silent, wanted, rng)["freshness"]["n"] < same["freshness"]["n"]
    assert agreement(np.full_like(wanted, np.nan), wanted, rng) == {}
    short = tmp_path / "short.csv"
    short.write_text("\n".join(SECOND_LABELS.read_text().splitlines()[:5]), encoding="utf-8")
    with pytest.raises(InputError, match=f"36 of {len(names)} are missing"):
        second_labels(names, short)
