"""Loss and accuracy of a model on a data set."""

import torch
import torch.nn.functional as F
from torch import Tensor

from common import FlatModel, Samples
from training.record import Score

BATCH_SIZE = 1000
EXPLODED = 1e6


def predict(samples: Samples, model: FlatModel, indices: Tensor | None = None, batch_size: int = BATCH_SIZE) -> Tensor:
    """Log-probabilities (n, labels) of the samples at `indices` (all without), in evaluation mode."""
    model.network.eval()
    batches = torch.arange(len(samples)) if indices is None else indices
    with torch.inference_mode():
        return torch.cat([model.network(samples.batch(batch)[0]) for batch in batches.split(batch_size)])


def score(log_probabilities: Tensor, labels: Tensor) -> Score:
    """Mean negative log-likelihood and accuracy of log-probabilities (n, labels) against labels (n,)."""
    loss = F.nll_loss(log_probabilities, labels).item()
    return Score(loss, int((log_probabilities.argmax(dim=1) == labels).sum()), len(labels))


def in_digits(loss: float) -> str:
    """A loss with four decimals; one that exploded, with its power of ten."""
    return f"{loss:.4g}" if abs(loss) > EXPLODED else f"{loss:.4f}"


def evaluate(samples: Samples, model: FlatModel, indices: Tensor | None = None, batch_size: int = BATCH_SIZE) -> Score:
    """Mean loss and accuracy on the samples at `indices` (all without)."""
    labels = samples.labels if indices is None else samples.labels[indices]
    return score(predict(samples, model, indices, batch_size), labels)
