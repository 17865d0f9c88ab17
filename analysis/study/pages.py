"""The pages of the study, in which every number is looked up in the rows, so that none can drift from them.

The templates in analysis/study/pages/ are Markdown with Jinja's expressions, which call the methods of `Lookup`. What a
sentence claims in words stands beside it in a `check(...)`, which fails once the rows no longer say so.
"""

from __future__ import annotations

import csv
import itertools
import math
import operator
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from pathlib import Path
from typing import Any

import jinja2

from analysis.reports.trials import (
    Trial,
    Trials,
    accuracy_after_training_loss,
    accuracy_at_training_loss,
    test_loss_at_training_loss,
    time_to,
)
from analysis.spread import Spread, half_width, interval, rate_interval
from analysis.study.design import EXPERIMENTS, slow_label
from analysis.study.effects import CONTRASTS, FEWEST, Answer, answer, p_in_words, place_in_words, read_contrasts
from analysis.study.published import SAME_FOR_ALL, SEEDS, VIRTUAL, Results, uncompensated
from analysis.study.tables import TABLES
from catalogue import DATASETS
from interface.errors import DataError
from interface.files import with_filename
from training.config import RunConfig
from training.settings import DELAY_INTENSITIES

TEMPLATES = Path(__file__).parent / "pages"
FINDINGS = "findings.md"  # a section of the project's README
PAGES = sorted({path.stem for path in TEMPLATES.glob("*.jinja")} - {FINDINGS})
NOT_RUN = "not run yet"
GUESS = 10.0  # percent: what the same answer for all images of the published study's data set gets

Settings = dict[str, Any]
NOT_DISTRIBUTED = {"mode": "classic"}
CONSTANT = {"delay": True, "delay_type": "constant"}
PARTS: dict[str, Settings | Callable[..., Settings]] = {  # what a template calls the parts of a setting
    "not_distributed": NOT_DISTRIBUTED,
    "sync": {"mode": "sync"},
    "samples": {"partition": "split_dataset"},
    "labels": {"partition": "split_labels"},
    "workers": lambda count: {"world_size": count + 1},
    "constant": lambda ms: CONSTANT | {"delay_ms": float(ms)},
    "gaussian": lambda ms: CONSTANT | {"delay_type": "gaussian", "delay_ms": float(ms)},
    "slow": lambda ms: CONSTANT | {"delay_ms": float(ms), "slow_worker_1": True},
}


@dataclass(frozen=True)
class Values:
    """One number per run, by its seed or whatever sets the runs apart."""

    by_run: dict[Any, float]

    def __str__(self) -> str:
        return f"{Spread.of(self.values):.1f}" if self.by_run else NOT_RUN

    def __sub__(self, other: Values) -> Values:
        """Of the runs that both have. Raises DataError if they have none in common."""
        if self.by_run and other.by_run and not self.by_run.keys() & other.by_run.keys():
            raise DataError("no pairs to subtract")
        return Values({run: value - other.by_run[run] for run, value in self.by_run.items() if run in other.by_run})

    def __or__(self, other: Values) -> Values:
        """The values of both together, which are no repetitions of one another."""
        together = [*self.values, *other.values]
        return Values(dict(enumerate(together)))

    def __len__(self) -> int:
        return len(self.by_run)

    @property
    def values(self) -> list[float]:
        return list(self.by_run.values())

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values) if self.by_run else math.nan

    @property
    def interval(self) -> str:
        """Mean and 95 % interval."""
        return interval(self.values).replace("-", "−") if self.by_run else NOT_RUN

    @property
    def difference(self) -> str:
        """Mean and half width of the interval, with the sign of the mean: +1.2 ± 0.4."""
        return f"{'+' * (self.mean > 0)}{self.interval}"

    @property
    def is_apart(self) -> bool:
        """Whether that interval excludes 0."""
        return abs(self.mean) > half_width(self.values)

    @property
    def ascending(self) -> list[float]:
        return sorted(self.values)

    @property
    def low(self) -> float:
        return min(self.values, default=math.nan)

    @property
    def high(self) -> float:
        return max(self.values, default=math.nan)

    @property
    def outlier(self) -> float:
        """The value that is farthest from the median."""
        return max(self.values, key=lambda value: abs(value - statistics.median(self.values)))

    @property
    def others(self) -> Values:
        """All but that one."""
        return Values({run: value for run, value in self.by_run.items() if value != self.outlier})

    @property
    def distance(self) -> Values:
        """The values without their signs."""
        return Values({run: abs(value) for run, value in self.by_run.items()})

    @property
    def farthest(self) -> float:
        """The largest of these."""
        return self.distance.high

    def above(self, limit: float) -> int:
        """How many are larger."""
        return sum(value > limit for value in self.values)

    def below(self, limit: float) -> int:
        """How many are smaller."""
        return sum(value < limit for value in self.values)

    def within(self, limit: float) -> int:
        """How many are at most that large, whatever their sign."""
        return sum(abs(value) <= limit for value in self.values)


class Lookup:
    """What the templates can look up in a folder of experiments."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._results = Results.read(folder)
        self._trials = cache(lambda name: Trials(folder / name))
        self._runs = cache(lambda name: EXPERIMENTS[name].read(folder / name))
        self._rates = cache(lambda name: EXPERIMENTS[name].best_rates(Trials(folder / name / "tuning")))
        self._tried = cache(lambda name: EXPERIMENTS[name].tried(Trials(folder / name / "tuning")))
        self._answers = cache(self._answers_of)

    # ------------------------------------------------------------------------------------------------
    # The published settings
    # ------------------------------------------------------------------------------------------------

    def accuracy(self, *parts: Settings, seeds: Iterable[int] = SEEDS) -> Values:
        """Test accuracy, percent, in the published setting with these parts."""
        setting = _setting(*parts)
        found = {seed: self._results.by_seed.get((setting, seed)) for seed in seeds}
        return Values({seed: value for seed, value in found.items() if value is not None})

    def gaps(self, *parts: Settings, **wanted: Any) -> Values:
        """Measured mean less the published accuracy, points, of each measured setting that has these parts.

        wanted: conditions on other settings: a value, or several of which one must be there.
        """
        conditions = {name: value for part in parts for name, value in part.items()} | wanted
        return Values({
            setting: group.spread("test_accuracy").mean - self._results.published[setting]
            for setting, group in self._results.measured.items()
            if setting in self._results.published and _fits(setting, conditions)
        })  # fmt: skip

    def compensation_pairs(self) -> Values:
        """Points that compensation adds for a slow worker, of each pair of runs with one seed."""
        return Values({
            (setting, seed): accuracy - without
            for (setting, seed), accuracy in self._results.by_seed.items()
            if setting.compensation and setting.slow_worker_1
            and (without := self._results.by_seed.get((uncompensated(setting), seed))) is not None
        })  # fmt: skip

    def forgotten(self, **wanted: Any) -> Values:
        """Test accuracy, percent, of runs that did not converge, with a finite loss and more than one answer."""
        return Values({
            trial.name: trial.outcome.test_accuracy
            for name in ("undelayed_published", "delays_published", "gaussian_published")
            for trial in self._trials(name).named([])
            if _fits(trial.config, wanted) and not trial.outcome.converged
            and math.isfinite(trial.outcome.test_loss) and trial.outcome.test_accuracy > GUESS
        })  # fmt: skip

    def compensation_by_seed(self) -> Values:
        """Their mean for each seed: pairs with one seed are no repetitions."""
        pairs = self.compensation_pairs().by_run
        seeds = sorted({seed for _, seed in pairs})
        return Values({seed: statistics.fmean(value for (_, other), value in pairs.items() if other == seed)
                       for seed in seeds})  # fmt: skip

    # ------------------------------------------------------------------------------------------------
    # Any rows, tables and contrasts
    # ------------------------------------------------------------------------------------------------

    def rows(self, name: str, measure: str | Callable[[Trial], float] = "test_accuracy", **wanted: Any) -> Values:
        """A number of each run of an experiment with these settings, by its seed, or by its name if that is not all."""
        found = [trial for trial in self._trials(name).named([]) if _fits(trial.config, wanted)]
        number = measure if callable(measure) else lambda trial: getattr(trial.outcome, measure)
        by_seed = {trial.seed: number(trial) for trial in found}
        return Values(by_seed if len(by_seed) == len(found) else {trial.name: number(trial) for trial in found})

    def repeated(self, place: str) -> Values:
        """By how much test accuracies changed, in points, where runs were made again: a folder of `repeated`."""
        folders = sorted((self._folder / "repeated" / place).glob("*"))
        changes = [self.rows(f"repeated/{place}/{path.name}") - self.rows(path.name) for path in folders]
        return reduce(operator.or_, changes, Values({}))

    def by_intensity(self, **wanted: Any) -> list[float]:
        """Mean test accuracy in the suite's own delays, from the shortest to the longest, with these settings."""
        return [self.rows("delays", delay_intensity=name, **wanted).mean for name in DELAY_INTENSITIES]

    def cell(self, path: str, column: str, **row: Any) -> str:
        """A cell of a Markdown table: of the column whose title starts so, in the first row with these values."""
        titles, *lines = _table_rows(self._folder / path)
        titles = [title.removeprefix("--") for title in titles]
        for line in lines:
            values = dict(zip(titles, line, strict=False))
            if all(_of_title(values, name.replace("_", " ")) == str(value) for name, value in row.items()):
                return _of_title(values, column)
        raise DataError(f"{self._folder / path}: no row with {row}")

    def column(self, path: str, title: str, **row: Any) -> Values:
        """A column of numbers of a CSV file: of the rows with these values."""
        with with_filename(self._folder / path), (self._folder / path).open(encoding="utf-8", newline="") as file:
            found = [line for line in csv.DictReader(file) if all(line[name] == str(row[name]) for name in row)]
        return Values({number: float(line[title]) for number, line in enumerate(found)})

    def answer(self, experiment: str, claim: str, **where: str) -> Answer | None:
        """What came of the contrast of this claim at these levels; None if the experiment has not been run."""
        place = place_in_words(where)
        contrasts = [(one, one.effect.contrast) for one in self._answers(experiment)]
        found = [one for one, contrast in contrasts if contrast.claim == claim and contrast.where == place]
        if self._answers(experiment) and not found:
            raise DataError(f"{CONTRASTS}: no contrast of {experiment} is called {claim!r}, {place!r}")
        return found[0] if found else None

    def answers(self, experiment: str, claim: str, **where: str | Sequence[str]) -> list[Answer | None]:
        """What came of the contrasts of this claim: one for each level where a factor has several."""
        levels = [[level] if isinstance(level, str) else level for level in where.values()]
        return [self.answer(experiment, claim, **dict(zip(where, place, strict=True)))
                for place in itertools.product(*levels)]  # fmt: skip

    def effects(self, experiment: str, claim: str, **where: str | Sequence[str]) -> str:
        """The differences of the contrasts of this claim, in a sentence."""
        found = self.answers(experiment, claim, **where)
        return listed(one.effect.in_words if one else NOT_RUN for one in found)

    def different(self, experiment: str, claim: str) -> str:
        """Where the contrasts of a claim are settled as different; "none" if nowhere."""
        return self._where(experiment, claim, "different")

    def equal(self, experiment: str, claim: str) -> str:
        """The same for those that are settled as equal within their margin."""
        return self._where(experiment, claim, "equal")

    def _where(self, experiment: str, claim: str, verdict: str) -> str:
        answers = [one for one in self._answers(experiment) if one.effect.contrast.claim == claim]
        found = [f"`{one.effect.contrast.where}`" for one in answers if one.verdict.startswith(verdict)]
        return listed(found) if found else "none"

    def directions(self, experiment: str, claim: str) -> str:
        """The same, apart by the sign of the difference: "better: `dude`; worse: `ringmaster`"."""
        found: dict[str, list[str]] = {"better": [], "worse": []}
        for one in self._answers(experiment):
            if one.effect.contrast.claim == claim and one.verdict.startswith("different"):
                found["better" if one.effect.mean > 0 else "worse"].append(f"`{one.effect.contrast.where}`")
        return "; ".join(f"{word}: {listed(places)}" for word, places in found.items() if places) or "none"

    def verdicts(self, experiment: str, claim: str | None = None) -> str:
        """The answers to its primary contrasts, or to those of a claim, with their numbers, the most frequent first."""
        asked = [(one.effect.contrast, one.verdict) for one in self._answers(experiment)]
        found = Counter(verdict for contrast, verdict in asked if contrast.primary and claim in (None, contrast.claim))
        return listed(f"{verdict} ({count})" for verdict, count in found.most_common())

    def ends_at(self, experiment: str, *cell: str) -> str:
        """Mean accuracy of the runs of a cell with its 95 % interval, percent, and how many diverged."""
        found, total = self.accuracies(experiment, *cell), len(self._runs(experiment)[cell])
        lost = total - len(found)
        rate = f" ({lost} of {total} runs diverged, a rate of {rate_interval(lost, total)})" if lost else ""
        return f"{found.interval} %{rate}"

    def differences(self, experiment: str, claim: str, **where: str) -> Values:
        """The differences of the pairs of this claim, points."""
        found = self.answer(experiment, claim, **where)
        return Values(dict(enumerate(found.effect.differences)) if found else {})

    def seeds_needed(self, experiment: str) -> Values:
        """How many would show each primary contrast with a margin to be equal, if it is."""
        effects = [one.effect for one in self._answers(experiment) if one.effect.contrast.primary]
        return Values({effect.contrast: effect.seeds_needed for effect in effects if effect.seeds_needed})

    def seeds(self, experiment: str) -> tuple[int, int]:
        """How many seeds have been run in each cell, and how many are planned."""
        return min(map(len, self._runs(experiment).values())), len(EXPERIMENTS[experiment].seeds)

    def levels(self, experiment: str, factor: str) -> list[str]:
        """The names of the levels of a factor."""
        return list(EXPERIMENTS[experiment].factors[factor])

    def accuracies(self, experiment: str, *cell: str) -> Values:
        """Test accuracy, percent, of the runs of a cell that did not diverge, by their seed."""
        runs = self._runs(experiment)[cell]
        found = {seed: EXPERIMENTS[experiment].accuracy(cell, trial) for seed, trial in runs.items()}
        return Values({seed: accuracy for seed, accuracy in found.items() if accuracy is not None})

    def on_slow_label(self, experiment: str, *cell: str) -> Values:
        """Test accuracy, percent, on the label of the slow one of ten workers, of the runs that did not diverge."""
        runs = self._runs(experiment)[cell]
        return Values({seed: runs[seed].outcome.label_accuracies[slow_label(seed)]
                       for seed in self.accuracies(experiment, *cell).by_run})  # fmt: skip

    def at_training_loss(self, experiment: str, limit: float, *cell: str) -> tuple[str, str]:
        """Test accuracy, percent, and test loss of the runs of a cell when the training loss first fell to `limit`."""
        runs = self._runs(experiment)[cell].values()
        found = []
        for measure, digits in ((accuracy_at_training_loss, 1), (test_loss_at_training_loss, 3)):
            values = [value for run in runs if (value := measure(limit, run.outcome)) is not None]
            few = f" ({len(values)} of {len(runs)})" if len(values) < len(runs) else ""
            found.append(f"{interval(values, digits)}{few}" if values else "never")
        return tuple(found)

    def accuracies_after(self, experiment: str, limit: float, *cell: str) -> Values:
        """Test accuracy, percent, at the first evaluation after the training loss first fell to `limit`, by seed."""
        found = {seed: accuracy_after_training_loss(limit, run.outcome)
                 for seed, run in self._runs(experiment)[cell].items()}  # fmt: skip
        return Values({seed: accuracy for seed, accuracy in found.items() if accuracy is not None})

    def never_reached(self, experiment: str, target: float, *cell: str) -> int:
        """How many runs of a cell never had this test accuracy, percent; those that diverged are among them."""
        return sum(time_to(target, run.outcome) is None for run in self._runs(experiment)[cell].values())

    def rate(self, experiment: str, *cell: str) -> float:
        """The tuned learning rate of a cell."""
        return EXPERIMENTS[experiment].rate(cell, self._rates(experiment))

    def behind(self, experiment: str, rate: float, *cell: str) -> float:
        """By how many points of validation accuracy this learning rate is behind the one that was chosen for a cell."""
        tried = self._tried(experiment)[EXPERIMENTS[experiment].tuned_as(cell)]
        return max(tried.values()) - tried[rate]

    def at_lowest_rate(self, experiment: str, *cell: str) -> bool:
        """Whether the tuned learning rate of a cell is the lowest that was tried."""
        return self.rate(experiment, *cell) == min(EXPERIMENTS[experiment].rates_of(cell))

    def lowest_rates(self, experiment: str) -> tuple[int, int]:
        """How many of its tuned learning rates are the lowest that was tried, and how many there are."""
        cells = list(self._rates(experiment))
        return sum(self.at_lowest_rate(experiment, *cell) for cell in cells), len(cells)

    def failed_tuning(self, experiment: str) -> str:
        """The cells, in words, in which no learning rate that was tried learned anything; empty if there are none."""
        design = EXPERIMENTS[experiment]
        failed = [cell for cell, tried in self._tried(experiment).items()
                  if not DATASETS[design.settings(cell)["dataset"]].was_learned(max(tried.values()))]  # fmt: skip
        tuned = [{name: level for name, level in zip(design.factors, cell, strict=True) if name in design.tuned}
                 for cell in failed]  # fmt: skip
        return listed(map(place_in_words, tuned)) if tuned else ""

    def effective_rate(self, experiment: str, *cell: str) -> str:
        """The tuned learning rate of a cell, divided by 1 − momentum."""
        return f"{self.rate(experiment, *cell) / (1 - EXPERIMENTS[experiment].momentum(cell)):.3g}"

    def has(self, experiment: str) -> bool:
        """Whether enough of it has been run for answers."""
        return bool(self._answers(experiment))

    def _answers_of(self, name: str) -> list[Answer]:
        """None before each contrast has as many pairs as an interval needs."""
        try:
            answers = answer(EXPERIMENTS[name], self._runs(name), read_contrasts(CONTRASTS, name))
        except DataError:
            if (self._folder / name / "contrasts.md").exists():  # it has been run
                raise
            return []
        return answers if min(one.effect.pairs for one in answers) >= FEWEST else []

    def table(self, name: str) -> str:
        """One of the TABLES."""
        return TABLES[name](self._results).rstrip("\n")


def overfitting(trial: Trial) -> float:
    """Train accuracy less test accuracy, points."""
    return trial.outcome.train_accuracy - trial.outcome.test_accuracy


def after_the_first(trial: Trial) -> float:
    """Updates after the first worker finished."""
    return trial.outcome.updates - trial.outcome.first_left_update


def check(claim: bool) -> str:
    """Nothing, if the rows say so."""
    if not claim:
        raise DataError("the rows no longer say what this line claims")
    return ""


def _setting(*parts: Settings) -> RunConfig:
    given = {name: value for part in parts for name, value in part.items()}
    if given == NOT_DISTRIBUTED:
        return RunConfig(**SAME_FOR_ALL, **given)
    return RunConfig(**{"mode": "async"} | SAME_FOR_ALL | VIRTUAL | given)


def _fits(config: RunConfig, wanted: Settings) -> bool:
    return all(
        getattr(config, name) in value if isinstance(value, list | tuple) else getattr(config, name) == value
        for name, value in wanted.items()
    )


def _table_rows(path: Path) -> Iterator[list[str]]:
    with with_filename(path):
        lines = path.read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line.startswith("|") and not line.startswith("| ---"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def _of_title(values: dict[str, str], start: str) -> str:
    title = next((title for title in values if title == start), None) or next(
        (title for title in values if title.startswith(start)), None
    )
    if title is None:
        raise DataError(f"no column {start!r} among {', '.join(values)}")
    return values[title]


# ----------------------------------------------------------------------------------------------------
# Rendering
# ----------------------------------------------------------------------------------------------------


def one_decimal(number: float) -> str:
    """A number as tables have it."""
    return f"{number:.1f}".replace("-", "−")


def signed(number: float) -> str:
    """A difference."""
    return f"{number:+.1f}".replace("-", "−")


def listed(numbers: Iterable[Any]) -> str:
    """Numbers in a sentence: 87.5, 86.2 and 85.9. Raises DataError if there are none."""
    texts = [one_decimal(one) if isinstance(one, float) else str(one) for one in numbers]
    if not texts:
        raise DataError("the runs that this line is about are missing")
    *first, last = texts
    return f"{', '.join(first)} and {last}" if first else last


def page(name: str, study: Lookup) -> str:
    """The text of a page. Raises DataError, naming template and line, if the rows do not fit it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {
        "n": one_decimal, "signed": signed, "listed": listed, "gather": operator.or_, "p": p_in_words,
    }  # fmt: skip
    environment.globals |= PARTS | {
        "study": study, "check": check, "overfitting": overfitting, "after_the_first": after_the_first,
    }  # fmt: skip
    template = f"{name}.jinja"
    try:
        return environment.get_template(template).render()
    except (jinja2.TemplateError, DataError, LookupError, ValueError, OSError) as error:
        raise DataError(f"{TEMPLATES / template}, line {_line_of(error, template)}: {error}") from error


def _line_of(error: Exception, name: str) -> int:
    """The line of a template at which an exception was raised."""
    trace, line = error.__traceback__, getattr(error, "lineno", 0)
    while trace:
        if trace.tb_frame.f_code.co_filename.endswith(name):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
