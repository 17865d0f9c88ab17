"""Write and parse the names of a run's files: the published grammar, then suffixes for all other settings.

The published grammar is fixed. Suffixes are derived from the rows of the flags (training/flags.py): numbers first, then
words, each in the order of the flags.
"""

import functools
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

from catalogue import DATASETS, PARTITIONS
from interface.command_line import ValueType
from interface.errors import UsageError
from training.algorithms import ALGORITHMS
from training.config import RunConfig, algorithms_of, applies, default_of
from training.flags import MODES, filled
from training.settings import DELAY_INTENSITIES, LEARNING_RATE_SCHEDULES, ROWS
from training.timing import DELAY_TYPES

ARTIFACTS = {"model": "_model.pt", "weights": "_weights.npy", "log": "_log.log"}
CHECKPOINT = "_checkpoint.pt"  # of a run that is not complete
ENCODED = ("train_split", "lr", "momentum")  # written without the decimal point in the published grammar


def encode(value: float) -> str:
    """A number as written in published names: str(float) without the decimal point, 0.005 → 0005."""
    return str(float(value)).replace(".", "")


def decode(text: str) -> float:
    """The most plausible number for an encoded text: 0005 → 0.005, 100 → 10.0, 15 → 1.5, 1e-05."""
    digits, _, exponent = text.partition("e")
    if not exponent and not digits.startswith("0") and digits.endswith("0"):
        return float(digits[:-1])
    return float(f"{digits[0]}.{digits[1:] or '0'}{'e' + exponent if exponent else ''}")


def scaled(value: float, factor: int | str) -> float:
    """The product of the decimal numbers, without the rounding of binary ones: 0.46 for 0.046 and 10."""
    return float(Decimal(repr(value)) * Decimal(factor))


def run_name(config: RunConfig) -> str:
    """The common base of the names of a run's files. Configurations that train differently have different names."""
    name = "_".join(
        [
            config.dataset,
            config.mode,
            str(config.world_size if config.distributed else 0),
            encode(scaled(config.train_split, 10)),
            encode(config.lr),
            encode(config.momentum),
            str(config.batch_size),
            str(config.epochs),
            "ADAM" if config.alr else "SGD",
        ]
    )
    name += f"_{config.lrs}" if config.lrs else ""
    name += f"_spe{config.saves_per_epoch}" if config.saves_per_epoch else ""
    name += "_val" if config.val else ""
    name += "_alt_model" if config.alt_model else ""
    name += PARTITIONS[config.partition].suffix
    name += "_delay" if config.delay else ""
    name += "_slow_worker_1" if config.slow_worker_1 else ""
    name += f"_{config.delay_intensity}" if config.delay_intensity else ""
    name += f"_{config.delay_type}" if config.delay_type else ""
    name += "_comp" if config.compensation else ""
    return name + "".join(suffix_of(config, field) for field in suffixed())


# ----------------------------------------------------------------------------------------------------
# Suffixes
# ----------------------------------------------------------------------------------------------------


@functools.cache
def suffixed() -> tuple[str, ...]:
    """The settings that have a suffix, in the order of the suffixes."""
    names = [name for name, row in ROWS.items() if row.suffix is not None]
    return tuple(sorted(names, key=lambda name: not isinstance(ROWS[name].valid, ValueType)))


def suffix_of(config: RunConfig, name: str) -> str:
    """The suffix for one setting; empty if the value needs none."""
    row, value = ROWS[name], getattr(config, name)
    if value is None or value is False or value == unnamed_value(config, name):
        return ""
    if isinstance(row.valid, ValueType):
        return f"_{row.suffix}{row.valid.in_name(value)}"
    return f"_{row.suffix}{value}" if row.valid is not None else f"_{row.suffix}"


def unnamed_value(config: RunConfig, name: str) -> Any:
    """The value of a setting that adds no suffix to a name."""
    row = ROWS[name]
    if name in ENCODED:  # the value that parsing the published part yields
        if name == "train_split":
            return scaled(decode(encode(scaled(config.train_split, 10))), "0.1")
        return decode(encode(getattr(config, name)))
    if name == "algorithm" and config.distributed:
        return algorithms_of(config.mode)[0]
    used = filled(row, config) if default_of(name) is None and applies(config, name) else default_of(name)
    return used if row.unnamed is None else row.unnamed


@functools.cache
def suffix_patterns() -> dict[str, re.Pattern[str]]:
    """Setting → pattern of its suffix, with the group `value` if the suffix contains one."""
    return {name: re.compile(f"_{_pattern(name)}(?=_|$)") for name in suffixed()}


def _pattern(name: str) -> str:
    row = ROWS[name]
    if isinstance(row.valid, ValueType):
        return f"{row.suffix}(?P<value>{row.valid.pattern})"
    if row.valid is not None:
        return f"{row.suffix}(?P<value>{one_of(row.valid)})"
    return row.suffix


def parse_suffixes(text: str) -> dict[str, Any]:
    """Parse the suffixes at the end of a name. Raises UsageError for an unknown suffix."""
    settings: dict[str, Any] = {}
    while text:
        matches = {name: match for name, pattern in suffix_patterns().items() if (match := pattern.match(text))}
        if not matches:
            raise UsageError(f"unknown part {text}")
        name, match = max(matches.items(), key=lambda item: item[1].end())
        settings[name] = suffix_value(name, match.groupdict().get("value"))
        text = text[match.end() :]
    return settings


def suffix_value(name: str, text: str | None) -> Any:
    """The value in a suffix; "unknown" for free text, which names do not contain."""
    valid = ROWS[name].valid
    if isinstance(valid, ValueType):
        try:
            return valid.parse(text)
        except ValueError as error:
            raise UsageError(f"{text!r} is not valid: give {valid.what}") from error
    if text is None:
        return True if default_of(name) is False else "unknown"
    return text


# ----------------------------------------------------------------------------------------------------
# Parsing
# ----------------------------------------------------------------------------------------------------


def one_of(choices: object) -> str:
    """A pattern that matches any of the choices, trying the longest first."""
    return "|".join(map(re.escape, sorted(choices, key=len, reverse=True)))


_NUMBER = r"\d+(?:e[-+]?\d+)?"
# The suffix of an algorithm such as delay_adaptive is not a delay.
_DELAYS = one_of(name.removeprefix("delay") for name in ALGORITHMS if name.startswith("delay_"))
PUBLISHED = re.compile(
    rf"(?P<dataset>{one_of(DATASETS)})_(?P<mode>{one_of(MODES)})_(?P<world_size>\d+)"
    rf"_(?P<train_split>{_NUMBER})_(?P<lr>{_NUMBER})_(?P<momentum>{_NUMBER})"
    r"_(?P<batch_size>\d+)_(?P<epochs>\d+)_(?P<optimizer>SGD|ADAM)"
    rf"(?:_(?P<lrs>{one_of(LEARNING_RATE_SCHEDULES)}))?(?:_spe(?P<saves_per_epoch>\d+))?"
    rf"(?P<val>_val)?(?P<alt_model>_alt_model)?(?P<partition>{one_of(row.suffix for row in PARTITIONS.values())})"
    rf"(?P<delay>_delay(?!{_DELAYS}))?(?P<slow_worker_1>_slow_worker_1)?(?:_(?P<delay_intensity>{one_of(DELAY_INTENSITIES)}))?"
    rf"(?:_(?P<delay_type>{one_of(DELAY_TYPES)}))?(?P<compensation>_comp)?(?P<suffixes>_.*?)??(?:_partial\d*)?"
)


@functools.lru_cache(maxsize=10_000)
def parse_run_name(name: str) -> RunConfig:
    """Parse the base of a run's file names into its configuration.

    Raises UsageError if the name does not follow the grammar or describes an invalid run.
    """
    match = PUBLISHED.fullmatch(name)
    if match is None:
        raise UsageError(f"{name}: not the name of a run ({{dataset}}_{{mode}}_{{world_size}}_…_{{SGD|ADAM}}…)")
    try:
        return RunConfig(**published_settings(match.groupdict()) | parse_suffixes(match["suffixes"] or ""))
    except UsageError as error:
        raise UsageError(f"{name}: not the name of a run ({error})") from error


def published_settings(part: dict[str, str | None]) -> dict[str, object]:
    """The settings in the groups of PUBLISHED."""
    settings = {
        "dataset": part["dataset"],
        "mode": part["mode"],
        "train_split": scaled(decode(part["train_split"]), "0.1"),
        "lr": decode(part["lr"]),
        "momentum": decode(part["momentum"]),
        "batch_size": int(part["batch_size"]),
        "epochs": int(part["epochs"]),
        "alr": part["optimizer"] == "ADAM",
        "lrs": part["lrs"],
        "saves_per_epoch": int(part["saves_per_epoch"]) if part["saves_per_epoch"] else None,
        "partition": next(key for key, row in PARTITIONS.items() if row.suffix == part["partition"]),
        "delay_intensity": part["delay_intensity"],
        "delay_type": part["delay_type"],
    }
    settings |= {key: bool(part[key]) for key in ("val", "alt_model", "delay", "slow_worker_1", "compensation")}
    if part["mode"] != "classic":
        settings["world_size"] = int(part["world_size"])
    return settings


def base_of(path: str | Path) -> str:
    """The base of an artifact's name: without its folder and without _model.pt, _weights.npy or _log.log.

    Raises UsageError for any other ending.
    """
    name = Path(path).name
    for ending in ARTIFACTS.values():
        if name.endswith(ending):
            return name.removesuffix(ending)
    raise UsageError(f"{path}: not the name of a run's file; it must end in one of {', '.join(ARTIFACTS.values())}")
