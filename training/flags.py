"""One row per flag: default, check, help, suffix in a run's name, phrase for titles, scope. Loads no torch."""

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum
from typing import Any

from interface.command_line import Interval

MODES = ("classic", "sync", "async")
DISTRIBUTED = ("sync", "async")


class Scope(Enum):
    """What a setting is about. Runs that differ in TRAINING settings are different experiments."""

    TRAINING = "changes training"
    PLACE = "where it runs"
    KEPT = "what is kept"


class Title(Enum):
    """When a setting is named in the title of a run's figures."""

    ALWAYS = "always"
    CHANGED = "where it is not the default"
    HEADLINE = "in the headline, not among the settings"


@dataclass(frozen=True)
class Needs:
    """A condition without which a flag has no effect; `otherwise` reads after "has no effect"."""

    met: Callable[[Any], bool]
    otherwise: str


ALWAYS = Needs(lambda config: True, "")


@dataclass(frozen=True, kw_only=True)
class Flag:
    """All there is to know of a flag, but for its name and default, which are those of its dataclass field.

    valid: an interval, or the choices, or None for free text; modes: the scripts that have it;
    needs: what it has no effect without; fills: the value that it takes where it has an effect and is not given;
    suffix: what the name of a run holds besides the published grammar: this word (booleans, free text), this word and
    the value (numbers), or the value itself ("", for choices); None where the published grammar holds it already;
    unnamed: the value that the name does not hold (by default the one that is used when the flag is not given);
    label: heading of a column, and what a title calls it; phrase: the value in a title, a format string or a function
    of the configuration; off: the phrase where it is not given; column: its name in tables for programs, if not the
    field's; argparse: further options of add_argument; local: may differ between the machines of one run.
    """

    help: str
    valid: Interval | Collection[str] | None = None
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


def flag(default: Any, help: str, valid: Interval | Collection[str] | None = None, **row: Any) -> Any:
    """A field of a dataclass of flags; `row` is the rest of its Flag."""
    return dataclasses.field(default=default, metadata={"flag": Flag(help=help, valid=valid, **row)})


def row_of(field: dataclasses.Field) -> Flag | None:
    """The row of a field; None for one that is no flag."""
    return field.metadata.get("flag")
