"""The errors that are reported in one line; any other exception except OSError is a bug in the suite."""


class UsageError(Exception):
    """Wrong usage on the command line; the message names the flag, the value and what is valid. Exit code 2."""


class NoEffectError(UsageError):
    """A setting that would have no effect. setting: its name, without dashes."""

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(message)
        self.setting = setting


class DataError(Exception):
    """A file, data set or process that cannot be used; the message names it and says why. Exit code 1."""


def first_line(error: Exception) -> str:
    """The first line of an error's text, for one-line messages; its class if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
