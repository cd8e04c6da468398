"""Extractors that need a download: from a cache of the same layout with random weights, from a local server, and offline."""

from __future__ import annotations

import hashlib
import http.server
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import Normalize

from backend.errors import InputError
from backend.features import clip, dinov2, inception, resnet18
from backend.features.download import download, hub_model, torch_weights

NOWHERE = "http://127.0.0.1:9/weights-0123abcd.pth"  # the discard port: refused at once
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def pictures(count: int = 2, size: int = 64) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def seeded(build):
    """A module with the same random weights every time, the global generator untouched."""
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        return build()


@pytest.fixture
def server(tmp_path):
    """A web server on this machine with one small file."""
    folder = tmp_path / "served"
    folder.mkdir()
    torch.save({"weight": torch.arange(4.0)}, folder / "tiny.pth")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(folder), **kwargs)

        def log_message(self, *args):
            """Nothing on the test's output."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}", folder
        running.shutdown()
        thread.join()


def test_a_download_is_announced_checked_and_put_in_place(server, tmp_path, capsys):
    url, folder = server
    digest = hashlib.sha256((folder / "tiny.pth").read_bytes()).hexdigest()
    state, found = torch_weights(f"{url}/tiny.pth", digest[:8], "tiny weights", tmp_path / "cache")
    assert state["weight"].tolist() == [0, 1, 2, 3]
    assert found == digest
    said = capsys.readouterr().err
    assert said.startswith("Downloading tiny weights from http://127.0.0.1")
    assert "100 %" in said
    torch_weights(NOWHERE.replace("weights-0123abcd", "tiny"), digest[:8], "tiny weights", tmp_path / "cache")
    assert capsys.readouterr().err == ""


def test_a_damaged_download_leaves_nothing_behind(server, tmp_path):
    url, _ = server
    with pytest.raises(InputError, match="sha256"):
        download(f"{url}/tiny.pth", tmp_path / "cache" / "tiny.pth", "deadbeef", "tiny weights")
    with pytest.raises(InputError, match="cannot be downloaded"):
        download(f"{url}/absent.pth", tmp_path / "cache" / "tiny.pth", "deadbeef", "tiny weights")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(("module", "factory"), [(resnet18, "pooled"), (resnet18, "layer3"), (inception, "inception")])
def test_offline_torch_extractors_name_the_remedy(module, factory, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "URL", NOWHERE)
    with pytest.raises(InputError) as caught:
        getattr(module, factory)(folder=tmp_path)
    assert NOWHERE in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "efficientnet_lite0" in str(caught.value)


@pytest.mark.parametrize(("factory", "model_id"), [(clip.clip, clip.MODEL_ID), (dinov2.dinov2, dinov2.MODEL_ID)])
def test_offline_hub_extractors_name_the_remedy(factory, model_id, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("backend.features.download.endpoint", lambda: "http://127.0.0.1:9")
    with pytest.raises(InputError) as caught:
        factory(cache_dir=tmp_path)
    assert f"hf download {model_id}" in str(caught.value)
    assert "efficientnet_lite0" in str(caught.value)
    assert "MB)" in capsys.readouterr().err  # its size was said before the attempt


def test_a_model_that_the_hub_gives_and_that_cannot_be_loaded_is_not_called_unreachable(server, tmp_path, monkeypatch):
    monkeypatch.setattr("backend.features.download.endpoint", lambda: server[0])

    def load(model_id: str, cache_dir=None, local_files_only: bool = False):
        raise OSError("not cached") if local_files_only else RuntimeError("size mismatch for layer.0")

    with pytest.raises(InputError, match="could not be loaded .RuntimeError: size mismatch for layer.0.*efficientnet_lite0") as caught:
        hub_model(load, "owner/model", "A model")
    assert "reached" not in str(caught.value)


def test_a_cached_file_that_is_no_state_dict(tmp_path):
    (tmp_path / "weights-0123abcd.pth").write_bytes(b"not weights")
    with pytest.raises(InputError, match="delete it"):
        torch_weights(NOWHERE, "0123abcd", "weights", tmp_path)


def test_resnet_features_equal_torchvisions_network(tmp_path):
    from torchvision.models import resnet18 as build

    plain = seeded(build).eval()
    torch.save(plain.state_dict(), tmp_path / resnet18.URL.rsplit("/", 1)[-1])
    images = pictures(2, 224)
    with torch.inference_mode():
        ready = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])(images)
        middle = nn.Sequential(*list(plain.children())[:7])(ready).numpy()
        plain.fc = nn.Identity()
        top = plain(ready)
    found = resnet18.pooled(folder=tmp_path)
    np.testing.assert_allclose(found(images), top, atol=1e-5)
    assert found.sha256 == hashlib.sha256((tmp_path / "resnet18-f37072fd.pth").read_bytes()).hexdigest()
    np.testing.assert_allclose(resnet18.layer3(folder=tmp_path)(images), np.concatenate([middle.mean((2, 3)), middle.std((2, 3), ddof=1)], 1), atol=1e-5)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "resnet18-f37072fd.pth")
    with pytest.raises(InputError, match="not those of ResNet-18"):
        resnet18.pooled(folder=tmp_path)


def test_inception_is_the_2015_graph(tmp_path):
    network = seeded(inception.fid_network)
    torch.save(network.state_dict(), tmp_path / inception.URL.rsplit("/", 1)[-1])
    found = inception.inception(folder=tmp_path)
    network.fc = nn.Identity()
    network.eval()
    with torch.inference_mode():
        expected = network(pictures(1, 299) * 2 - 1)
    np.testing.assert_allclose(found(pictures(1, 299)), expected, atol=1e-4)
    assert found.dimension == 2048
    # Padding is not counted: the average of ones is one at the border too.
    assert torch.equal(inception._pool(torch.ones(1, 1, 5, 5)), torch.ones(1, 1, 5, 5))
    assert [network.Mixed_7b.maximum, network.Mixed_7c.maximum] == [False, True]


def hub_cache(folder, model_id: str, *parts) -> None:
    """What the hub leaves on disk: snapshots by commit, and a reference to the newest."""
    root = folder / f"models--{model_id.replace('/', '--')}"
    snapshot = root / "snapshots" / COMMIT
    for part in parts:
        part.save_pretrained(snapshot)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)


def test_clip_from_the_hubs_cache(tmp_path):
    from transformers import CLIPConfig, CLIPModel

    from tests.tiny_pipeline import _tokenizer

    tokenizer = _tokenizer()
    text = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 16}
    text |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    model = seeded(lambda: CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))).eval()
    hub_cache(tmp_path, clip.MODEL_ID, model, tokenizer)
    found = clip.clip(cache_dir=tmp_path)
    images, words = pictures(2, 32), ["aerial view of mars craters", "ground view"]
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    tokens = tokenizer(words, padding=True, return_tensors="pt")
    with torch.inference_mode():
        out = model(**tokens, pixel_values=Normalize(mean, std)(images))
    # The full model gives unit embeddings, so directions are compared.
    np.testing.assert_allclose(nn.functional.normalize(found(images), dim=1), out.image_embeds, atol=1e-5)
    np.testing.assert_allclose(found.similarity(images, words), (out.image_embeds * out.text_embeds).sum(1), atol=1e-5)
    assert found.dimension == 12
    assert len(found.sha256) == 64


def test_dinov2_from_the_hubs_cache(tmp_path):
    from transformers import Dinov2Config, Dinov2Model

    model = seeded(lambda: Dinov2Model(Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=7))).eval()
    hub_cache(tmp_path, dinov2.MODEL_ID, model)
    found = dinov2.dinov2(cache_dir=tmp_path)
    images = pictures(2, 112)
    with torch.inference_mode():
        out = model(pixel_values=Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])(images))
    np.testing.assert_allclose(found(images), out.last_hidden_state[:, 0], atol=1e-5)
    assert found.dimension == 16
