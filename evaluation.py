"""Loss and accuracy of a model on a data set."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from common import FlatModel, Samples

BATCH_SIZE = 1000


@dataclass(frozen=True)
class Score:
    """Mean loss over `total` samples, of which `correct` were classified correctly."""

    loss: float
    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        """Percent."""
        return 100 * self.correct / self.total

    def fields(self, name: str) -> tuple[str, str]:
        """The score as the two fields of a log line."""
        return f"{name}_loss {self.loss}", f"{name}_accuracy {self.accuracy:.2f} % ({self.correct}/{self.total})"


def predict(samples: Samples, model: FlatModel, indices: Tensor | None = None, batch_size: int = BATCH_SIZE) -> Tensor:
    """Log-probabilities (n, labels) of the samples at `indices` (default: all), in evaluation mode."""
    model.network.eval()
    batches = torch.arange(len(samples)) if indices is None else indices
    with torch.inference_mode():
        return torch.cat([model.network(samples.batch(batch)[0]) for batch in batches.split(batch_size)])


def score(log_probabilities: Tensor, labels: Tensor) -> Score:
    """Mean negative log-likelihood and accuracy of log-probabilities (n, labels) for labels (n,)."""
    loss = F.nll_loss(log_probabilities, labels).item()
    return Score(loss, int((log_probabilities.argmax(dim=1) == labels).sum()), len(labels))


def label_accuracies(log_probabilities: Tensor, labels: Tensor) -> tuple[float, ...]:
    """Accuracy in percent of each label, from log-probabilities (n, labels) for labels (n,)."""
    correct = log_probabilities.argmax(dim=1) == labels
    return tuple(100 * correct[labels == label].double().mean().item() for label in range(log_probabilities.shape[1]))


def evaluate(samples: Samples, model: FlatModel, indices: Tensor | None = None, batch_size: int = BATCH_SIZE) -> Score:
    """Mean loss and accuracy on the samples at `indices` (default: all)."""
    labels = samples.labels if indices is None else samples.labels[indices]
    return score(predict(samples, model, indices, batch_size), labels)
