"""The momentum that asynchrony itself adds to SGD, measured on quadratics.

python3 -m benchmarks.implicit_momentum --output benchmarks/results

If the times of M equally fast workers are exponential, the mean update of asynchronous SGD obeys
E[wₜ₊₁ − wₜ] = μ E[wₜ − wₜ₋₁] − η E[∇f(wₜ)] with μ = 1 − 1/M and η = α/M: it is that of SGD with momentum μ (Mitliagkas,
Zhang, Hadjis and Ré 2016, arXiv 1605.09774). Here μ and η are fitted by least squares to the mean course of many runs
of the suite's own `asgd` on the virtual clock, from w₀ = 1, with f(w) = ½ λ w² and several λ at once. Nothing is
asserted: the theory is that of exponential times, and others are measured beside them.

Writes a table, implicit_momentum.md, and a figure of μ against the number of workers, implicit_momentum.png and .pdf.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from analysis.figures import OKABE_ITO, Figure, new_figure, save, write_key, write_title
from analysis.spread import half_width, interval
from analysis.tables import markdown_table, write_text
from common import make_generator
from interface.command_line import ArgumentParser, Interval, run_script
from interface.files import make_folder
from interface.processes import available_cores
from training.algorithms import ALGORITHMS
from training.config import RunConfig
from training.engines.dispatcher import RunShape
from training.engines.gradients import FunctionGradients
from training.engines.virtual import simulate
from training.optimizers import SGD
from training.protocol import Outcome, Push, Update
from training.server import ParameterServer
from training.timing import Draws, compute_times

WORKERS = (1, 2, 4, 8, 16, 32)
TIMES = ("exponential", "lognormal:0.5", "normal:0.1")  # of a gradient, as in --compute_time
CURVATURES = (0.25, 0.5, 1.0)
RATE = 0.5  # α M: the course is as long, in gradients per worker, for any number of workers
STEPS = 16  # gradients per worker
PARTS = 16  # of the seeds, for the jackknife

Fits = dict[tuple[str, int], np.ndarray]  # (times, workers) → pseudo-values (PARTS, 2) of μ and η M / α


@dataclass
class Course:
    """A listener that keeps the weights (λ,) after each update."""

    server: ParameterServer
    weights: list[np.ndarray] = field(default_factory=list)

    def push(self, seconds: float, push: Push, outcome: Outcome) -> None:
        self.weights.append(self.server.parameters.numpy().copy())

    def update(self, seconds: float, update: Update) -> None: ...

    def leave(self, seconds: float, worker: int) -> None: ...

    def lose(self, seconds: float, worker: int, how: str) -> None: ...

    def end(self, rule: str) -> None: ...


def course(workers: int, times: str, seed: int) -> np.ndarray:
    """The weights (t + 1, λ) of one run, from the start on."""
    curvatures, weights = torch.tensor(CURVATURES), torch.ones(len(CURVATURES))
    rate = RATE / workers
    server = ParameterServer(weights, torch.zeros(0), SGD(weights, 0.0), lambda updates, pushed: rate)
    numbers = range(1, workers + 1)
    found = Course(server, [weights.numpy().copy()])
    algorithm = ALGORITHMS["asgd"](server, RunConfig(mode="async", world_size=workers + 1), list(numbers))
    schedule = {
        number: compute_times(times, 10.0, Draws(make_generator(seed, "compute", number))) for number in numbers
    }
    gradients = FunctionGradients(lambda worker, parameters: curvatures * parameters)
    simulate(RunShape("asgd", dict.fromkeys(numbers, STEPS), "total"), algorithm, found, schedule, gradients)
    return np.stack(found.weights).astype(np.float64)


def mean_course(workers: int, times: str, seeds: Sequence[int]) -> np.ndarray:
    """The mean (t + 1, λ) over the runs of some seeds."""
    torch.set_num_threads(1)
    return sum(course(workers, times, seed) for seed in seeds) / len(seeds)


def fit(mean: np.ndarray, workers: int) -> np.ndarray:
    """μ and η M / α of a mean course (t + 1, λ), by least squares over the updates and the curvatures."""
    moves = np.diff(mean, axis=0)
    terms = np.stack([moves[:-1], -(mean * CURVATURES)[1:-1]], axis=-1).reshape(-1, 2)
    (momentum, rate), *_ = np.linalg.lstsq(terms, moves[1:].reshape(-1), rcond=None)
    return np.array([momentum, rate * workers / (RATE / workers)])


def pseudo_values(means: np.ndarray, workers: int) -> np.ndarray:
    """The jackknife of the fit over parts of the seeds, means (PARTS, t + 1, λ): n θ − (n − 1) θ without one part.

    Their mean is θ less most of its bias, since noise in the moves would make μ too small, and their spread is that of
    θ (Tukey 1958).
    """
    parts = len(means)
    without = [fit(np.delete(means, part, axis=0).mean(axis=0), workers) for part in range(parts)]
    return parts * fit(means.mean(axis=0), workers) - (parts - 1) * np.stack(without)


def fit_all(seeds: int) -> Fits:
    """Run and fit everything, on all cores."""
    parts = [range(start, seeds, PARTS) for start in range(PARTS)]
    cells = list(product(TIMES, WORKERS))
    with ProcessPoolExecutor(available_cores()) as pool:
        waiting = [pool.submit(mean_course, workers, times, part) for times, workers in cells for part in parts]
        means = [future.result() for future in tqdm(waiting, unit=" parts", disable=None)]
    of_cell = {cell: np.stack(means[number * PARTS :][:PARTS]) for number, cell in enumerate(cells)}
    return {(times, workers): pseudo_values(of_cell[times, workers], workers) for times, workers in cells}


def markdown(fits: Fits, seeds: int) -> str:
    """One row per number of workers."""
    rows = []
    for workers in WORKERS:
        measured = [interval(values.tolist(), 3) for times in TIMES for values in fits[times, workers].T]
        rows.append([str(workers), f"{1 - 1 / workers:.3f}", *measured])
    titles = ["workers M", "1 − 1/M", *(title for times in TIMES for title in (f"μ, {times}", f"η M/α, {times}"))]
    return (
        "Implicit momentum μ and rate η of asynchronous SGD without momentum, on quadratics with λ "
        f"{', '.join(map(str, CURVATURES))}; α = {RATE:g}/M; {STEPS} gradients per worker. Least squares over the mean "
        f"course of {seeds:,} seeds, with 95 % intervals (jackknife over {PARTS} parts of the seeds). In theory, "
        f"exponential times have μ = 1 − 1/M and η = α/M.\n\n{markdown_table(titles, rows)}"
    )


def draw(fits: Fits) -> Figure:
    """μ against the number of workers, with theory's curve."""
    figure = new_figure(3.4)
    axes = figure.subplots()
    at = np.geomspace(min(WORKERS), max(WORKERS), 200)
    axes.plot(at, 1 - 1 / at, color="0.6", linewidth=1, label="1 − 1/M, theory for exponential times")
    for times, color, marker in zip(TIMES, OKABE_ITO, "os^", strict=False):
        found = [fits[times, workers][:, 0].tolist() for workers in WORKERS]
        means, halves = [np.mean(one) for one in found], [half_width(one) for one in found]
        axes.errorbar(WORKERS, means, halves, color=color, marker=marker, markersize=4, linewidth=0, elinewidth=1,
                      label=times.replace(":", " "))  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="workers M", ylabel="implicit momentum μ")
    write_key(figure, axes.get_legend_handles_labels()[0])
    write_title(
        figure, "The momentum that asynchrony adds to SGD\nasgd without momentum on quadratics; by times of a gradient"
    )
    return figure


def main() -> None:
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("--output", type=Path, default=Path("."), metavar="DIR", help="where table and figure go (default .)")
    add(
        "--seeds",
        type=Interval(int, "[16,inf)"),
        default=1600,
        metavar="N",
        help="runs per row and times (default 1600)",
    )
    arguments = parser.parse_args()
    folder = make_folder(arguments.output, "--output")
    fits = fit_all(arguments.seeds)
    write_text(folder / "implicit_momentum.md", markdown(fits, arguments.seeds))
    save(draw(fits), folder / "implicit_momentum")
    print((folder / "implicit_momentum.md").read_text())


if __name__ == "__main__":
    run_script(main)
