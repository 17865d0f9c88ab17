"""Schedules of the published settings on the virtual clock, without the gradients: staleness, and how runs end.

python3 -m scripts.schedules --data_dir data --output summaries/schedules.md

When workers fetch and push does not depend on what they compute. So a run's schedule takes a second, and says how
stale its gradients are and after which update its first worker has nothing left to do.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from analysis.flags import add_data_dir
from analysis.study.published import SEEDS, delayed, studied
from analysis.tables import markdown_table, write_text
from common import Samples, load_dataset
from interface.command_line import ArgumentParser, run_script
from training.config import RunConfig
from training.engines.dispatcher import RunShape
from training.engines.gradients import FunctionGradients
from training.engines.virtual import simulate
from training.plan import make_plan
from training.protocol import Outcome, Push, Update
from training.server import ParameterServer

SMALL = 8  # parameters of the model in place of a network: nothing depends on them


@dataclass
class Schedule:
    """A listener that keeps the staleness of each gradient, and the update after which the first worker left."""

    staleness: list[int] = field(default_factory=list)
    updates: int = 0
    first_left: int | None = None

    def push(self, seconds: float, push: Push, outcome: Outcome) -> None:
        self.updates = outcome.update.version
        self.staleness.append(outcome.update.staleness)

    def update(self, seconds: float, update: Update) -> None: ...

    def leave(self, seconds: float, worker: int) -> None:
        if self.first_left is None:
            self.first_left = self.updates

    def end(self, rule: str) -> None: ...


class NoOptimizer:
    """Leaves the parameters as they are."""

    def step(self, gradient: torch.Tensor, learning_rate: float) -> None: ...


def schedule_of(config: RunConfig, samples: Samples) -> Schedule:
    """The schedule of an asynchronous run."""
    plan, schedule = make_plan(config, config.seed, samples), Schedule()
    parameters = torch.zeros(SMALL)
    server = ParameterServer(parameters, torch.zeros(0), NoOptimizer(), lambda updates, pushed: config.lr)
    algorithm = config.rule(server, config, list(plan.steps))
    times = {worker: plan.push_times(worker) for worker in plan.steps}
    nothing = torch.zeros(SMALL)
    simulate(RunShape.of(plan), algorithm, schedule, times, FunctionGradients(lambda worker, parameters: nothing))
    return schedule


def settings() -> Iterator[tuple[str, RunConfig]]:
    """The published settings with equally fast workers, by their delay."""
    for workers in (2, 5, 10):
        still = studied("async", workers, "split_dataset")  # with labels split, it is the same
        yield "none", still
        for kind in ("constant", "gaussian"):
            for delay_ms in (30.0, 60.0, 90.0):
                yield f"{kind} {delay_ms:g} ms", delayed(still, delay_ms, kind)


def main() -> None:
    parser = ArgumentParser(__doc__)
    add_data_dir(parser)
    parser.add_argument(
        "--output", type=Path, default=Path("schedules.md"), metavar="FILE", help="default schedules.md"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    samples = load_dataset("fashion_mnist", arguments.data_dir).train
    rows = []
    for delay, config in settings():
        found = [schedule_of(replace(config, seed=seed), samples) for seed in SEEDS]
        rows.append([
            str(config.workers), delay,
            f"{statistics.fmean(statistics.fmean(one.staleness) for one in found):.2f}",
            f"{statistics.fmean(statistics.pstdev(one.staleness) for one in found):.2f}",
            str(max(max(one.staleness) for one in found)),
            ", ".join(str(one.updates - one.first_left) for one in found),
        ])  # fmt: skip
    titles = ("workers", "delay", "mean staleness", "its standard deviation", "largest",
              "updates after the first worker finished, by seed")  # fmt: skip
    seeds = ", ".join(map(str, SEEDS))
    about = (
        "Schedules of the published settings with equally fast workers, 15 ms per gradient, on the virtual clock; "
        f"seeds {seeds}, by `python3 -m scripts.schedules --data_dir data`. Mean staleness and its standard deviation "
        "within a run: means over the seeds."
    )
    write_text(arguments.output, f"# Schedules\n\n{about}\n\n{markdown_table(titles, rows)}")
    print(arguments.output)


if __name__ == "__main__":
    run_script(main)
