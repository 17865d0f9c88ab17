"""All algorithms on a least-squares problem with 40 workers, of which one is 100 times slower.

python3 -m benchmarks.least_squares --output benchmarks/results

f(x) = ‖A x − b‖² / (2 n) with A of shape (10,000, 400) and entries uniform in [0, 1)/√400, the problem on which the
authors of delay-adaptive SGD (Mishchenko et al. 2022, arXiv 2206.07638) compare asynchronous with mini-batch SGD.
32,000 gradients of mini-batches of 256 samples on the virtual clock; compute times are exponential around 10 ms, and
1 s for worker 1. Each algorithm has its own learning rate, tuned over 2^(k/3); the gap f(x) − min f is the mean over
the last tenth of the gradients, and over the seeds. Homogeneous: every worker samples all data. Heterogeneous: the
samples are sorted by their value b, and each worker has 250 of them.

Writes a table, least_squares.md, and the gap against virtual time, least_squares.png and .pdf. All rates of an
algorithm are trained at once, as one vector: the schedule does not depend on them.
"""

import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from analysis.figures import Figure, new_figure, save, set_titles, write_key, write_title
from analysis.reports.tuning import position
from analysis.spread import counted
from analysis.tables import markdown_table, write_text
from interface.command_line import ArgumentParser, Interval, run_script
from interface.files import make_folder
from interface.processes import available_cores
from training.algorithms import ALGORITHMS, Algorithm
from training.config import RunConfig
from training.engines.dispatcher import RunShape
from training.engines.gradients import FunctionGradients
from training.engines.virtual import simulate
from training.protocol import Outcome, Push, Update
from training.server import ParameterServer
from training.worker import mini_batches

SAMPLES, FEATURES, WORKERS, BATCH_SIZE = 10_000, 400, 40, 256
COMPUTE_MS, SLOWDOWN = 10.0, 100.0
NOISE = {"homogeneous": 1e-5, "heterogeneous": 0.3}  # standard deviation, so that shards have different minima
FLAGS = {"dana": {"momentum": 0.9}, "asgd+compensation": {"compensation": True}}
LABELS = sorted([*ALGORITHMS, "asgd+compensation"], key=position)
EVERY = 100  # gradients between two measurements of the gap
POINTS_PER_DECADE = 20  # of time, in the figure


def rule_of(label: str) -> type[Algorithm]:
    """The algorithm of a label."""
    return ALGORITHMS[label.partition("+")[0]]


def rates_of(label: str) -> list[float]:
    """The learning rates to try: higher ones where an update averages gradients or the staleness divides the rate."""
    high = rule_of(label).gathers or label == "staleness_aware"
    return [2 ** (k / 3) for k in (range(2, 14) if high else range(-20, 3))]


@dataclass(frozen=True)
class Problem:
    """matrix (n, d), values (n,), solution (d,); shards: the samples of each worker."""

    matrix: Tensor
    values: Tensor
    solution: Tensor
    hessian: Tensor
    shards: list[Tensor]

    @classmethod
    def draw(cls, data: str, seed: int) -> "Problem":
        """The problem of one seed."""
        generator = torch.Generator().manual_seed(seed)
        matrix = torch.rand(SAMPLES, FEATURES, generator=generator) / math.sqrt(FEATURES)
        noise = NOISE[data] * torch.randn(SAMPLES, generator=generator)
        values = matrix @ torch.randn(FEATURES, generator=generator) + noise
        hessian = matrix.double().T @ matrix.double() / SAMPLES
        solution = torch.linalg.solve(hessian, matrix.double().T @ values.double() / SAMPLES)
        everything = torch.arange(SAMPLES)
        shards = [everything] * WORKERS if data == "homogeneous" else list(values.argsort().chunk(WORKERS))
        return cls(matrix, values, solution, hessian, shards)

    def gradient(self, batch: Tensor, points: Tensor) -> Tensor:
        """The gradients (r, d) of a mini-batch at points (r, d)."""
        rows = self.matrix.index_select(0, batch)
        return (points @ rows.T - self.values.index_select(0, batch)) @ rows / len(batch)

    def gap(self, points: Tensor) -> Tensor:
        """f − min f at points (r, d)."""
        away = points.double() - self.solution
        return ((away @ self.hessian) * away).sum(dim=1) / 2


@dataclass
class Curve:
    """A listener that measures the gap at all rates: gaps (r,) after so many seconds."""

    problem: Problem
    server: ParameterServer
    seconds: list[float] = field(default_factory=list)
    gaps: list[Tensor] = field(default_factory=list)
    gradients: int = 0

    def push(self, seconds: float, push: Push, outcome: Outcome) -> None:
        self.gradients += 1
        if self.gradients % EVERY == 0:
            self.seconds.append(seconds)
            self.gaps.append(self.problem.gap(self.server.parameters.view(-1, FEATURES)))

    def update(self, seconds: float, update: Update) -> None: ...

    def leave(self, seconds: float, worker: int) -> None: ...

    def end(self, rule: str) -> None: ...


class PlainSGD:
    """Steps with a learning rate for each coordinate."""

    def __init__(self, parameters: Tensor) -> None:
        self.parameters = parameters

    def step(self, gradient: Tensor, learning_rate: Tensor) -> None:
        self.parameters.addcmul_(gradient, learning_rate, value=-1)


def compute_times(worker: int, seed: int) -> Iterator[float]:
    """Exponential times of a worker's gradients, ms."""
    generator = np.random.default_rng([seed, worker])
    mean = COMPUTE_MS * (SLOWDOWN if worker == 1 else 1)
    while True:
        yield from generator.exponential(mean, 1000)


def train(data: str, label: str, seed: int, gradients: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds (t,) and gaps (t, r) of all rates."""
    torch.set_num_threads(1)
    problem, rule = Problem.draw(data, seed), rule_of(label)
    workers = list(range(1, WORKERS + 1))
    name = label.partition("+")[0]
    config = RunConfig(mode=rule.mode, algorithm=name, world_size=WORKERS + 1, **FLAGS.get(label, {}))
    rates = torch.tensor(rates_of(label)).repeat_interleave(FEATURES)
    parameters = torch.zeros(len(rates))
    server = ParameterServer(parameters, torch.zeros(0), PlainSGD(parameters), lambda updates, pushed: rates)
    batches = {
        worker: mini_batches(shard, BATCH_SIZE, torch.Generator().manual_seed(1000 * seed + worker))
        for worker, shard in zip(workers, problem.shards, strict=True)
    }

    def gradient(worker: int, points: Tensor) -> Tensor:
        return problem.gradient(next(batches[worker]), points.view(-1, FEATURES)).flatten()

    curve = Curve(problem, server)
    shape = RunShape(name, dict.fromkeys(workers, gradients // WORKERS), "total")
    times = {worker: compute_times(worker, seed) for worker in workers}
    simulate(shape, rule(server, config, workers), curve, times, FunctionGradients(gradient))
    return np.array(curve.seconds), torch.stack(curve.gaps).numpy()


@dataclass(frozen=True)
class Tuned:
    """An algorithm at its best rate. gaps: of each seed, over the last tenth; curves: seconds and gap of each seed.

    edge: whether that rate is the lowest or the highest one that was tried.
    """

    rate: float
    edge: bool
    gaps: list[float]
    curves: list[tuple[np.ndarray, np.ndarray]]

    @classmethod
    def of(cls, label: str, runs: list[tuple[np.ndarray, np.ndarray]]) -> "Tuned":
        """From the curves of all rates, one per seed."""
        rates = rates_of(label)
        last = np.stack([gaps[-len(gaps) // 10 :].mean(axis=0) for _, gaps in runs])
        best = int(np.nan_to_num(last, nan=np.inf).mean(axis=0).argmin())
        curves = [(seconds, gaps[:, best]) for seconds, gaps in runs]
        return cls(rates[best], best in (0, len(rates) - 1), last[:, best].tolist(), curves)

    @property
    def seconds(self) -> float:
        """Mean virtual time of the whole run."""
        return float(np.mean([seconds[-1] for seconds, _ in self.curves]))

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Times (t,) and gaps (t,): geometric means over the seeds and the points of a logarithmic axis of time.

        They end before the shortest run: the last mean would be one of fewer points, and of some seeds only.
        """
        seconds, gaps = (np.concatenate(parts) for parts in zip(*self.curves, strict=True))
        nearest = np.round(POINTS_PER_DECADE * np.log10(seconds))
        end = min(np.round(POINTS_PER_DECADE * np.log10(own[-1])) for own, _ in self.curves)
        gaps, nearest = gaps[nearest < end], nearest[nearest < end]
        points, place = np.unique(nearest, return_inverse=True)
        means = np.bincount(place, np.log(gaps)) / np.bincount(place)
        return 10 ** (points / POINTS_PER_DECADE), np.exp(means)


Results = dict[str, dict[str, Tuned]]  # data → algorithm → its tuned runs


def train_all(seeds: list[int], gradients: int) -> Results:
    """Train everything on all cores."""
    jobs = [(data, label, seed) for data in NOISE for label in LABELS for seed in seeds]
    runs: dict[tuple[str, str], list] = {}
    with ProcessPoolExecutor(available_cores()) as pool:
        waiting = [pool.submit(train, *job, gradients) for job in jobs]
        for job, future in zip(jobs, tqdm(waiting, unit=" runs", disable=None), strict=True):
            runs.setdefault(job[:2], []).append(future.result())
    return {data: {label: Tuned.of(label, runs[data, label]) for label in LABELS} for data in NOISE}


def markdown(results: Results, seeds: list[int], gradients: int) -> str:
    """One row per algorithm, in the order of the gap on homogeneous data."""
    rows = []
    for algorithm in sorted(LABELS, key=lambda name: np.mean(results["homogeneous"][name].gaps)):
        row = [algorithm]
        for data in NOISE:
            tuned = results[data][algorithm]
            row += [
                f"{tuned.rate:.3g}{' (edge)' * tuned.edge}",
                f"{np.mean(tuned.gaps):.2e} ± {np.std(tuned.gaps, ddof=1):.0e}",
            ]
        rows.append([*row, f"{results['homogeneous'][algorithm].seconds:.1f}"])
    titles = ["algorithm", *(title for data in NOISE for title in (f"rate, {data}", f"gap, {data}")), "virtual time, s"]
    return (
        f"Least squares, {WORKERS} workers, worker 1 {SLOWDOWN:g} times slower, {gradients:,} gradients, seeds "
        f"{', '.join(map(str, seeds))}. Gap: mean ± standard deviation of f − min f over the last tenth of the "
        "gradients, at the best rate of 2^(k/3); edge: the lowest or highest rate that was tried.\n\n"
        f"{markdown_table(titles, rows)}"
    )


def draw(results: Results) -> Figure:
    """One panel per kind of data: the gap of every algorithm against virtual time."""
    figure = new_figure(4.6)
    panels = figure.subplots(1, len(results), sharey=True)
    for axes, (data, tuned) in zip(panels, results.items(), strict=True):
        for number, (algorithm, found) in enumerate(tuned.items()):
            style = {"color": f"C{number % 10}", "linestyle": "-" if number < 10 else "--"}
            axes.loglog(*found.curve(), label=algorithm, linewidth=1, **style)
        axes.set_xlabel("virtual-clock time (s)")
        set_titles(axes, f"{data.capitalize()} data")
    panels[0].set_ylabel("f − min f")
    write_key(figure, panels[0].get_legend_handles_labels()[0])
    seeds = counted([len(found.gaps) for tuned in results.values() for found in tuned.values()])
    write_title(
        figure, "Least squares: the gap to the minimum over time\n"
        f"{WORKERS} workers, one {SLOWDOWN:g} times slower; geometric mean of {seeds}"
    )  # fmt: skip
    return figure


def main() -> None:
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("--output", type=Path, default=Path("."), metavar="DIR", help="where table and figure go (default .)")
    add("--seeds", type=Interval(int, "[0,inf)"), nargs="+", default=[42, 43, 44], metavar="N", help="default 42 43 44")
    add("--gradients", type=Interval(int, "[4000,inf)"), default=32_000, metavar="N", help="of all workers together")
    arguments = parser.parse_args()
    folder = make_folder(arguments.output, "--output")
    results = train_all(arguments.seeds, arguments.gradients)
    write_text(folder / "least_squares.md", markdown(results, arguments.seeds, arguments.gradients))
    save(draw(results), folder / "least_squares")
    print((folder / "least_squares.md").read_text())


if __name__ == "__main__":
    run_script(main)
