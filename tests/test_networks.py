"""The layers that are faster than torch's compute what torch's do."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common import OneChannelConv2d, max_pool

SHAPES = {"LeNet5": (6, 5, 2), "CNN1": (32, 3, 0)}  # channels, kernel, padding


@pytest.fixture(params=SHAPES)
def layers(request) -> tuple[nn.Conv2d, nn.Conv2d]:
    """The first layer of a network, and torch's own with the same parameters."""
    channels, kernel, padding = SHAPES[request.param]
    torch.manual_seed(0)
    layer, plain = (kind(1, channels, kernel, padding=padding) for kind in (OneChannelConv2d, nn.Conv2d))
    plain.load_state_dict(layer.state_dict())
    return layer, plain


def gradients(layer: nn.Conv2d, images: torch.Tensor) -> list[torch.Tensor]:
    max_pool(layer(images)).to_dense().square().sum().backward()
    return [parameter.grad for parameter in layer.parameters()]


@pytest.mark.parametrize("has_onednn", [True, False])
@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_a_convolution_of_one_channel_is_a_convolution(layers, batch_size, has_onednn, monkeypatch):
    if not has_onednn:
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    layer, plain = layers
    images = torch.randn(batch_size, 1, 28, 28)
    assert layer(images).is_mkldnn == (has_onednn and torch.backends.mkldnn.is_available())
    torch.testing.assert_close(layer(images).to_dense(), plain(images))
    torch.testing.assert_close(gradients(layer, images), gradients(plain, images), rtol=1e-4, atol=1e-3)


def test_where_no_gradient_is_wanted_a_convolution_is_torchs_own(layers):
    layer, plain = layers
    images = torch.randn(3, 1, 28, 28)
    with torch.inference_mode():
        assert torch.equal(layer(images), plain(images))


def test_pooling_without_gradients_is_pooling():
    images = torch.randn(3, 2, 8, 6, generator=torch.Generator().manual_seed(0))
    images[0, 0, 0, 0] = torch.nan
    with torch.inference_mode():
        pooled = max_pool(images)
    torch.testing.assert_close(pooled, F.max_pool2d(images, 2), rtol=0, atol=0, equal_nan=True)
