"""The `reference` commands."""

import hashlib
import http.server
import io
import json
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from backend.cli.reference import app
from backend.errors import InputError
from backend.reference.dataset import load_reference

SHIPPED = Path(__file__).resolve().parents[2] / "reference_data"
runner = CliRunner()


def run(*arguments):
    return runner.invoke(app, [str(argument) for argument in arguments])


def smooth(seed, side=227, mode="RGB"):
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).convert(mode)


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "mine"
    source.mkdir()
    for seed in range(6):
        smooth(seed).save(source / f"{seed}.png")
    (source / "broken.jpg").write_bytes(b"nonsense")
    return source


def test_validate_the_shipped_set():
    result = run("validate", SHIPPED)
    assert result.exit_code == 0
    assert result.output.strip() == "sound: Simulated Martian craters: 73 simulated images"


@pytest.mark.parametrize("command", ["stats", "plot", "features"])
def test_a_device_that_is_none_is_refused(command, tmp_path):
    output = [] if command == "stats" else ["--output", tmp_path / "out"]
    result = run(command, SHIPPED, "--device", "foo", *output)
    assert isinstance(result.exception, InputError) and "device 'foo': choose auto, cpu, cuda" in str(result.exception)


def test_import_then_stats_npz_and_plot(folder, tmp_path):
    made = tmp_path / "set"
    result = run("import", folder, made, "--licence", "CC0-1.0", "--name", "My craters")
    assert result.exit_code == 0
    assert "6 images imported from mine, 1 files refused" in result.output
    assert "refused: broken.jpg: not an image" in result.output
    figures = json.loads(run("stats", made, "--json").stdout)
    assert (figures["images"], figures["licence"], figures["simulated"]) == (6, "CC0-1.0", False)
    assert figures["features"]["dimension"] == 224
    assert "My craters: 6 imported images" in run("stats", made, "--extractor", "").output
    assert run("images-npz", made).exit_code == 0
    assert run("features", made, "--output", tmp_path / "f.npz").exit_code == 0
    with np.load(made / "reference_crater_images.npz") as images, np.load(tmp_path / "f.npz") as features:
        assert len(images["images"]) == len(features["features"]) == 6
    assert run("plot", made).exit_code == 0
    assert (made / "plots" / "reference_features_efficientnet_lite0.png").is_file()
    assert run("validate", made).exit_code == 0


def test_a_damaged_set_is_named_with_status_1(folder, tmp_path):
    run("import", folder, tmp_path / "set")
    smooth(99, 128).save(tmp_path / "set" / "images" / "image_0003.png")
    result = run("validate", tmp_path / "set")
    assert result.exit_code == 1
    assert "image_0003.png is not the one in the manifest" in result.output


def test_the_exported_images_can_be_imported_again(folder, tmp_path):
    run("import", folder, tmp_path / "set")
    run("images-npz", tmp_path / "set", "--output", tmp_path / "images.npz")
    assert run("import", tmp_path / "images.npz", tmp_path / "again").exit_code == 0
    assert np.array_equal(load_reference(tmp_path / "set").images, load_reference(tmp_path / "again").images)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["validate", "none"], "does not exist"),
        (["stats", "none"], "does not exist"),
        (["import", "none.zip", "set"], "does not exist"),
        (["features", SHIPPED, "--extractor", "nonsense", "--output", "f.npz"], "unknown extractor"),
        (["import", SHIPPED, "set", "--size", "4"], "size 4 is out of bounds"),
        (["build", SHIPPED], "--overwrite"),
        (["validate", SHIPPED.parent, "--rerender"], "has no manifest.json"),
    ],
)
def test_bad_input_is_an_input_error_in_one_line(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert isinstance(result.exception, InputError)
    assert says in str(result.exception)
    assert "\n" not in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_fetch_hirise_from_a_local_server(tmp_path):
    buffer, labels = io.BytesIO(), []
    with zipfile.ZipFile(buffer, "w") as archive:
        for index in range(12):
            name = f"ESP_01{index % 5}623_2100_RED-{index:04d}.jpg"
            data = io.BytesIO()
            smooth(index, mode="L").save(data, "JPEG")
            archive.writestr(f"map-proj-v3/{name}", data.getvalue())
            labels.append(f"{name} {1 if index < 10 else 0}")
        archive.writestr("labels-map-proj-v3.txt", "\n".join(labels))
    data = buffer.getvalue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            return None

        def do_GET(self):
            file = {"key": "hirise-map-proj-v3.zip", "size": len(data), "checksum": f"md5:{hashlib.md5(data).hexdigest()}", "links": {"self": "/a.zip"}}
            body = data if self.path == "/a.zip" else json.dumps({"files": [file], "metadata": {"license": {"id": "cc-by-4.0"}}}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/record"
        result = run("fetch", "hirise", tmp_path / "set", "--url", url, "--cache", tmp_path / "cache", "--count", 7)
        server.shutdown()
    assert result.exit_code == 0, result.output
    assert "7 of 10 un-augmented craters from 5 observations" in result.output
    assert "licence: cc-by-4.0" in result.output
    assert "10.5281/zenodo.2538136" in result.output
    assert len(load_reference(tmp_path / "set")) == 7
