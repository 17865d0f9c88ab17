"""The study beside the published one: a table of every published accuracy and what was measured for the same setting.

python3 -m analysis.study summaries

Reads published.csv and the trials.csv of each folder in there; writes comparison.md and comparison.csv.
"""

import csv
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.summary import Setting, Trials
from analysis.tables import markdown_table, write_rows, write_text
from common import DataError
from interface.command_line import ArgumentParser, run_script
from interface.files import naming

DELAYED = {"none": "none", "all": "all", "worker 1": "all, worker 1 twice"}  # published words: ours
COLUMNS = ("table", "mode", "world_size", "partition", "delay", "momentum", "lambda")
TITLES = (*COLUMNS, "published, %", "measured, %", "runs", "converged", "difference")


@dataclass(frozen=True)
class Cell:
    """A setting of the published study, by which settings of this suite are recognised."""

    mode: str
    world_size: int
    partition: str
    delayed: str
    delay_ms: float
    delay_type: str
    momentum: float
    compensation: str

    @classmethod
    def published(cls, row: dict[str, str]) -> "Cell":
        """Of a row of published.csv."""
        strength = float(row["compensation_lambda"])
        return cls(
            row["script"],
            int(row["world_size"]),
            row["partition"],
            DELAYED[row["delayed"]],
            float(row["delay_ms"]),
            row["delay_type"] or "none",
            float(row["momentum"]),
            f"constant {strength:g}" if strength else "none",
        )

    @classmethod
    def measured(cls, setting: Setting) -> "Cell | None":
        """Of one of ours; None where it is not one that the published study had."""
        same = (setting.dataset, setting.network, setting.train_split, setting.epochs, setting.compute_ms)
        if same != ("fashion_mnist", "LeNet5", 1.0, 6, 15.0):
            return None
        return cls(*(getattr(setting, name) for name in cls.__dataclass_fields__))


def measured_accuracies(folder: Path) -> dict[Cell, list[tuple[float, bool]]]:
    """Cell → test accuracy (percent) of each run, and whether it converged."""
    accuracies = defaultdict(list)
    for path in sorted(folder.glob("*/trials.csv")):
        for trial in Trials(path.parent).rows.values():
            if cell := Cell.measured(trial.setting):
                accuracies[cell].append((trial.outcome.test_accuracy, trial.outcome.converged))
    return accuracies


def compare(row: dict[str, str], runs: list[tuple[float, bool]]) -> list[str]:
    """A row of the table; what was not measured yet stays empty."""
    delay = "none" if row["delayed"] == "none" else f"{row['delay_type']} {row['delay_ms']} ms"
    delay += ", worker 1 twice" if row["delayed"] == "worker 1" else ""
    published = float(row["test_accuracy_percent"])
    told = [row["table"], row["script"], row["world_size"], row["partition"], delay, row["momentum"],
            row["compensation_lambda"], f"{published:.2f}"]  # fmt: skip
    if not runs:
        return [*told, "", "0", "", ""]
    values = np.array([accuracy for accuracy, _ in runs])
    deviation = values.std(ddof=1) if len(values) > 1 else math.nan
    spread = "" if math.isnan(deviation) else f" ± {deviation:.2f}"
    converged = sum(converged for _, converged in runs)
    mean = values.mean()
    return [*told, f"{mean:.2f}{spread}", str(len(runs)), str(converged), f"{mean - published:+.2f}"]


def main() -> None:
    parser = ArgumentParser(__doc__)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="with published.csv and a folder an experiment")
    folder = parser.parse_args().folder
    path = folder / "published.csv"
    accuracies = measured_accuracies(folder)
    try:
        with naming(path), path.open(encoding="utf-8", newline="") as file:
            rows = [compare(row, accuracies.get(Cell.published(row), [])) for row in csv.DictReader(file)]
    except (KeyError, ValueError) as error:
        raise DataError(f"{path}: not the published accuracies ({error})") from error
    done = sum(row[-1] != "" for row in rows)
    about = (
        "Test accuracy on Fashion-MNIST. Published: one run each; 10.00 stands for no convergence. Measured: mean ± "
        "sample standard deviation over the seeds, on the virtual clock with 15 ms a gradient. Lambda is that of the "
        f"delay compensation, which had no effect in the published code. {done} of {len(rows)} settings are measured."
    )
    write_text(folder / "comparison.md", f"# Published and measured\n\n{about}\n\n{markdown_table(TITLES, rows)}")
    write_rows(folder / "comparison.csv", [TITLES, *rows])
    print(f"{done} of {len(rows)} published settings measured:")
    for name in ("comparison.md", "comparison.csv"):
        print(f"  {folder / name}")


if __name__ == "__main__":
    run_script(main)
