"""The page of a report: the numbers of all runs as JSON, inside of a page that draws them with plotly.js."""

from __future__ import annotations

import html
import json
import math
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from analysis.figures import OKABE_ITO
from analysis.report.runs import Comparison, Run
from analysis.reports.differences import COLUMNS, tables
from analysis.reports.trials import bin_width
from analysis.spread import t_quantiles

ASSETS = Path(__file__).parent / "assets"
DIGITS = 6  # significant ones, of all numbers
LARGEST_SAMPLE = 60  # runs of a setting for which the page knows the quantile of Student's t


def page(comparison: Comparison, title: str, folder: Path) -> str:
    """One self-contained HTML page; folder: where it will lie, for its links to logs."""
    from plotly.offline import get_plotlyjs

    parts = {
        "TITLE": html.escape(readable(title)),
        "STYLE": (ASSETS / "report.css").read_text(encoding="utf-8"),
        "PLOTLY": get_plotlyjs(),
        "DIFFERENCES": differences_tables(comparison),
        "DATA": json.dumps(data_of(comparison, folder), separators=(",", ":")).replace("</", "<\\/"),
        "SCRIPT": (ASSETS / "report.js").read_text(encoding="utf-8"),
    }
    before, *rest = (ASSETS / "report.html").read_text(encoding="utf-8").split("{{")
    filled = [before]
    for piece in rest:
        name, _, text = piece.partition("}}")
        filled += [parts[name], text]
    return "".join(filled)


def differences_tables(comparison: Comparison) -> str:
    """A section for each table that says what settings change."""
    sections = []
    for title, about, rows in tables([run.trial for run in comparison.runs]):
        heading = "".join(f"<th>{column}</th>" for column in COLUMNS)
        lines = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
        body = "\n".join(f"    <tr>{line}</tr>" for line in lines)
        sections.append(
            f'<section>\n  <h2>{title}</h2>\n  <div class="scroll"><table><thead><tr>{heading}</tr></thead><tbody>\n'
            f'{body}\n  </tbody></table></div>\n  <p class="quiet">{about}</p>\n</section>\n\n'
        )
    return "".join(sections)


def data_of(comparison: Comparison, folder: Path) -> dict[str, Any]:
    """The data that report.js draws, as JSON values."""
    return {
        "colors": OKABE_ITO,
        "shared": comparison.shared,
        "columns": comparison.columns,
        "quantiles": t_quantiles(LARGEST_SAMPLE),
        "settings": [
            {"label": setting.label, "cells": setting.cells, "runs": [run_of(run, folder) for run in setting.runs]}
            for setting in comparison.settings
        ],
    }


def run_of(run: Run, folder: Path) -> dict[str, Any]:
    """One run: single numbers, and curves as columns."""
    outcome, trial = run.outcome, run.trial
    first = (outcome.first_left_seconds, outcome.first_left_update, outcome.first_left_accuracy)
    return {
        "name": trial.name,
        "seed": trial.seed,
        "link": None if run.log is None else quote(os.fsencode(os.path.relpath(run.log, folder))),
        "clock": trial.clock,
        "accuracy": rounded(outcome.test_accuracy),
        "loss": rounded(outcome.test_loss),
        "seconds": rounded(outcome.seconds),
        "updates": outcome.updates,
        "epochs": rounded(trial.config.epochs if outcome.epochs_done is None else outcome.epochs_done),
        "evals_per_epoch": trial.config.evals_per_epoch,
        "staleness": rounded(outcome.mean_staleness),
        "converged": outcome.converged,
        "first": None if None in first else rounded(first),
        "test": columns(outcome.evaluations, 3),
        "test_losses": rounded(outcome.test_losses),
        "validation": columns(outcome.validations, 4),
        "training": columns(outcome.training_losses, 3),
        "stalenesses": columns(outcome.stalenesses, 3),
        "histogram": columns(outcome.staleness_counts, 2),
        "bin_width": bin_width(outcome.max_staleness),
    }


def readable(name: str) -> str:
    """The name of a file as text, also one that this locale cannot decode."""
    return os.fsencode(name).decode("utf-8", "replace")


def columns(rows: tuple[tuple, ...], count: int) -> list[list]:
    """The columns of a curve; `count` empty ones if it has no point."""
    return [rounded(column) for column in zip(*rows, strict=True)] or [[] for _ in range(count)]


def rounded(value: Any) -> Any:
    """A number with a few significant digits, or all those of a sequence; null if it is not finite."""
    if isinstance(value, tuple | list):
        return [rounded(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
