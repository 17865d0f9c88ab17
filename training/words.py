"""A configuration in words, for titles, tables and messages, from the phrases in the rows of its flags."""

from collections.abc import Collection, Sequence
from typing import Any

from catalogue import DATASETS
from training.config import RunConfig, algorithms_of, applies, default_of, experiment_of
from training.flags import Scope, Title, filled
from training.settings import MODE_TITLES, ROWS


def table_columns() -> dict[str, str]:
    """Setting → column heading, for all settings that change training, in a table for readers."""
    settings = {name: row.label for name, row in ROWS.items() if row.scope is Scope.TRAINING and name != "seed"}
    return {"mode": "mode"} | {name: label for name, label in settings.items() if label}


def table_cell(config: RunConfig, name: str) -> str:
    """The value of a setting in a table for readers."""
    if name == "mode":
        return MODE_TITLES[config.mode]
    value = {"world_size": config.workers, "network": config.network_name}.get(name, getattr(config, name))
    if isinstance(value, bool):
        return phrase_of(config, name) or "none"
    if value is None or config.mode not in ROWS[name].modes:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def plain_values(config: RunConfig) -> dict[str, Any]:
    """The values of all settings that change training, for programs; workers, network and optimiser by name."""
    values = {"mode": config.mode, "network": config.network_name, "optimizer": phrase_of(config, "alr")}
    values["workers"] = config.workers
    named = {"network", "alt_model", "alr", "world_size", "seed"}
    return values | {
        name: getattr(config, name) for name, row in ROWS.items() if row.scope is Scope.TRAINING and name not in named
    }


def phrase_of(config: RunConfig, name: str) -> str:
    """One setting in words; empty if it does not apply to the run."""
    row, value = ROWS[name], getattr(config, name)
    if not applies(config, name) or not row.needs.met(config):
        return ""
    if value is None or value is False:
        return row.off
    return row.phrase.format(value) if isinstance(row.phrase, str) else row.phrase(config)


def algorithm_in_words(config: RunConfig) -> str:
    """The algorithm with its optimiser, as in "asynchronous SGD"."""
    title = config.rule.title if config.distributed else f"{MODE_TITLES[config.mode]} SGD"
    return title.replace("SGD", "Adam") if config.alr else title


def headline(config: RunConfig) -> str:
    """Network, data set, algorithm, optimiser and workers."""
    workers = f", {phrase_of(config, 'world_size')}" if config.distributed else ""
    return f"{config.network_name} on {DATASETS[config.dataset].title}, {algorithm_in_words(config)}{workers}"


def in_common(config: RunConfig, *differing: str) -> str:
    """What runs that differ in the number of workers, the seed and these settings have in common, in words."""
    network, _, _ = headline(config).rpartition(", ")
    return ", ".join([network, *settings_in_words(experiment_of(config), without=differing)])


def settings_in_words(config: RunConfig, without: Collection[str] = ()) -> list[str]:
    """The training settings that the headline leaves out, each in words, except those in `without`."""
    names = [name for name in ROWS if name not in without and belongs_in_title(config, name)]
    names.sort(key=lambda name: ROWS[name].title is not Title.ALWAYS)
    return [phrase for name in names if (phrase := phrase_of(config, name))]


def belongs_in_title(config: RunConfig, name: str) -> bool:
    """Whether the title of a run contains a setting, below the headline."""
    row = ROWS[name]
    changed = row.scope is Scope.TRAINING and not is_usual(config, name)
    return row.title is Title.ALWAYS or (row.title is Title.CHANGED and changed)


def is_usual(config: RunConfig, name: str) -> bool:
    """Whether a setting has its default, given or filled in, that goes without saying."""
    value, row = getattr(config, name), ROWS[name]
    if name == "algorithm" and config.distributed:
        return value == algorithms_of(config.mode)[0]
    return value == default_of(name) or (row.suffix is not None and value == filled(row, config))


def shared_in_words(configs: Sequence[RunConfig]) -> str:
    """The algorithm, the workers and the settings that all of these runs have, in words."""

    def phrases(config: RunConfig) -> list[str]:
        workers = [phrase_of(config, "world_size")] if config.distributed else []
        return [algorithm_in_words(config), *workers, *settings_in_words(config)]

    others = [phrases(config) for config in configs[1:]]
    return ", ".join(phrase for phrase in phrases(configs[0]) if all(phrase in other for other in others))


def differences_in_words(configs: list[RunConfig]) -> list[list[str]]:
    """For each configuration, the settings in which the configurations differ, in words.

    A setting that does not apply counts as not given.
    """
    usual = RunConfig(mode="async")
    columns = [[algorithm_in_words(config) for config in configs], [config.network_name for config in configs]]
    for name in (name for name in ROWS if name not in ("algorithm", "alr", "alt_model", "network")):
        phrases = [phrase_of(config, name) for config in configs]
        without = phrase_of(usual, name) if ROWS[name].title is Title.CHANGED else ""
        if len({phrase or ROWS[name].off or without for phrase in phrases}) > 1:
            columns.append([phrase or (ROWS[name].off if applies(config, name) else "")
                            for phrase, config in zip(phrases, configs, strict=True)])  # fmt: skip
    different = [column for column in columns if len(set(column)) > 1]
    return [[column[place] for column in different if column[place]] for place in range(len(configs))]
