"""One row per flag: default, check, help, suffix in a run's name, phrase for titles, scope. Does not import torch."""

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum
from typing import Any

from interface.command_line import ValueType

MODES = ("classic", "sync", "async")
DISTRIBUTED = ("sync", "async")


class Scope(Enum):
    """What a setting affects. Runs that differ in TRAINING settings are different experiments."""

    TRAINING = "changes training"
    PLACE = "where it runs"
    KEPT = "what is kept"


class Title(Enum):
    """When the title of a run's figures lists a setting."""

    ALWAYS = "always"
    CHANGED = "where it is not the default"
    HEADLINE = "in the headline, not among the settings"


@dataclass(frozen=True)
class Needs:
    """A condition without which a flag has no effect; `otherwise` completes the message "… has no effect"."""

    met: Callable[[Any], bool]
    otherwise: str


ALWAYS = Needs(lambda config: True, "")


@dataclass(frozen=True, kw_only=True)
class Flag:
    """Everything about a flag except its name and default, which are those of its dataclass field.

    valid: an interval, the choices, or None for free text; modes: the training modes that have the flag;
    needs: the condition for it to have an effect; fills: its value if it has an effect and is not given, or a function
    of the configuration;
    suffix: what it adds to the published name of a run: this word (booleans, free text), this word and the value
    (numbers), or the value itself ("", for choices); None if the published grammar already covers it;
    unnamed: the value that adds no suffix (default: the value used if the flag is not given);
    label: column heading; phrase: the value in a title, as a format string or a function of the configuration;
    off: the phrase if it is not given; argparse: further arguments of add_argument;
    local: whether it may differ between the machines of one run.
    """

    help: str
    valid: ValueType | Collection[str] | None = None
    modes: tuple[str, ...] = MODES
    scope: Scope = Scope.TRAINING
    needs: Needs = ALWAYS
    fills: Any = None
    suffix: str | None = None
    unnamed: Any = None
    label: str = ""
    phrase: str | Callable[[Any], str] = ""
    off: str = ""
    title: Title = Title.CHANGED
    argparse: dict[str, Any] = dataclasses.field(default_factory=dict)
    local: bool = False


def flag(default: Any, help: str, valid: ValueType | Collection[str] | None = None, **row: Any) -> Any:
    """A dataclass field for a flag; `row`: the other fields of Flag."""
    return dataclasses.field(default=default, metadata={"flag": Flag(help=help, valid=valid, **row)})


def filled(row: Flag, config: Any) -> Any:
    """The value of a flag that has an effect and is not given."""
    return row.fills(config) if callable(row.fills) else row.fills


def row_of(field: dataclasses.Field) -> Flag | None:
    """The Flag of a dataclass field; None if the field is not a flag."""
    return field.metadata.get("flag")
