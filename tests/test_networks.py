"""The fast implementations of the networks equal those of torch, and any module can be one."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analysis.landscape.hessian import HessianProduct
from common import FlatModel, build_model, load_dataset, max_pool
from training.engines.batches import NetworkFunction

INDICES, MEANS, COUNTER = "order", "1.running_mean", "1.num_batches_tracked"


class Unusual(nn.Sequential):
    """Permuted pixels, a layer that is not trained, and BatchNorm with running statistics and without."""

    def __init__(self) -> None:
        untrained = nn.Linear(784, 12).requires_grad_(False)
        without = nn.BatchNorm1d(12, track_running_stats=False)
        super().__init__(untrained, nn.BatchNorm1d(12), without, nn.ReLU(), nn.Linear(12, 10), nn.LogSoftmax(dim=1))
        self.register_buffer(INDICES, torch.arange(783, -1, -1))

    def forward(self, images: Tensor) -> Tensor:
        hidden = images.flatten(1)[:, self.order]
        for layer in self:
            hidden = layer(hidden)
        return hidden


@pytest.fixture
def unusual() -> FlatModel:
    torch.manual_seed(0)
    return FlatModel(Unusual())


def test_pooling_without_gradients_equals_max_pool2d():
    images = torch.randn(3, 2, 8, 6, generator=torch.Generator().manual_seed(0))
    images[0, 0, 0, 0] = torch.nan
    with torch.inference_mode():
        pooled = max_pool(images)
    torch.testing.assert_close(pooled, F.max_pool2d(images, 2), rtol=0, atol=0, equal_nan=True)


def test_only_buffers_that_training_changes_are_exchanged(unusual):
    assert INDICES not in unusual.buffer_names and {MEANS, COUNTER} < set(unusual.buffer_names)
    unusual.buffers.fill_(3.0)
    state = unusual.state_dict()
    assert state[INDICES].equal(torch.arange(783, -1, -1)) and state[MEANS].eq(3).all()
    assert (state[COUNTER].dtype, state[COUNTER].item()) == (torch.int64, 3)
    row = unusual.state_vector()
    unusual.buffers.zero_()
    unusual.load_state_vector(row)
    assert unusual.state_dict()[INDICES].equal(state[INDICES]) and unusual.buffers.eq(3).all()


def test_what_is_not_trained_has_no_gradient_and_no_curvature(unusual):
    samples = load_dataset("digits", "unused").train
    images, labels = samples.batch(torch.arange(40))
    start = unusual.buffers.clone()
    loss, gradient, buffers = (
        value[0] for value in NetworkFunction(unusual)(
            *(value[None] for value in (unusual.parameters.clone(), start, images, labels))
        )
    )  # fmt: skip
    unusual.network.train()
    own = F.nll_loss(unusual.network(images), labels)
    own.backward()
    assert own.item() == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(unusual.gradients, gradient, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(unusual.buffers, buffers, rtol=1e-4, atol=1e-6)
    fixed = 784 * 12 + 12
    assert not gradient[:fixed].any() and gradient[fixed:].any()
    curvature = HessianProduct(unusual, samples, 500)(torch.ones(len(gradient)).numpy())
    assert not curvature[:fixed].any() and curvature[fixed:].any()


@pytest.mark.parametrize(("dataset", "network"), [("digits", "LeNet5"), ("cifar10", "ResNet18")])
def test_the_parameters_are_found_in_a_row_of_saved_weights(dataset, network):
    model = build_model(dataset, network, 1)
    assert torch.equal(model.state_vector()[torch.from_numpy(model.is_parameter())], model.parameters)
