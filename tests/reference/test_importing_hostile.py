"""Import of archives made to do harm."""

import io
import stat
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from backend.errors import InputError
from backend.reference.archives import Limits
from backend.reference.dataset import load_reference
from backend.reference.importing import import_reference
from backend.reference.numpy_archive import read_npz


def png(seed: int, side: int = 48) -> bytes:
    rng = np.random.default_rng(seed)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def zip_of(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def everything(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_hostile_members_are_refused_one_by_one_and_the_rest_is_imported(tmp_path):
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    device = zipfile.ZipInfo("device.png")
    device.external_attr = (stat.S_IFCHR | 0o600) << 16
    inner = zip_of(tmp_path / "inner.zip", [("x.png", png(9))]).read_bytes()
    members = [
        ("good/1.png", png(1)),
        ("good/2.png", png(2)),
        ("../escape.png", png(3)),
        ("a/../../escape.png", png(3)),
        ("..\\escape.png", png(3)),
        ("/tmp/absolute.png", png(4)),
        ("C:\\absolute.png", png(4)),
        (link, "/etc/passwd"),
        (device, ""),
        ("inner.zip", inner),
        ("bomb.bmp", b"BM" + bytes(30_000_000)),
        ("__MACOSX/._1.png", b"x"),
        ("virus.exe", b"MZ"),
    ]
    (tmp_path / "work").mkdir()
    source = zip_of(tmp_path / "work" / "hostile.zip", members)
    before = set(everything(tmp_path))
    report = import_reference(source, tmp_path / "work" / "set")
    created = set(everything(tmp_path)) - before
    assert created == {"work/set", "work/set/images", "work/set/images/image_0000.png", "work/set/images/image_0001.png", "work/set/import_report.json", "work/set/manifest.json"}
    reasons = dict(report.refused)
    assert len(report.accepted) == 2
    assert report.ignored == 1
    assert len(reasons) == 10
    for name in ("../escape.png", "a/../../escape.png"):
        assert "leads out" in reasons[name]
    assert "absolute" in reasons["/tmp/absolute.png"]
    assert "symbolic link" in reasons["link.png"]
    assert "not a regular file" in reasons["device.png"]
    assert "inside the archive" in reasons["inner.zip"]
    assert "more than 200: no picture is" in reasons["bomb.bmp"]
    assert sum("leads out" in reason for reason in reasons.values()) == 3
    assert sum("absolute" in reason for reason in reasons.values()) == 2


def test_ten_thousand_files_are_refused_before_any_is_read(tmp_path):
    source = zip_of(tmp_path / "many.zip", ((f"{i}.png", b"x") for i in range(10_000)), zipfile.ZIP_STORED)
    with pytest.raises(InputError, match="10000 files, at most 5000"):
        import_reference(source, tmp_path / "set")
    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(30):
        (folder / f"{index}.png").write_bytes(b"x")
    with pytest.raises(InputError, match="more than 20 files"):
        import_reference(folder, tmp_path / "set", limits=Limits(files=20))
    assert not (tmp_path / "set").exists()


def test_a_table_of_contents_that_lies_about_its_count_is_still_counted(tmp_path):
    source = zip_of(tmp_path / "lies.zip", [(f"{i}.png", b"x") for i in range(40)], zipfile.ZIP_STORED)
    data = bytearray(source.read_bytes())
    data[-14:-10] = struct.pack("<HH", 2, 2)  # entries on this disk, entries in all
    source.write_bytes(data)
    with pytest.raises(InputError, match="40 files, at most 20"):
        import_reference(source, tmp_path / "set", limits=Limits(files=20))


def test_a_member_larger_than_it_states_is_refused(tmp_path):
    source = zip_of(tmp_path / "sizes.zip", [("1.png", png(1)), ("2.png", png(2)), ("3.png", png(3))], zipfile.ZIP_STORED)
    data = bytearray(source.read_bytes())
    at = data.find(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 50)  # unpacked size of 1.png in the table of contents
    source.write_bytes(data)
    report = import_reference(source, tmp_path / "set")
    assert [name for name, _ in report.refused] == ["1.png"]


def test_total_size_archive_size_and_large_member(tmp_path):
    noise = np.random.default_rng(0).bytes(200_000)
    source = zip_of(tmp_path / "large.zip", [(f"{i}.bmp", noise) for i in range(4)])
    with pytest.raises(InputError, match="unpacks to"):
        import_reference(source, tmp_path / "set", limits=Limits(total_bytes=500_000))
    with pytest.raises(InputError, match="split it"):
        import_reference(source, tmp_path / "set", limits=Limits(archive_bytes=100_000))
    with pytest.raises(InputError, match="more than 100,000 bytes"):
        import_reference(source, tmp_path / "set", limits=Limits(file_bytes=100_000))


def test_the_total_size_of_a_folder_counts_what_would_be_read(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for index in range(4):
        (folder / f"{index}.png").write_bytes(png(index))
    bound = sum(path.stat().st_size for path in folder.iterdir())
    for name in ("large.tif", ".hidden"):  # each refused or passed over by itself
        (folder / name).write_bytes(bytes(2 * bound))
    assert len(import_reference(folder, tmp_path / "set", limits=Limits(total_bytes=bound, file_bytes=bound)).accepted) == 4
    with pytest.raises(InputError, match="holds more than .* bytes: name a smaller folder"):
        import_reference(folder, tmp_path / "other", limits=Limits(total_bytes=bound - 1, file_bytes=bound))


def test_encrypted_damaged_and_unknown_archives(tmp_path):
    source = zip_of(tmp_path / "secret.zip", [("1.png", png(1)), ("2.png", png(2)), ("3.png", png(3))], zipfile.ZIP_STORED)
    data = bytearray(source.read_bytes())
    data[data.find(b"PK\x01\x02") + 8] |= 1
    at = data.find(png(2)) + 60
    data[at : at + 4] = b"\0\0\0\0"
    source.write_bytes(data)
    with pytest.raises(InputError, match="1 usable images") as caught:
        import_reference(source, tmp_path / "set")
    assert "without a password" in str(caught.value)
    assert "2.png: damaged in the archive" in str(caught.value)
    (tmp_path / "cut.zip").write_bytes(data[: len(data) // 2])
    (tmp_path / "fake.tar.gz").write_bytes(b"\x1f\x8b nonsense")
    for name in ("cut.zip", "fake.tar.gz"):
        with pytest.raises(InputError, match="neither a folder nor a .zip"):
            import_reference(tmp_path / name, tmp_path / "set")
    with pytest.raises(InputError, match="does not exist"):
        import_reference(tmp_path / "none.zip", tmp_path / "set")


def test_an_image_of_four_hundred_million_pixels_is_refused_unread(tmp_path):
    buffer = io.BytesIO()
    Image.new("1", (20000, 20000)).save(buffer, "PNG")
    source = zip_of(tmp_path / "huge.zip", [("1.png", png(1)), ("2.png", png(2)), ("huge.png", buffer.getvalue())], zipfile.ZIP_STORED)
    report = import_reference(source, tmp_path / "set")
    assert [name for name, _ in report.refused] == ["huge.png"]
    assert "pixels" in report.refused[0][1]


class Payload:
    """An object whose unpickling would create a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_pickled_objects_in_an_npz_are_never_loaded(tmp_path):
    marker = tmp_path / "executed"
    np.savez(tmp_path / "evil.npz", images=np.array([Payload(marker)], dtype=object))
    with pytest.raises(InputError, match="pickled Python objects"):
        import_reference(tmp_path / "evil.npz", tmp_path / "set")
    np.savez(tmp_path / "half.npz", images=np.zeros((2, 40, 40, 3), np.uint8), labels=np.array([Payload(marker)], dtype=object))
    with pytest.raises(InputError, match="'labels' holds pickled"):
        import_reference(tmp_path / "half.npz", tmp_path / "set")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"features": np.zeros((5, 7))}, "no array 'images'"),
        ({"images": np.zeros((0, 40, 40, 3), np.uint8)}, "no image"),
        ({"images": np.zeros((2, 40, 40, 7), np.uint8)}, "channels"),
        ({"images": np.full((2, 40, 40, 3), np.nan)}, "not finite"),
        ({"images": np.full((2, 40, 40, 3), 900.0)}, "every value is 900"),
        ({"images": np.zeros((2, 8, 8, 3), np.uint8)}, "at least 32"),
        ({"images": np.random.default_rng(0).integers(0, 9, (2, 40, 40, 3), dtype=np.uint8), "captions": np.array(["one"])}, "2 images and 1 captions"),
    ],
)
def test_npz_that_holds_no_images(tmp_path, arrays, says):
    np.savez(tmp_path / "odd.npz", **arrays)
    with pytest.raises(InputError) as caught:
        import_reference(tmp_path / "odd.npz", tmp_path / "set")
    assert says in str(caught.value)


def test_npz_with_an_alpha_channel_takes_the_mean_colour_of_what_is_opaque(tmp_path):
    rgba = np.full((2, 40, 40, 4), 255, np.uint8)
    rgba[..., :3], rgba[:, :20, :, 3], rgba[:, :20, :, :3] = 90, 0, 7
    np.savez(tmp_path / "rgba.npz", images=rgba)
    assert (read_npz(tmp_path / "rgba.npz", Limits())[0] == 90).all()
    rgba[1, ..., 3] = 0
    np.savez(tmp_path / "clear.npz", images=rgba)
    with pytest.raises(InputError, match=r"clear.npz: image 1 \(from 0\) is entirely transparent: leave it out"):
        read_npz(tmp_path / "clear.npz", Limits())


def test_npz_bombs_and_damage(tmp_path):
    np.savez_compressed(tmp_path / "bomb.npz", images=np.zeros((400, 128, 128, 3), np.uint8))
    with pytest.raises(InputError, match="more than 200 times"):
        import_reference(tmp_path / "bomb.npz", tmp_path / "set")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**4, 10**4, 3)})
    zip_of(tmp_path / "claims.npz", [("images.npy", header.getvalue())])
    with pytest.raises(InputError, match="too large"):
        import_reference(tmp_path / "claims.npz", tmp_path / "set")
    zip_of(tmp_path / "nonsense.npz", [("images.npy", b"nonsense")])
    with pytest.raises(InputError, match="cannot be read as an NPZ"):
        import_reference(tmp_path / "nonsense.npz", tmp_path / "set")


@pytest.mark.parametrize("form", ["last", "first", "grey", "float", "signed", "alpha"])
def test_npz_of_every_layout_gives_the_same_pictures(tmp_path, form):
    base = np.stack([np.asarray(Image.open(io.BytesIO(png(seed, 64)))) for seed in range(4)])
    arrays = {
        "last": base,
        "first": base.transpose(0, 3, 1, 2),
        "grey": base[..., 0],
        "float": base / 255.0,
        "signed": base / 127.5 - 1,
        "alpha": np.concatenate([base, np.full((4, 64, 64, 1), 255, np.uint8)], -1),
    }
    np.savez(tmp_path / "set.npz", images=arrays[form], captions=np.array(["a", "b", "c", "d"]))
    import_reference(tmp_path / "set.npz", tmp_path / "set", size=64)
    loaded = load_reference(tmp_path / "set")
    expected = np.repeat(base[..., :1], 3, -1) if form == "grey" else base
    assert np.array_equal(loaded.images, expected)
    assert loaded.captions == ["a", "b", "c", "d"]


def test_everything_in_an_npz_is_measured_before_it_is_read(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
    np.savez_compressed(tmp_path / "words.npz", images=pictures, captions=np.array(["x" * 100_000, "y"]))
    with pytest.raises(InputError, match="2 captions of up to 100,000 characters"):
        import_reference(tmp_path / "words.npz", tmp_path / "set")
    np.savez(tmp_path / "twice.npz", images=pictures)
    with zipfile.ZipFile(tmp_path / "twice.npz", "a") as archive:
        archive.writestr("images", b"what numpy.load would have preferred")
    with pytest.raises(InputError, match="'images' is no array"):
        import_reference(tmp_path / "twice.npz", tmp_path / "set")


def test_an_npz_is_converted_image_by_image(tmp_path):
    import tracemalloc

    ramp = np.linspace(1000, 5000, 128 * 128, dtype=np.uint16).reshape(1, 128, 128)
    np.savez(tmp_path / "deep.npz", images=np.concatenate([ramp + shift for shift in np.arange(600, dtype=np.uint16)[:, None, None]]))
    tracemalloc.start()
    images, _, notes = read_npz(tmp_path / "deep.npz", Limits())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * (600 * 128 * 128 * 2 + images.nbytes) and notes[0].startswith("stretched from")
    assert images[0].min() == 0 and images[-1].max() == 255 and (images[..., 0] == images[..., 2]).all()


def test_words_and_archives_that_cannot_be_written_or_unpacked_are_lines_of_the_report(tmp_path):
    damaged = zip_of(tmp_path / "lzma.zip", [("1.png", png(1)), ("2.png", png(2)), ("3.png", png(3))], zipfile.ZIP_LZMA)
    data = bytearray(damaged.read_bytes())
    at = data.index(b"2.png") + 5
    data[at + 9 : at + 60] = bytes(51)
    damaged.write_bytes(bytes(data))
    report = import_reference(damaged, tmp_path / "lzma")
    assert len(report.accepted) == 2 and "damaged in the archive" in dict(report.refused)["2.png"]

    captions = b'{"file": "1.png", "caption": "old \\ud800 crater"}\n'
    source = zip_of(tmp_path / "half.zip", [("1.png", png(1)), ("2.png", png(2)), ("metadata.jsonl", captions)])
    import_reference(source, tmp_path / "half")
    assert load_reference(tmp_path / "half").captions == ["old ? crater", ""]
