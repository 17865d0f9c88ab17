"""The settings of several groups of runs: in which they differ, and which they share."""

from collections.abc import Sequence

from analysis.reports.trials import Group
from training.config import RunConfig, applies
from training.flags import Title
from training.settings import MODE_TITLES, ROWS
from training.words import is_usual, phrase_of, table_cell, table_columns


def settings_of(group: Group) -> dict[str, str]:
    """Setting → its value in a table, of all that shape training, of the clock, and what is remarkable."""
    settings = {name: table_cell(group.config, name) for name in table_columns()}
    return settings | {"clock": group.clock, "remark": group.remark}


def varying_and_shared(groups: Sequence[Group]) -> tuple[list[str], list[str]]:
    """The settings in which groups differ, and those that they share.

    Neither has those that differ although no group changes them, such as the algorithms of different modes.
    """
    cells = [settings_of(one) for one in groups]
    different = [name for name in cells[0] if len({one[name] for one in cells}) > 1]
    varying = [name for name in different if name not in ROWS or any(changes(one.config, name) for one in groups)]
    return varying, [name for name in cells[0] if name not in different]


def changes(config: RunConfig, name: str) -> bool:
    """Whether a run has a setting, and not with its usual value."""
    if name == "network":  # or chosen by --alt_model
        return config.alt_model or config.network is not None
    return applies(config, name) and not is_usual(config, name)


def shared_in_words(group: Group, names: Sequence[str]) -> str:
    """What all runs have in common."""
    phrases = [MODE_TITLES[group.config.mode]] if "mode" in names else []
    for name in (name for name in names if name != "mode"):
        if name == "remark":
            phrases.append(group.remark)
        elif name == "clock":
            phrases.append(f"{group.clock} clock")
        elif ROWS[name].title is not Title.CHANGED or not is_usual(group.config, name):
            phrases.append(phrase_of(group.config, name))
    return ", ".join(phrase for phrase in phrases if phrase)
