"""Import of images of every kind: what becomes of their pixels."""

import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from backend.errors import InputError
from backend.reference.archives import Limits, Refused
from backend.reference.caption_files import parse_captions
from backend.reference.dataset import load_reference
from backend.reference.decoding import decode_image, fit_square
from backend.reference.duplicates import near_duplicates, orientations, perceptual_hash, thumbnail
from backend.reference.importing import import_reference, printable


def picture(seed: int, height: int = 60, width: int = 60) -> np.ndarray:
    """Smooth random colour image uint8 `[h, w, 3]`."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decode(data: bytes) -> tuple[np.ndarray, list[str]]:
    return decode_image(data, Limits())


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP"])
def test_lossless_formats_keep_every_pixel(kind):
    pixels = picture(1)
    found, notes = decode(encoded(Image.fromarray(pixels), kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert np.array_equal(found, pixels)
    assert notes == []


def test_jpeg_stays_close():
    pixels = picture(2)
    found, _ = decode(encoded(Image.fromarray(pixels), "JPEG", quality=95))
    assert np.abs(found.astype(int) - pixels).mean() < 4


def test_grey_and_palette_become_rgb():
    grey = picture(3)[..., 0]
    found, _ = decode(encoded(Image.fromarray(grey)))
    assert np.array_equal(found, np.repeat(grey[..., None], 3, 2))
    palette = Image.fromarray(picture(3)).quantize(16)
    found, _ = decode(encoded(palette))
    assert np.array_equal(found, np.asarray(palette.convert("RGB")))


def test_sixteen_bits_are_stretched_from_their_own_range():
    ramp = np.linspace(1000, 3000, 64 * 64).reshape(64, 64)
    found, notes = decode(encoded(Image.fromarray(ramp.astype(np.uint16))))
    low, high = np.percentile(ramp.astype(np.uint16), [0.5, 99.5])
    expected = np.round(np.clip((ramp.astype(np.uint16) - low) / (high - low), 0, 1) * 255)
    assert np.array_equal(found[..., 1], expected)
    assert found.min() == 0
    assert found.max() == 255
    assert "stretched" in notes[0]


def test_float_image_with_no_data_is_filled_with_the_median():
    values = np.linspace(-5, 5, 40 * 40).reshape(40, 40).astype(np.float32)
    values[:4] = np.nan
    found, notes = decode(encoded(Image.fromarray(values), "TIFF"))
    assert np.all(found[:4] == found[0, 0])
    assert abs(int(found[0, 0, 0]) - 128) <= 1
    assert any("without data" in note for note in notes)


def test_transparent_parts_take_the_mean_colour_of_the_opaque():
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[:20] = [200, 100, 50, 255]
    pixels[:10, :, 0] = 100
    found, notes = decode(encoded(Image.fromarray(pixels)))
    assert np.array_equal(found[30, 30], [150, 100, 50])
    assert np.array_equal(found[0, 0], [100, 100, 50])
    assert "50% of it transparent" in notes[0]
    grey_alpha = np.dstack([picture(4)[..., 0], np.full((60, 60), 255, np.uint8)])
    found, _ = decode(encoded(Image.fromarray(grey_alpha, mode="LA")))
    assert np.array_equal(found[..., 2], grey_alpha[..., 0])


def test_exif_rotation_is_applied():
    pixels = picture(5, 40, 80)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: to be turned 90 degrees clockwise
    found, notes = decode(encoded(Image.fromarray(pixels), "PNG", exif=exif))
    assert np.array_equal(found, np.rot90(pixels, -1))
    assert "turned upright" in notes[0]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image"),
        (b"GIF89a nonsense", "not an image"),
        (encoded(Image.fromarray(picture(6)))[:200], "damaged"),
        (encoded(Image.new("RGB", (8, 8))), "8 x 8 pixels"),
        (encoded(Image.fromarray(picture(6, 40, 400))), "400 x 40"),
        (encoded(Image.new("RGB", (64, 64), (9, 9, 9))), "blank"),
        (encoded(Image.new("RGBA", (64, 64), (9, 9, 9, 0))), "entirely transparent"),
        (encoded(Image.new("1", (20000, 20000))), "pixels"),
        (encoded(Image.new("1", (9000, 9000))), "9000 x 9000 pixels"),
    ],
)
def test_what_is_no_usable_image_is_refused_with_a_reason(data, reason):
    with pytest.raises(Refused) as caught:
        decode(data)
    assert reason in str(caught.value)


def test_fit_square_crops_the_centre():
    pixels = picture(7, 64, 100)
    assert np.array_equal(fit_square(pixels, 64), pixels[:, 18:82])
    notes = []
    assert fit_square(pixels, 128, notes).shape == (128, 128, 3)
    assert notes == ["enlarged from 64 to 128 pixels"]


def test_near_duplicates_are_found_turned_or_compressed_but_not_between_strangers():
    images = [picture(seed, 128, 128) for seed in range(12)]
    jpeg, _ = decode(encoded(Image.fromarray(images[3]), "JPEG", quality=60))
    turned = np.ascontiguousarray(np.fliplr(np.rot90(images[5])))
    thumbs = [thumbnail(image) for image in [*images, jpeg, turned]]
    found = [(pair.first, pair.second, pair.turned) for pair in near_duplicates(thumbs)]
    assert found == [(3, 12, False), (5, 13, True)]


def test_the_eight_orientations_differ_and_close_under_rotation():
    thumb = thumbnail(picture(8))
    copies = orientations(thumb)
    assert len({copy.tobytes() for copy in copies}) == 8
    assert any(np.array_equal(np.rot90(copies[6]), copy) for copy in copies)
    assert bin(int(perceptual_hash(thumb))).count("1") in range(28, 36)


def test_folder_import_reports_each_change_and_refusal(tmp_path):
    source = tmp_path / "mine"
    (source / "deep").mkdir(parents=True)
    Image.fromarray(picture(1, 90, 70)).save(source / "a.png")
    Image.fromarray(picture(2)).save(source / "deep" / "b.tif")
    Image.fromarray(picture(1, 90, 70)).save(source / "c.bmp")
    Image.fromarray(picture(1, 90, 70)).save(source / "d.jpg", quality=92)
    (source / "notes.txt").write_text("hello")
    (source / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (source / ".DS_Store").write_bytes(b"x")
    os.symlink("/etc/passwd", source / "link.png")
    os.mkfifo(source / "pipe.png")
    (source / "captions.csv").write_text('file,caption\na.png,"aerial view, old"\nb.tif,ground view\nnone.png,nothing\n')
    report = import_reference(source, tmp_path / "set", name="Mine", licence="CC0", size=64)
    refused = dict(report.refused)
    assert refused == {
        "broken.png": refused["broken.png"],
        "c.bmp": "exact duplicate of a.png",
        "link.png": "symbolic link: copy the file itself into the folder",
        "notes.txt": refused["notes.txt"],
        "pipe.png": "not a regular file",
    }
    assert report.ignored == 1
    assert [(later, earlier) for later, earlier, _ in report.near] == [("d.jpg", "a.png")]
    assert all("\n" not in line for line in report.lines())
    loaded = load_reference(tmp_path / "set")
    assert loaded.images.shape == (3, 64, 64, 3)
    assert loaded.captions == ["aerial view, old", "", "ground view"]
    assert loaded.manifest["licence"] == "CC0"
    assert not loaded.simulated
    assert json.loads((tmp_path / "set" / "import_report.json").read_text())["source"] == "mine"
    again = import_reference(source, tmp_path / "set", overwrite=True, drop_near=True)
    assert len(again.accepted) == 2


def test_nothing_is_left_where_an_import_fails(tmp_path):
    source = tmp_path / "mine"
    source.mkdir()
    Image.fromarray(picture(1)).save(source / "only.png")
    with pytest.raises(InputError, match="1 usable images"):
        import_reference(source, tmp_path / "set")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]


def test_target_is_never_a_stranger_folder_nor_inside_the_source(tmp_path):
    source = tmp_path / "mine"
    source.mkdir()
    for seed in range(2):
        Image.fromarray(picture(seed)).save(source / f"{seed}.png")
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter1.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="holds other files"):
            import_reference(source, other, overwrite=overwrite)
    with pytest.raises(InputError, match="inside the source"):
        import_reference(source, source / "set")
    import_reference(source, tmp_path / "set")
    with pytest.raises(InputError, match="--overwrite"):
        import_reference(source, tmp_path / "set")
    assert (other / "chapter1.tex").read_text() == "years of work"


def test_a_failed_overwrite_keeps_the_old_set(tmp_path):
    source = tmp_path / "mine"
    source.mkdir()
    for seed in range(3):
        Image.fromarray(picture(seed)).save(source / f"{seed}.png")
    import_reference(source, tmp_path / "set")
    (tmp_path / "set" / "my_notes.md").write_text("mine")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="0 usable images"):
        import_reference(empty, tmp_path / "set", overwrite=True)
    assert len(load_reference(tmp_path / "set")) == 3
    (source / "0.png").unlink()
    import_reference(source, tmp_path / "set", overwrite=True)
    assert len(load_reference(tmp_path / "set")) == 2
    assert (tmp_path / "set" / "my_notes.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("data", "name", "says"),
    [
        (b"file,caption\n\xff,x\n", "captions.csv", "not UTF-8"),
        (b"a,b\n1,2\n", "captions.csv", "row 2: needs an image name"),
        (b'{"file_name": "a.png"}\n', "metadata.jsonl", "row 1: needs"),
        (b"[1]\n", "metadata.jsonl", "not an object"),
        (b"{oops\n", "metadata.jsonl", "not JSON"),
        (b"file,caption\na.png," + b"x" * 501, "captions.csv", "501 characters"),
        (b'file,caption\na.png,"open', "captions.csv", "not a CSV"),
    ],
)
def test_faulty_caption_files(data, name, says):
    with pytest.raises(InputError) as caught:
        parse_captions(data, name)
    assert says in str(caught.value)


def test_captions_of_the_image_folder_form():
    assert parse_captions(b'{"file_name": "x\\\\a.png", "text": " two  words "}\n', "metadata.jsonl") == {"x/a.png": "two words"}


def test_names_for_the_terminal_have_no_control_characters():
    assert printable("a\x1b[31m\nb.png") == "a\\x1b[31m\\nb.png"
    assert len(printable("x" * 500)) == 120


def test_real_crops_import_cleanly(tmp_path):
    folder = os.environ.get("REAL_CROPS_DIR")
    if not folder:
        pytest.skip("set REAL_CROPS_DIR to a folder of real crater crops to run this test")
    report = import_reference(folder, tmp_path / "set")
    images = sum(len(files) for _, _, files in os.walk(folder)) - len(report.refused) - report.ignored
    assert len(report.accepted) == images > 100
    assert all(name.endswith((".csv", ".md", ".txt", ".json")) or "duplicate" in reason for name, reason in report.refused)
    assert load_reference(tmp_path / "set").images.shape == (images, 128, 128, 3)


def series(count: int, step: float = 3.0) -> list[np.ndarray]:
    """Pictures of one crater under a light that wanders: each nearly repeats the one before it, the last has nothing of the first."""
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    bowl = np.exp(-4 * (x**2 + y**2))
    angles = np.deg2rad(step * np.arange(count))
    return [np.repeat((128 + 100 * bowl * (x * np.cos(a) + y * np.sin(a)) * 2).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2) for a in angles]


def test_a_slow_series_is_thinned_and_not_dropped_down_to_one(tmp_path):
    images = series(40)
    thumbs = [thumbnail(image) for image in images]
    assert len(near_duplicates(thumbs)) > 30
    kept = sorted(set(range(40)) - {pair.second for pair in near_duplicates(thumbs, of_kept=True)})
    assert len(kept) > 4 and not near_duplicates([thumbs[i] for i in kept])
    (tmp_path / "series").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "series" / f"{number:02d}.png")
    assert len(import_reference(tmp_path / "series", tmp_path / "set", drop_near=True).accepted) == len(kept)


def test_one_colour_is_blank_whatever_its_channels(tmp_path):
    with pytest.raises(Refused, match="blank"):
        decode(encoded(Image.new("RGB", (64, 64), (200, 120, 60)), "PNG"))
    wide = np.full((64, 128, 3), 90, np.uint8)
    wide[:, :20] = 10
    (tmp_path / "wide").mkdir()
    for number, image in enumerate([wide, picture(1), picture(2)]):
        Image.fromarray(image).save(tmp_path / "wide" / f"{number}.png")
    report = import_reference(tmp_path / "wide", tmp_path / "set")
    assert report.refused == [("0.png", "blank: every pixel is the same of its central square")]


def test_captions_of_two_folders_stay_in_their_folders(tmp_path):
    for place, folder in enumerate(("train", "test")):
        (tmp_path / "both" / folder).mkdir(parents=True)
        for number in range(2):
            Image.fromarray(picture(10 * place + number)).save(tmp_path / "both" / folder / f"{number:04d}.png")
        (tmp_path / "both" / folder / "metadata.jsonl").write_text("".join(f'{{"file_name": "{n:04d}.png", "text": "{folder} {n}"}}\n' for n in range(2)))
    report = import_reference(tmp_path / "both", tmp_path / "set")
    assert load_reference(tmp_path / "set").captions == ["test 0", "test 1", "train 0", "train 1"] and not report.notes[1:]


def test_single_files_keep_their_names_and_their_captions(tmp_path):
    files = [tmp_path / name for name in ("krater_ä.png", "x 1.png", "captions.csv")]
    for number, file in enumerate(files[:2]):
        Image.fromarray(picture(number)).save(file)
    files[2].write_text("file,caption\nkrater_ä.png,old\nx 1.png,young\n", encoding="utf-8")
    report = import_reference(files, tmp_path / "set")
    assert load_reference(tmp_path / "set").captions == ["old", "young"] and report.source == "3 files"
    assert [item["source"] for item in report.accepted] == ["krater_ä.png", "x 1.png"]
