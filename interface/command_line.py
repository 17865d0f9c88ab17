"""Command-line conventions: checked numbers, one clear line per error, a traceback only for bugs."""

import argparse
import gc
import io
import logging
import math
import os
import re
import select
import signal
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from interface.errors import DataError, UsageError

ROOT = Path(__file__).resolve().parents[1]
BUG = 70  # exit code for a bug in the suite: EX_SOFTWARE in sysexits.h
ISSUES = "the project's issue tracker"
BITS = 63  # of an integer; torch, numpy and files can hold no more


class ValueType(ABC):
    """The values that a flag takes: a container of them that is also argparse's `type`.

    what: the valid values in words; text: the same in brackets after a help text; metavar: as in argparse;
    pattern: how a value reads in the name of a file.
    """

    what: str
    text: str
    metavar: str
    pattern: str

    @abstractmethod
    def __contains__(self, value: Any) -> bool: ...

    @abstractmethod
    def parse(self, text: str) -> Any:
        """The value that a text stands for. Raises ValueError if there is none."""

    def __call__(self, text: str) -> Any:
        try:
            return self.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not valid: give {self.what_instead_of(text)}") from error

    def what_instead_of(self, text: str) -> str:
        """The valid values in words, for the message about one that is not."""
        return self.what

    def in_name(self, value: Any) -> str:
        """A value as it stands in the name of a file; `parse` reads it."""
        return str(value)


def count(number: int, noun: str) -> str:
    """A number with its noun, in the singular or the plural."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


class Interval(ValueType):
    """Numbers of one type between two bounds, in mathematical notation: ``"(0,1]"``; ``"[1,inf]"`` includes inf."""

    def __init__(self, kind: type, text: str) -> None:
        self.kind = kind
        self.text = text
        low, high = text[1:-1].split(",")
        self.low, self.high = float(low), float(high)
        self.what = f"{'an integer' if kind is int else 'a number'} in {text}"
        self.metavar = "N" if kind is int else "F"
        self.pattern = r"\d+|inf" if kind is int else r"[-+.\de]+|inf"

    def __contains__(self, value: Any) -> bool:
        if value == math.inf:
            return self.text.endswith("inf]")
        if isinstance(value, bool) or not isinstance(value, (int, self.kind)) or value != value:  # NaN
            return False
        if isinstance(value, int) and value.bit_length() > BITS:
            return False
        above = self.low <= value if self.text[0] == "[" else self.low < value
        below = value <= self.high if self.text[-1] == "]" else value < self.high
        return above and below

    def parse(self, text: str) -> Any:
        value = math.inf if text == "inf" else self.kind(text)
        if value not in self:
            raise ValueError(text)
        return value

    def what_instead_of(self, text: str) -> str:
        too_long = self.kind is int and text.isdecimal() and len(text) >= len(str(2**BITS))
        return f"an integer below 2^{BITS}" if too_long else self.what

    def in_name(self, value: Any) -> str:
        return "inf" if value == math.inf else repr(self.kind(value))


class Joined(argparse.Action):
    """Several values of a flag as one text, which its `type`, a ValueType, then parses; use it with nargs="+"."""

    def __init__(self, *arguments: Any, joined: ValueType, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.joined = joined

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        try:
            setattr(namespace, self.dest, self.joined(" ".join(values)))
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from error


def script_name() -> str:
    """What messages call the running script: its file, or of a package its folder."""
    path = Path(sys.argv[0])
    return path.parent.name if path.name == "__main__.py" else path.name


class ArgumentParser(argparse.ArgumentParser):
    """An argparse parser without abbreviations; it takes the script's docstring and reports errors in one line.

    In a path, ~ is the home folder: a shell does not expand it after =. hints: flag of another script → what to give
    here.
    """

    def __init__(self, description: str, hints: Mapping[str, str] | None = None, **options: Any) -> None:
        self.hints = hints or {}
        options = {"prog": script_name(), "formatter_class": argparse.RawDescriptionHelpFormatter} | options
        super().__init__(description=description, allow_abbrev=False, **options)
        self.register("type", Path, lambda text: Path(text).expanduser())

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None) -> Any:
        """Like argparse's own, but suggests a similar flag for a mistyped one."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._suggest(unknown)}")
        return parsed

    def _suggest(self, unknown: Sequence[str]) -> str:
        flags = sorted(set(re.findall(r"--\w+", self.format_help())))
        mistyped = [text.partition("=")[0] for text in unknown if text.startswith("--")]
        known = [self.hints[text] for text in mistyped if text in self.hints]
        if known:
            return f": {'; '.join(known)}"
        meant = [match for text in mistyped for match in get_close_matches(text, flags, n=1)]
        return f"; did you mean {' '.join(meant)}?" if meant else ""

    def error(self, message: str) -> NoReturn:
        greedy = [flag for action in self._actions if action.nargs == "+" for flag in action.option_strings]
        if message.startswith("the following arguments are required") and set(greedy) & set(sys.argv):
            message += f"; give them before {' and '.join(greedy)}, which takes all values up to the next flag"
        self.exit(2, f"{self.prog}: error: {printable(message)}\n")


def interrupt(signal_number: int, frame: object) -> NoReturn:
    """Treat SIGTERM and SIGHUP like Ctrl-C."""
    raise KeyboardInterrupt


def add_device_flags(add: Callable[..., object]) -> None:
    """The flags of scripts that can compute on a GPU."""
    add("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: compute on one NVIDIA GPU (default cpu)")
    add(
        "--tf32",
        action="store_true",
        default=False,
        help="let the GPU compute products in TF32: faster, and less precise",
    )


def run_script(main: Callable[[], None]) -> NoReturn:
    """Run a script's main function and exit.

    Exit codes: 0 success, 1 failure (DataError, OSError, a package that is not installed), 2 wrong usage (UsageError),
    130 interrupted; errors take one line. Any other exception is a bug in the suite: its traceback is printed, and the
    exit code is 70.
    """
    gc.set_threshold(5000)  # new objects before a collection, not 700: importing torch makes many, which stay
    script = script_name()
    open_standard_streams()
    logging.basicConfig(format=f"{script}: %(levelname)s: %(message)s", level=logging.WARNING)
    logging.addLevelName(logging.WARNING, "warning")
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, interrupt)
    try:
        try:
            main()
        finally:
            flush_output()
            gc.freeze()  # the collection at exit would examine every object of torch and scikit-learn
        sys.exit(0)
    except UsageError as error:
        sys.exit(complain(script, error, 2))
    except (DataError, OSError) as error:
        sys.exit(complain(script, error, 1))
    except KeyboardInterrupt:
        sys.exit(complain(script, "interrupted", 130))
    except Exception as error:
        if missing := missing_package(error):
            advice = "activate the environment of the suite (source .venv/bin/activate), or see docs/install.md"
            sys.exit(complain(script, f"the package {missing} is not installed for {sys.executable}: {advice}", 1))
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        report = f"please report it to {ISSUES}, with the lines above and the command"
        message = f"this is a bug in the suite ({reason}{place_of(error)}), or in code that was added to it; {report}"
        sys.exit(complain(script, message, BUG))


def missing_package(error: Exception) -> str:
    """The package, not one of this project's, that is not installed; empty for any other error."""
    name = (error.name or "") if isinstance(error, ModuleNotFoundError) else ""
    ours = (ROOT / name).is_dir() or (ROOT / f"{name}.py").is_file()
    return "" if ours or "." in name else name  # a module that a package lacks belongs to a version that is not meant


def place_of(error: BaseException) -> str:
    """The last line of this project, not of a library, that an exception went through; empty if there is none."""
    frames = (frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(ROOT))
    own = [frame for frame in frames if "site-packages" not in Path(frame.filename).parts]
    return f"; {Path(own[-1].filename).relative_to(ROOT)}, line {own[-1].lineno}" if own else ""


def open_standard_streams() -> None:
    """Let stdin, stdout and stderr exist, and never fail on a character that their encoding does not have.

    A closed one is replaced by /dev/null, so that no other file gets its number.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush_output() -> None:
    """Flush stdout. Raises OSError if it cannot be written, and discards any later output."""
    try:
        print(end="", flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again at exit
        raise OSError(error.errno, error.strerror, "standard output") from error


def output_has_no_reader() -> bool:
    """Whether stdout is a pipe that nobody reads any more, as after `| head`."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def complain(script: str, error: object, code: int) -> int:
    """Print an error as one line; return the exit code."""
    if isinstance(error, OSError) and error.filename is not None:
        error = f"{error.filename2 or error.filename}: {error.strerror}"
    elif isinstance(error, BrokenPipeError) and output_has_no_reader():
        error = f"standard output: {error.strerror}"
    print(f"{script}: error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
    return code


def printable(text: str) -> str:
    """A text in one line, with escapes for control characters."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
