"""EfficientNet-Lite trunks: every weight used, folding exact, padding as TensorFlow's, gradients, sizes and batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from backend.errors import InputError
from backend.features import efficientnet_lite as lite
from backend.features.load import load_extractor


@pytest.fixture(scope="module")
def lite0():
    return load_extractor("efficientnet_lite0")


def pictures(count: int = 3, height: int = 128, width: int = 128, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("variant", "dimension"), [(lite.LITE0, 224), (lite.LITE2, 240)])
def test_every_weight_up_to_the_last_block_is_used(variant, dimension):
    state = lite.load_state(variant)
    trunk = lite.Trunk(variant)
    wanted = {k for k in state if k.startswith(("_conv_stem", "_bn0")) or (k.startswith("_blocks") and int(k.split(".")[1]) <= variant.last_block)}
    assert set(trunk.state_dict()) == wanted
    network = lite.EfficientNetLite("x", variant, state)
    assert network.dimension == dimension
    assert network(pictures(2)).shape == (2, dimension)


def test_features_equal_the_plain_layers_without_folding(lite0):
    trunk = lite.Trunk(lite.LITE0)
    trunk.load_state_dict(lite.load_state(lite.LITE0), strict=False)
    trunk.eval()
    with torch.inference_mode():
        maps = trunk(pictures() * 2 - 1, (10,))[0].numpy()
    expected = np.concatenate([maps.mean((2, 3)), maps.std((2, 3), ddof=1)], 1)
    np.testing.assert_allclose(lite0(pictures()), expected, atol=2e-4)


@pytest.mark.parametrize(("size", "kernel", "stride"), [(7, 3, 1), (7, 3, 2), (8, 3, 2), (8, 5, 2), (9, 5, 2)])
def test_padding_is_tensorflows_same(size, kernel, stride):
    # TensorFlow: output ceil(n / s); total padding max((out - 1) s + k - n, 0), the smaller half first.
    conv = lite.SameConv2d(1, 1, kernel, stride, bias=False)
    x = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(1))
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)
    before = total // 2
    padded = np.zeros((size + total, size + total))
    padded[before : before + size, before : before + size] = x[0, 0].numpy()
    weight = conv.weight.detach()[0, 0].numpy()
    expected = [[(padded[i * stride : i * stride + kernel, j * stride : j * stride + kernel] * weight).sum() for j in range(out)] for i in range(out)]
    np.testing.assert_allclose(conv(x).detach()[0, 0], expected, atol=1e-5)


def test_features_do_not_depend_on_the_batch(lite0):
    images = pictures(11)
    whole = lite0(images)
    single = torch.cat([lite0(image[None]) for image in images])
    np.testing.assert_allclose(whole, single, atol=1e-5)
    assert lite0(images[:0]).shape == (0, 224)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (512, 512), (40, 200)])
def test_other_sizes_are_resized_without_aliasing(lite0, height, width):
    images = pictures(1, height, width)
    expected = lite0(F.interpolate(images, (128, 128), mode="bilinear", antialias=True, align_corners=False))
    np.testing.assert_allclose(lite0(images), expected, atol=1e-6)


def test_gradients_only_where_they_are_asked_for(lite0):
    images = pictures(1, 64, 64).requires_grad_()
    assert not lite0(images).requires_grad
    direction = torch.randn(224, generator=torch.Generator().manual_seed(2))
    value = lite0(images, preserve_gradients=True)[0] @ direction
    slope = torch.autograd.grad(value, images)[0]
    step = 1e-2 * slope / slope.norm()
    numeric = float((lite0(images.detach() + step)[0] - lite0(images.detach() - step)[0]) @ direction) / 2e-2
    assert numeric == pytest.approx(float(slope.norm()), rel=0.05)


def test_the_hash_of_the_weights_is_recorded_and_checked(lite0, monkeypatch):
    assert lite0.describe()["sha256"] == "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    other = lite.Variant(lite.LITE0.package, lite.LITE0.filename, "0" * 64, 1.0, 1.0, 10)
    with pytest.raises(InputError, match="sha256"):
        lite.load_state(other)
    absent = lite.Variant("no_such_package", "x.pth", "0" * 64, 1.0, 1.0, 10)
    with pytest.raises(InputError, match="pip install no-such-package"):
        lite.load_state(absent)


@pytest.mark.parametrize("images", [torch.zeros(2, 1, 32, 32), torch.zeros(3, 32, 32), torch.zeros(2, 3, 4, 32), torch.zeros(2, 3, 32, 32, dtype=torch.uint8)])
def test_what_is_not_an_image_batch_is_refused(lite0, images):
    with pytest.raises(InputError):
        lite0(images)
