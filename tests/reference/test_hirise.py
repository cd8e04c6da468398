"""Fetching the HiRISE set, against a local server with a small archive of the same layout."""

import hashlib
import http.server
import io
import json
import re
import socket
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from backend.errors import InputError
from backend.reference import hirise
from backend.reference.dataset import load_reference, validate_reference
from backend.reference.download import download, file_md5
from backend.reference.hirise import fetch_hirise, get_archive, is_augmented, observation, parse_labels, read_record
from backend.reference.selection import maximin

OBSERVATIONS = ["ESP_011623_2100_RED", "ESP_013049_0950_RED", "PSP_001414_1780_RED", "PSP_009650_1755_RED"]


def embed(images: np.ndarray) -> np.ndarray:
    """Cheap features: grey means of an 8 x 8 grid."""
    grey = images.mean(-1)
    side = grey.shape[1] // 8
    return grey[:, : side * 8, : side * 8].reshape(len(grey), 8, side, 8, side).mean((2, 4)).reshape(len(grey), -1)


def jpeg(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (9, 9), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize((227, 227), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def archive_bytes():
    """Four observations: 9, 3, 2 and 1 craters with all six augmented copies, and other classes."""
    buffer, labels, seed = io.BytesIO(), [], 0
    with zipfile.ZipFile(buffer, "w") as archive:
        for place, count in zip(OBSERVATIONS, (9, 3, 2, 1), strict=True):
            for index in range(count + 2):
                seed += 1
                kind = 1 if index < count else 3 * (index % 2)
                for suffix in ["", *hirise.AUGMENTED]:
                    name = f"{place}-{index:04d}{suffix}.jpg"
                    labels.append(f"{name} {kind}")
                    archive.writestr(f"map-proj-v3/{name}", jpeg(seed))
        archive.writestr("labels-map-proj-v3.txt", "\n".join(labels) + "\n")
        archive.writestr("landmarks_map-proj-v3_classmap.csv", "0,other\n1,crater\n")
        archive.writestr("../outside.txt", "never to be written")
    return buffer.getvalue()


class Server:
    """An http server like Zenodo's: a record in JSON, a file with Range, and faults on demand."""

    def __init__(self, data: bytes):
        self.data, self.requests = data, []
        self.break_after: list[int] = []
        self.ranges, self.status, self.md5 = True, 200, hashlib.md5(data).hexdigest()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args):
                server.requests.append(self.headers.get("Range"))

            def do_GET(self):
                server.answer(self)

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda *args: None  # clients hang up on purpose
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.record = f"{self.url}/api/records/2538136"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, request):
        if request.path == "/api/records/2538136":
            file = {"key": hirise.ARCHIVE, "size": len(self.data), "checksum": f"md5:{self.md5}", "links": {"self": "/files/archive/content"}}
            body = json.dumps({"metadata": {"license": {"id": "cc-by-4.0"}}, "files": [{"key": "other.txt"}, file]}).encode()
            request.send_response(200)
            request.end_headers()
            request.wfile.write(body)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", request.headers["Range"]).group(1)) if self.ranges and request.headers.get("Range") else 0
        request.send_response(206 if start else self.status)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(self.data) - 1}/{len(self.data)}")
        request.send_header("Content-Length", str(len(self.data) - start))
        request.end_headers()
        end = start + self.break_after.pop(0) if self.break_after else len(self.data)
        request.wfile.write(self.data[start:end])


@pytest.fixture
def server(archive_bytes):
    running = Server(archive_bytes)
    yield running
    running.http.shutdown()
    running.http.server_close()


def fetch(server, tmp_path, **options):
    return fetch_hirise(tmp_path / "set", embed, cache=tmp_path / "cache", record_url=server.record, count=options.pop("count", 8), **options)


def test_fetch_writes_a_sound_set_with_licence_citation_and_every_observation(server, tmp_path):
    report = fetch(server, tmp_path)
    loaded = load_reference(tmp_path / "set")
    assert loaded.images.shape == (8, 128, 128, 3)
    assert not loaded.simulated
    assert validate_reference(tmp_path / "set") == []
    entries = loaded.manifest["images"]
    assert not any(is_augmented(entry["source"]) for entry in entries)
    counts = sorted(sum(entry["observation"] == place for entry in entries) for place in OBSERVATIONS)
    assert counts == [1, 2, 2, 3]
    assert loaded.manifest["licence"] == "cc-by-4.0"
    assert "10.5281/zenodo.2538136" in loaded.manifest["citation"]
    assert loaded.manifest["archive_md5"] == server.md5
    assert report[0].startswith("8 of 15 un-augmented craters from 4 observations")
    assert "licence: cc-by-4.0" in report
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "set"]


def test_only_craters_are_chosen(server, tmp_path):
    fetch(server, tmp_path, count=15)
    path, _ = get_archive(tmp_path / "cache", server.record)
    with zipfile.ZipFile(path) as archive:
        labels = parse_labels(archive.read("labels-map-proj-v3.txt").decode())
    entries = load_reference(tmp_path / "set").manifest["images"]
    assert {labels[entry["source"]] for entry in entries} == {1}
    with pytest.raises(InputError, match="15 different un-augmented craters, 16 were asked for"):
        fetch(server, tmp_path, count=16, overwrite=True)


def test_a_broken_connection_is_continued_where_it_ended(server, tmp_path):
    server.break_after = [1000, 5000, 70_000]
    path, record = get_archive(tmp_path / "cache", server.record)
    assert path.read_bytes() == server.data
    asked = [value for value in server.requests if value]
    assert asked == ["bytes=1000-", "bytes=6000-", "bytes=76000-"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [hirise.ARCHIVE]


def test_an_interrupted_download_is_continued_by_the_next_call(server, tmp_path):
    record = read_record(server.record)
    target = tmp_path / "cache" / "a.zip"
    server.break_after = [30_000, 0, 0]
    with pytest.raises(InputError, match=r"broke off at 30,000 of .* run the command again"):
        download(record.url, target, size=record.size, md5=record.md5, attempts=2, wait=0)
    assert not target.exists()
    server.requests.clear()
    seen = []
    assert download(record.url, target, size=record.size, md5=record.md5, progress=lambda here, size: seen.append((here, size)))
    assert server.requests == ["bytes=30000-"]
    assert target.read_bytes() == server.data
    assert seen[0][0] > 30_000
    assert seen[-1] == (record.size, record.size)
    assert not download(record.url, target, size=record.size, md5=record.md5)
    assert len(server.requests) == 1


def test_a_server_without_ranges_begins_again(server, tmp_path):
    server.ranges, server.break_after = False, [40_000]
    path, _ = get_archive(tmp_path / "cache", server.record)
    assert file_md5(path) == server.md5


def test_a_partial_file_of_another_download_is_not_continued(server, tmp_path):
    record = read_record(server.record)
    target = tmp_path / "a.zip"
    (tmp_path / "a.zip.part").write_bytes(b"something else entirely")
    (tmp_path / "a.zip.part.json").write_text(json.dumps({"url": record.url, "md5": "0" * 32, "size": record.size}))
    download(record.url, target, size=record.size, md5=record.md5)
    assert target.read_bytes() == server.data


def test_a_wrong_checksum_is_an_error_and_the_file_is_removed(server, tmp_path):
    server.md5 = "0" * 32
    with pytest.raises(InputError, match=f"expected .* with {'0' * 32}: the damaged file was removed"):
        fetch(server, tmp_path)
    assert list((tmp_path / "cache").iterdir()) == []
    assert not (tmp_path / "set").exists()


def test_no_network_and_wrong_addresses(server, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(InputError, match="cannot be reached .* check the network"):
        fetch_hirise(tmp_path / "set", embed, cache=tmp_path / "cache", record_url=f"{dead}/api")
    with pytest.raises(InputError, match="check the network and run the command again"):
        download(f"{dead}/a.zip", tmp_path / "a.zip", size=10, md5="0" * 32, attempts=2, wait=0)
    with pytest.raises(InputError, match="neither http nor https"):
        read_record("file:///etc/passwd")
    with pytest.raises(InputError, match="did not answer with JSON"):
        read_record(f"{server.url}/files/archive/content")
    server.status = 404
    with pytest.raises(InputError, match="answers 404"):
        download(f"{server.url}/none", tmp_path / "a.zip", size=10, md5="0" * 32)
    assert not (tmp_path / "set").exists()


def test_a_disk_without_room_is_named_before_the_download(server, tmp_path):
    with pytest.raises(InputError, match="MiB free: make room"):
        download(f"{server.url}/x", tmp_path / "a.zip", size=10**18, md5="0" * 32)
    assert server.requests == []


def test_an_archive_downloaded_by_hand(server, tmp_path):
    path = tmp_path / "mine.zip"
    path.write_bytes(server.data)
    report = fetch_hirise(tmp_path / "set", embed, archive=path, count=5)
    assert "was not compared" in report[1]
    assert "read it at https://zenodo.org/records/2538136" in report[2]
    with pytest.raises(InputError, match="has MD5"):
        fetch_hirise(tmp_path / "other", embed, archive=path, md5="1" * 32, count=5)
    assert server.requests == []


def test_archives_of_another_layout(tmp_path):
    for name, members, says in [
        ("a.zip", {"map-proj-v3/x.jpg": b"x"}, "has no labels-map-proj-v3.txt"),
        ("b.zip", {"labels-map-proj-v3.txt": b"x.jpg 1\n"}, "holds none of the craters"),
        ("c.zip", {"labels-map-proj-v3.txt": b"x.jpg crater\n"}, "line 1: 'x.jpg crater' is not 'file class'"),
    ]:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member, data in members.items():
                archive.writestr(member, data)
        with pytest.raises(InputError, match=says):
            fetch_hirise(tmp_path / "set", embed, archive=tmp_path / name)


def test_names():
    assert observation("ESP_011623_2100_RED-0069-r180.jpg") == "ESP_011623_2100_RED"
    assert [is_augmented(f"A_RED-0001{suffix}.jpg") for suffix in ("", "-r90", "-r180", "-r270", "-fh", "-fv", "-brt")] == [False] + [True] * 6


def test_every_group_is_served_before_any_twice():
    points = np.round(np.random.default_rng(0).normal(size=(60, 3)) * 1000)
    groups = [f"g{index % 7}" for index in range(60)]
    chosen = maximin(points, 16, groups)
    counts = np.unique([groups[index] for index in chosen], return_counts=True)[1]
    assert sorted(counts) == [2, 2, 2, 2, 2, 3, 3]
