"""The name of a run's files, and back: the published grammar, and a suffix for whatever it cannot tell apart."""

import re
from pathlib import Path

from common import DATASETS, DEFAULT_SEED
from training.options import DELAY_INTENSITIES, DELAY_TYPES, LEARNING_RATE_SCHEDULES, MODES, RunConfig

ARTIFACTS = {"model": "_model.pt", "weights": "_weights.npy", "log": "_log.log"}

PARTITION_NAMES = {
    "none": "",
    "split_dataset": "_split_dataset",
    "split_labels": "_labels",
    "split_labels_unscaled": "_labels_unscaled",
}

# Suffix → field and type, for what the published grammar does not hold; written where it differs from the default.
EXTRA_SUFFIXES = {
    "split": ("train_split", float),
    "lr": ("lr", float),
    "momentum": ("momentum", float),
    "ms": ("delay_ms", float),
    "lambda": ("compensation_lambda", float),
    "compute": ("compute_ms", float),
    "seed": ("seed", int),
}
FLAG_SUFFIXES = {"adaptive": ("compensation_mode", "adaptive"), "virtual": ("clock", "virtual")}
FILLED_IN = {"compensation_lambda": 2.0, "compute_ms": 10.0, "seed": DEFAULT_SEED}


def encode(value: float) -> str:
    """A number as the names hold it: str(float) without its dot, 0.005 → 0005."""
    return str(float(value)).replace(".", "")


def decode(text: str) -> float:
    """The number that most plausibly was encoded so: 0005 → 0.005, 100 → 10.0, 15 → 1.5, 1e-05."""
    digits, _, exponent = text.partition("e")
    if not exponent and not digits.startswith("0") and digits.endswith("0"):
        return float(digits[:-1])
    return float(f"{digits[0]}.{digits[1:] or '0'}{'e' + exponent if exponent else ''}")


def run_name(config: RunConfig) -> str:
    """The base of the names of a run's files. Two configurations that train differently never share it."""
    name = "_".join(
        [
            config.dataset,
            config.mode,
            str(0 if config.mode == "classic" else config.world_size),
            encode(config.train_split * 10),
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
    name += PARTITION_NAMES[config.partition]
    name += "_delay" if config.delay else ""
    name += "_slow_worker_1" if config.slow_worker_1 else ""
    name += f"_{config.delay_intensity}" if config.delay_intensity else ""
    name += f"_{config.delay_type}" if config.delay_type else ""
    name += "_comp" if config.compensation else ""
    return name + extra_suffix(config)


def extra_suffix(config: RunConfig) -> str:
    """What the published grammar does not hold of a configuration."""
    readable = {
        "train_split": decode(encode(config.train_split * 10)) / 10,
        "lr": decode(encode(config.lr)),
        "momentum": decode(encode(config.momentum)),
    }
    suffix = ""
    for key, (field, kind) in EXTRA_SUFFIXES.items():
        value = getattr(config, field)
        if value is not None and value != {**FILLED_IN, **readable}.get(field):
            suffix += f"_{key}{kind(value)!r}"
    for key, (field, value) in FLAG_SUFFIXES.items():
        suffix += f"_{key}" if getattr(config, field) == value else ""
    return suffix + ("_replay" if config.replay else "")


def one_of(choices: object) -> str:
    return "|".join(map(re.escape, choices))


NAME = re.compile(
    rf"(?P<dataset>{one_of(DATASETS)})_(?P<mode>{one_of(MODES)})_(?P<world_size>\d+)"
    r"_(?P<train_split>\d+(?:e[-+]?\d+)?)_(?P<lr>\d+(?:e[-+]?\d+)?)_(?P<momentum>\d+(?:e[-+]?\d+)?)"
    r"_(?P<batch_size>\d+)_(?P<epochs>\d+)_(?P<optimizer>SGD|ADAM)"
    rf"(?:_(?P<lrs>{one_of(LEARNING_RATE_SCHEDULES)}))?(?:_spe(?P<saves_per_epoch>\d+))?"
    r"(?P<val>_val)?(?P<alt_model>_alt_model)?(?P<partition>_split_dataset|_labels_unscaled|_labels|)"
    rf"(?P<delay>_delay)?(?P<slow_worker_1>_slow_worker_1)?(?:_(?P<delay_intensity>{one_of(DELAY_INTENSITIES)}))?"
    rf"(?:_(?P<delay_type>{one_of(DELAY_TYPES)}))?(?P<compensation>_comp)?(?P<extra>(?:_[a-z]+[-+.\de]*)*?)"
    r"(?:_partial\d*)?"
)


def parse_run_name(name: str) -> RunConfig:
    """The configuration of a run from the base of its files' names.

    Raises ValueError if the name does not follow the grammar or names a run that cannot be.
    """
    match = NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name}: not the name of a run ({{dataset}}_{{mode}}_{{world_size}}_…_{{SGD|ADAM}}…)")
    try:
        return RunConfig(**settings_of(match.groupdict()))
    except ValueError as error:
        raise ValueError(f"{name}: not the name of a run ({error})") from error


def settings_of(part: dict[str, str | None]) -> dict[str, object]:
    """The settings that the groups of NAME hold."""
    settings = {
        "dataset": part["dataset"],
        "mode": part["mode"],
        "train_split": decode(part["train_split"]) / 10,
        "lr": decode(part["lr"]),
        "momentum": decode(part["momentum"]),
        "batch_size": int(part["batch_size"]),
        "epochs": int(part["epochs"]),
        "alr": part["optimizer"] == "ADAM",
        "lrs": part["lrs"],
        "saves_per_epoch": int(part["saves_per_epoch"]) if part["saves_per_epoch"] else None,
        "partition": next(key for key, value in PARTITION_NAMES.items() if value == part["partition"]),
        "delay_intensity": part["delay_intensity"],
        "delay_type": part["delay_type"],
    }
    settings |= {key: bool(part[key]) for key in ("val", "alt_model", "delay", "slow_worker_1", "compensation")}
    if part["mode"] != "classic":
        settings["world_size"] = int(part["world_size"])
    for suffix in filter(None, part["extra"].split("_")):
        settings |= parse_suffix(suffix)
    return settings


def parse_suffix(suffix: str) -> dict[str, object]:
    if suffix in FLAG_SUFFIXES:
        return dict([FLAG_SUFFIXES[suffix]])
    if suffix == "replay":
        return {"replay": "log"}  # of which log, its own record tells
    key, value = re.fullmatch(r"([a-z]+?)([-+.\d].*)?", suffix).groups()
    if key not in EXTRA_SUFFIXES or value is None:
        raise ValueError(f"unknown part _{suffix}")
    field, kind = EXTRA_SUFFIXES[key]
    return {field: kind(value)}


def base_of(path: str | Path) -> str:
    """The base of an artifact's name: without its folder and without _model.pt, _weights.npy or _log.log.

    Raises ValueError for another ending.
    """
    name = Path(path).name
    for ending in ARTIFACTS.values():
        if name.endswith(ending):
            return name.removesuffix(ending)
    raise ValueError(f"{path}: not the name of a run's file; it ends in none of {', '.join(ARTIFACTS.values())}")
