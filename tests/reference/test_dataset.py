"""The shipped reference set, loading, validation, rebuilding."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.errors import InputError
from backend.reference.build import build_reference, choose, pool_member, rerender_differences
from backend.reference.captions import parse_caption
from backend.reference.dataset import load_reference, validate_reference
from backend.reference.duplicates import near_duplicates, thumbnail
from backend.reference.manifest import new_reference_folder, pixel_sha256
from backend.reference.portable import portable_environment, run_portably
from backend.reference.renderer import CraterParameters, render

SHIPPED = Path(__file__).resolve().parents[2] / "reference_data"


@pytest.fixture(scope="module")
def shipped():
    return load_reference(SHIPPED)


@pytest.fixture
def copy(tmp_path):
    """A set of five of the shipped images."""
    folder = tmp_path / "set"
    shutil.copytree(SHIPPED, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["images"] = manifest["images"][:3] + manifest["images"][-2:]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for path in (folder / "images").iterdir():
        if f"images/{path.name}" not in {entry["file"] for entry in manifest["images"]}:
            path.unlink()
    return folder


def edit(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_exactly_73_simulated_images_of_both_views(shipped):
    assert shipped.images.shape == (73, 128, 128, 3)
    assert shipped.images.dtype == np.uint8
    assert shipped.simulated
    assert "simulated" in shipped.label
    views = [entry["parameters"]["view"] for entry in shipped.manifest["images"]]
    assert views == ["aerial"] * 53 + ["ground"] * 20
    assert len({entry["sha256"] for entry in shipped.manifest["images"]}) == 73
    assert near_duplicates([thumbnail(image) for image in shipped.images]) == []


def test_captions_tell_what_the_parameters_are(shipped):
    for entry in shipped.manifest["images"]:
        words = parse_caption(entry["caption"])
        parameters = entry["parameters"]
        assert (words["view"], words["kind"], words["terrain"]) == (parameters["view"], parameters["kind"], parameters["terrain"])


def test_validation_is_silent_on_the_shipped_set():
    assert validate_reference(SHIPPED) == []


def test_each_shipped_image_is_drawn_again_bit_for_bit():
    """In a process held to the arithmetic that all x86-64 processors share; other kinds may differ by one level."""
    if os.uname().machine != "x86_64":
        pytest.skip("bit for bit is promised between x86-64 machines")
    assert rerender_differences(SHIPPED) == []


def test_drawn_in_this_process_no_pixel_is_off_by_more_than_one_level(shipped):
    for entry, image in list(zip(shipped.manifest["images"], shipped.images, strict=True))[::6]:
        drawn = render(CraterParameters.from_dict(entry["parameters"]), entry["seed"], 128)
        difference = np.abs(drawn.astype(int) - image)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 1e-3


def test_a_changed_parameter_is_noticed(copy):
    edit(copy, lambda manifest: manifest["images"][1]["parameters"].update(size=0.5))
    assert rerender_differences(copy) == [load_reference(copy).manifest["images"][1]["file"]]


def test_parameters_come_from_the_recorded_pool(shipped):
    for entry in shipped.manifest["images"][::9]:
        parameters, seed = pool_member(shipped.manifest["recipe"]["seed"], entry["pool_index"])
        assert parameters.to_dict() == pytest.approx(CraterParameters.from_dict(entry["parameters"]).to_dict())
        assert seed == entry["seed"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_whole_build_gives_the_shipped_set_again(shipped, tmp_path):
    if os.uname().machine != "x86_64":
        pytest.skip("bit for bit is promised between x86-64 machines")
    again = build_reference(tmp_path / "set")
    assert again.digest == shipped.digest
    assert again.captions == shipped.captions


def test_a_small_build_can_be_drawn_again_and_its_target_is_guarded(tmp_path):
    made = build_reference(tmp_path / "a", pool=16, count=4, ground=1, size=64, seed=5)
    assert [entry["parameters"]["view"] for entry in made.manifest["images"]] == ["aerial"] * 3 + ["ground"]
    assert [entry["pool_index"] for entry in made.manifest["images"]][:3] == sorted({entry["pool_index"] for entry in made.manifest["images"][:3]})
    assert rerender_differences(tmp_path / "a") == []
    with pytest.raises(InputError, match="--overwrite"):
        build_reference(tmp_path / "a", pool=16, count=4, ground=1)
    with pytest.raises(InputError, match="do not fit"):
        build_reference(tmp_path / "c", pool=3, count=4, ground=1)
    with pytest.raises(InputError, match="unknown extractor 'nonsense'"):
        build_reference(tmp_path / "c", pool=4, count=2, ground=0, extractor="nonsense")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_errors_of_the_other_process_arrive(copy):
    edit(copy, lambda manifest: manifest["images"][1]["parameters"].update(moons=2))
    with pytest.raises(InputError, match="unknown crater parameter 'moons'"):
        rerender_differences(copy)
    edit(copy, lambda manifest: manifest["images"][1].pop("parameters"))
    with pytest.raises(InputError, match="images without parameters"):
        rerender_differences(copy)
    with pytest.raises(InputError, match="no answer"):
        run_portably("backend.reference.build", {"job": "none"})


def test_too_few_views_of_a_kind():
    with pytest.raises(InputError, match="3 ground views, 4 are wanted"):
        choose(np.random.default_rng(0).normal(size=(9, 2)), np.arange(9) < 3, 6, 4)


def test_the_environment_holds_numpy_to_its_baseline():
    environment = portable_environment()
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    assert environment["NPY_DISABLE_CPU_FEATURES"].split() == found
    assert environment["OMP_NUM_THREADS"] == "1"


def test_hash_depends_on_shape_and_every_pixel():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert pixel_sha256(image) == hashlib.sha256(b"4x4x3:" + bytes(range(48))).hexdigest()
    assert pixel_sha256(image) != pixel_sha256(image.reshape(2, 8, 3))


def test_tensor_in_unit_range_and_resized_like_area_means(shipped):
    tensor = shipped.tensor()
    assert tuple(tensor.shape) == (73, 3, 128, 128)
    assert np.array_equal(np.round(tensor.numpy() * 255).astype(np.uint8), shipped.images.transpose(0, 3, 1, 2))
    small = shipped.tensor(64)
    assert tuple(small.shape) == (73, 3, 64, 64)
    assert abs(float(small.mean()) - shipped.images.mean() / 255) < 2e-3
    assert float(small.min()) >= 0
    assert float(small.max()) <= 1


def test_other_pixels_than_the_manifest_names(copy):
    entry = load_reference(copy).manifest["images"][2]
    pixels = np.asarray(Image.open(copy / entry["file"])).copy()
    pixels[5, 5, 0] ^= 1
    Image.fromarray(pixels).save(copy / entry["file"])
    with pytest.raises(InputError, match=f"{entry['file']} is not the one in the manifest"):
        load_reference(copy)
    assert len(validate_reference(copy)) == 1


def test_a_recompressed_file_with_the_same_pixels_is_the_same_image(copy):
    entry = load_reference(copy).manifest["images"][0]
    with Image.open(copy / entry["file"]) as image:
        image.load()
    image.save(copy / entry["file"], compress_level=0)
    assert load_reference(copy).captions[0] == entry["caption"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m["images"].clear(), "lists no image"),
        (lambda m: m.update(format="other"), "no reference manifest"),
        (lambda m: m.update(version=9), "has version 9"),
        (lambda m: m["images"][0].pop("sha256"), "lacks file, caption or sha256"),
        (lambda m: m["images"][0].update(file="../../etc/passwd"), "outside the reference folder"),
        (lambda m: m["images"][0].update(file="/etc/passwd"), "outside the reference folder"),
        (lambda m: m["images"][0].update(file="images/none.png"), "is missing"),
    ],
)
def test_damaged_manifests(copy, change, says):
    edit(copy, change)
    with pytest.raises(InputError) as caught:
        load_reference(copy, field="reference")
    assert says in str(caught.value)
    assert caught.value.field == "reference"


def test_folders_that_are_no_reference_set(tmp_path, copy):
    with pytest.raises(InputError, match="does not exist"):
        load_reference(tmp_path / "none")
    with pytest.raises(InputError, match="reference import"):
        load_reference(tmp_path)
    (copy / "images" / "crater_00.png").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="cannot be read"):
        load_reference(copy)
    (copy / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        load_reference(copy)


def test_images_of_different_sizes_and_strangers_in_the_folder(copy):
    small = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(small).save(copy / "images" / "crater_00.png")
    edit(copy, lambda manifest: manifest["images"][0].update(sha256=pixel_sha256(small)))
    with pytest.raises(InputError, match="different sizes"):
        load_reference(copy)
    Image.fromarray(small).save(copy / "images" / "stranger.png")
    problems = validate_reference(copy)
    assert any("different sizes" in problem for problem in problems)
    assert any("images/stranger.png is not in the manifest" in problem for problem in problems)


def test_a_temporary_folder_of_a_dead_process_is_removed_and_a_living_ones_kept(tmp_path):
    dead, living = tmp_path / ".set.partial-999999999-ab", tmp_path / f".set.partial-{os.getpid()}-ab"
    for folder in (dead, living):
        folder.mkdir()
    with pytest.raises(ZeroDivisionError), new_reference_folder(tmp_path / "set", overwrite=False) as folder:
        (folder / "x").write_text("x")
        raise ZeroDivisionError
    assert sorted(path.name for path in tmp_path.iterdir()) == [living.name]
