"""How long a worker takes: injected delays, and on the virtual clock the computation itself."""

import torch

from training.options import RunConfig

GAUSSIAN_DEVIATION_MS = 5.0  # doubled, like the mean, for a slow worker 1
COMPUTE_JITTER = 0.1  # standard deviation of one gradient's time on the virtual clock, as a part of its mean


class Delays:
    """The delays that one worker sleeps before each push, drawn from its own generator."""

    def __init__(self, config: RunConfig, worker: int, generator: torch.Generator) -> None:
        slow = config.slow_worker_1 and worker == 1
        self.active = config.delay or slow
        self.generator = generator
        if self.active:
            factor = 2 if slow else 1
            self.mean_ms = factor * config.delay_mean_ms
            self.deviation_ms = factor * GAUSSIAN_DEVIATION_MS if config.delay_type == "gaussian" else 0.0

    def next_ms(self) -> float:
        """The next delay, ms; never negative."""
        if not self.active:
            return 0.0
        if not self.deviation_ms:
            return self.mean_ms
        noise = torch.randn((), generator=self.generator, dtype=torch.float64).item()
        return max(0.0, self.mean_ms + self.deviation_ms * noise)


class ComputeTimes:
    """How long each gradient of one worker takes on the virtual clock, drawn from the worker's own generator."""

    def __init__(self, mean_ms: float, generator: torch.Generator, jitter: float = COMPUTE_JITTER) -> None:
        self.mean_ms = mean_ms
        self.generator = generator
        self.jitter = jitter

    def next_ms(self) -> float:
        """The time of the next gradient, ms; never negative."""
        noise = torch.randn((), generator=self.generator, dtype=torch.float64).item()
        return max(0.0, self.mean_ms * (1 + self.jitter * noise))
