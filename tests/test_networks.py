"""The fast implementations of the networks equal those of torch."""

import torch
import torch.nn.functional as F

from common import max_pool


def test_pooling_without_gradients_equals_max_pool2d():
    images = torch.randn(3, 2, 8, 6, generator=torch.Generator().manual_seed(0))
    images[0, 0, 0, 0] = torch.nan
    with torch.inference_mode():
        pooled = max_pool(images)
    torch.testing.assert_close(pooled, F.max_pool2d(images, 2), rtol=0, atol=0, equal_nan=True)
