"""The runs that a driver plans: the command of each, what proves that it is done, and what it reads."""

from __future__ import annotations

import functools
import hashlib
import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from analysis.reports.trials import Trials, header_of, result_of
from cross_validation.command_line import is_finished
from interface.command_line import ArgumentParser
from interface.errors import UsageError
from training.command_line import make_parser
from training.config import RunConfig, words_of
from training.names import ARTIFACTS, CHECKPOINT, run_name
from training.settings import ROWS
from training.words import is_usual

SCRIPT_OF = {"classic": "nonDistributed.py", "sync": "dist_sync.py", "async": "dist_async.py"}
MODE_OF = {script: mode for mode, script in SCRIPT_OF.items()}


@functools.cache
def parser_of(mode: str) -> ArgumentParser:
    """The parser of a training script."""
    return make_parser(mode, "")


@dataclass(frozen=True)
class PlannedRun:
    """One command: its script and arguments, the proof that it is done, and the settings of a training run.

    drawn: it is done, though files of runs are gone: all that is drawn from them is here.
    """

    words: tuple[str, ...]
    proof: str
    config: RunConfig | None = None
    drawn: bool = False

    @classmethod
    def parse(cls, line: str) -> PlannedRun:
        """Parse a line of a plan. Raises UsageError if the flags of a training run are not valid."""
        proof, *words = shlex.split(line)
        mode = MODE_OF.get(words[0])
        config = RunConfig(mode=mode, **vars(parser_of(mode).parse_args(words[1:]))) if mode else None
        return cls(tuple(words), proof, config)

    @classmethod
    def of(cls, config: RunConfig) -> PlannedRun:
        """A training run that is done when it has a row."""
        words = [SCRIPT_OF[config.mode]]
        for name in ROWS:
            if not is_usual(config, name) and not (name == "partition" and config.split_dirichlet):
                words += words_of(config, name)
        return cls(tuple(words), "row", config)

    @functools.cached_property
    def name(self) -> str:
        """The name of a training run; otherwise the script and its output."""
        if self.config:
            return run_name(self.config)
        return " ".join(self.words) if self.proof == "-" else f"{self.words[0]} → {Path(self.proof).name}"

    @property
    def log(self) -> Path:
        """The path of the log of a complete training run."""
        return self.folder / f"{self.name}{ARTIFACTS['log']}"

    @property
    def folder(self) -> Path:
        """The folder of all its outputs."""
        return Path(self.config.subfolder if self.config else self._value_of("--subfolder", "."))

    @property
    def data_dir(self) -> str:
        """The folder of the data sets."""
        return self._value_of("--data_dir", "data")

    def _value_of(self, flag: str, default: str) -> str:
        return self.words[self.words.index(flag) + 1] if flag in self.words else default

    @property
    def inputs(self) -> list[Path]:
        """The files that it reads."""
        return [Path(word) for word in self.words[1:] if Path(word).is_file()]

    @property
    def gone(self) -> list[str]:
        """The names of the runs whose files it reads and that are not here."""
        return [
            Path(word).name.removesuffix(ending)
            for word in self.words[1:]
            for ending in ARTIFACTS.values()
            if word.endswith(ending) and not Path(word).exists()
        ]

    @property
    def needs_machine(self) -> bool:
        """Whether runs beside it would disturb it: the wall clock measures it, or it starts processes of its own."""
        return self.config.clock == "wall" if self.config else self.proof == "-"

    @property
    def words_to_execute(self) -> tuple[str, ...]:
        """Its words, so that a training run that was interrupted resumes from its checkpoint."""
        if self.config and any(self.folder.glob(f"{self.name}_partial*{CHECKPOINT}")):
            return *self.words, "--resume"
        return self.words

    @property
    def command(self) -> str:
        """The command line of the run."""
        return shlex.join(["python3", *self.words])

    def is_done(self, trials: Trials) -> bool:
        """Whether the run can be skipped."""
        if self.drawn:
            return True
        if self.config:
            return self.has_row(trials) and (self.proof == "row" or self.has_files())
        if self.words[0] == "kfold.py":
            return is_finished(self.words[1:])
        try:
            return Path(self.proof).exists() and self.origin.read_text() == self.fingerprint()
        except OSError:
            return False

    def lacks_only_files(self, trials: Trials) -> bool:
        """Whether there is all but files of runs that have rows: its own, or those that it reads."""
        if self.config:
            return self.has_row(trials)
        return bool(self.gone) and Path(self.proof).exists() and all(name in trials.rows for name in self.gone)

    def has_row(self, trials: Trials) -> bool:
        """Whether there is a row, of a run with this seed that kept all workers, and of the one that wrote the log."""
        trial = trials.rows.get(self.name)
        return (
            trial is not None
            and trial.config.seed == self.config.seed
            and not trial.remark
            and not trials.is_outdated(self.log)
        )

    def is_proof(self, name: str) -> bool:
        """Whether the file of this name says that the run is done."""
        return name == (self.log if self.config else Path(self.proof)).name

    def has_files(self) -> bool:
        """Whether a training run has left all that is read of it later."""
        draws_weights = self.proof == "files" and self.config.saves_per_epoch is not None
        endings = [ARTIFACTS[kind] for kind in ("model", *(["weights"] if draws_weights else []))]
        return self._has_log() and all((self.folder / f"{self.name}{ending}").exists() for ending in endings)

    def _has_log(self) -> bool:
        """Whether there is the log of a run with this seed that kept all workers.

        One without a seed has the name of the default seed.
        """
        seed = header_of(self.log).get("config", {}).get("seed", "no log")
        return seed == self.config.seed and not result_of(self.log).get("lost_workers")

    @property
    def origin(self) -> Path:
        """The file that holds the fingerprint of what the proof was made from."""
        proof = Path(self.proof)
        return proof.with_name(f".{proof.name}.origin")

    def made(self) -> tuple[int, int] | None:
        """What changes whenever the proof is written; None if it is not there."""
        try:
            found = Path(self.proof).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def fingerprint(self) -> str:
        """A digest of the command and the content of its input files."""
        digest = hashlib.sha256(os.fsencode(self.command))
        for path in self.inputs:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()


def parse_plan(lines: Iterable[str]) -> list[PlannedRun]:
    """The runs of a plan, without duplicates."""
    return without_duplicates(PlannedRun.parse(line) for line in lines if line.strip())


def mark_drawn(runs: Sequence[PlannedRun], trials: Trials, drawn: Sequence[Path]) -> list[PlannedRun]:
    """The runs; marked as drawn if nothing but files is missing, and all that is `drawn` from these is here."""
    waiting = [run for run in runs if not run.is_done(trials)]
    if not waiting or not drawn or not all(path.exists() for path in drawn):
        return list(runs)
    only_files = all(run.lacks_only_files(trials) for run in waiting)
    return [replace(run, drawn=only_files) for run in runs]


def without_duplicates(runs: Iterable[PlannedRun]) -> list[PlannedRun]:
    """Each run once. Raises UsageError for two that have the same name and different settings."""
    found: dict[str, PlannedRun] = {}
    for run in runs:
        first = found.setdefault(run.name, run)
        if run.config and run.config != first.config:
            names = [f"--{name}" for name in ROWS if getattr(run.config, name) != getattr(first.config, name)]
            raise UsageError(f"{', '.join(names)}: not in the names of runs, so that those with other values would "
                             f"overwrite each other: give one value")  # fmt: skip
    return list(found.values())
