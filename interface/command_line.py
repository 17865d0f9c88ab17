"""The manners of every script: numbers that check themselves, and one clear line for whatever goes wrong."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from interface.errors import DataError, UsageError


class Interval:
    """Numbers of one type between two bounds, written as in mathematics: ``"(0,1]"``.

    Called with a flag's text it returns the number, so that it serves as argparse's `type`.
    """

    def __init__(self, kind: type, text: str) -> None:
        self.kind = kind
        self.text = text
        low, high = text[1:-1].split(",")
        self.low, self.high = float(low), float(high)
        self.what = f"{'an integer' if kind is int else 'a number'} in {text}"

    def __contains__(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, self.kind)) or value != value:  # NaN
            return False
        above = self.low <= value if self.text[0] == "[" else self.low < value
        below = value <= self.high if self.text[-1] == "]" else value < self.high
        return above and below

    def __call__(self, text: str) -> Any:
        try:
            value = self.kind(text)
        except ValueError:
            value = None
        if value not in self:
            raise argparse.ArgumentTypeError(f"{text!r} is not valid: give {self.what}")
        return value


class ArgumentParser(argparse.ArgumentParser):
    """argparse without abbreviations, whose description is the script's docstring, and with one line an error."""

    def __init__(self, description: str, **options: Any) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, allow_abbrev=False, formatter_class=formatter, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def interrupt(signal_number: int, frame: object) -> NoReturn:
    """Take SIGTERM for Ctrl-C."""
    raise KeyboardInterrupt


def run_script(main: Callable[[], None]) -> NoReturn:
    """Run a script's main and end the process: 0 complete, 1 failed, 2 wrong usage, 130 interrupted.

    A ValueError is a user's mistake, a DataError or OSError something outside that does not work: each
    becomes one line. Anything else is a bug of ours and shows its traceback.
    """
    script = Path(sys.argv[0]).name
    logging.basicConfig(format=f"{script}: %(levelname)s: %(message)s", level=logging.WARNING)
    logging.addLevelName(logging.WARNING, "warning")
    signal.signal(signal.SIGTERM, interrupt)
    try:
        try:
            main()
        finally:
            flush_output()
        sys.exit(0)
    except (UsageError, ValueError) as error:
        sys.exit(complain(script, error, 2))
    except (DataError, OSError) as error:
        sys.exit(complain(script, error, 1))
    except KeyboardInterrupt:
        sys.exit(complain(script, "interrupted", 130))


def flush_output() -> None:
    """Raises OSError, once and for all, if what was printed cannot be written."""
    try:
        print(end="", flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again at the end
        raise OSError(error.errno, error.strerror, "standard output") from error


def complain(script: str, error: object, code: int) -> int:
    """Print an error as one line; return the exit code."""
    if isinstance(error, OSError) and error.filename is not None:
        error = f"{error.filename2 or error.filename}: {error.strerror}"
    print(f"{script}: error: {' '.join(str(error).split())}", file=sys.stderr)
    return code
