"""The examples in the documentation: they are run in a copy of the project, and their outputs compared.

python tests/pages.py PAGE   runs the examples of a page and prints what each one prints.

In a page, a ``bash`` block is run, and a ``text`` block right after it is its output. A ``python`` block with a title
is a file of that name (or goes to the end of it); one without is run. A line ``…`` in an output stands for any lines, a
``…`` in a line for any text. A comment ``<!-- not run: REASON -->`` before a block exempts it.
"""

import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+?) -->\n+)?^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n"
    r"(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
NOT_COPIED = (".git", ".venv", "data", "runs", "results", "quickstart", "site", "plots", "__pycache__", ".*_cache")
NUMBER = r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)"
# How long something took on this machine, which no other machine repeats; and deviations of a few runs.
REAL_TIME = re.compile(
    rf"{NUMBER}(?= s of real time| s \(| gradients/s)|\d\d:\d\d(?= left)|(?<=about ){NUMBER}(?= (?:s|min|h) with)|"
    rf"(?<=± ){NUMBER}"
)
# Relative: another kind of processor, or version of torch, adds in another order, and training amplifies the last bits.
# Numbers below 1 are losses near their minimum, and places in a landscape, which differ more.
TOLERANCE, TOLERANCE_BELOW_1 = 0.15, 0.35
AT_END = ", at its end"


@dataclass(frozen=True)
class Example:
    """A block of a page that is executed or written; output: what it prints, None if the page does not show it."""

    language: str
    title: str | None
    code: str
    output: str | None


def examples_of(text: str) -> list[Example]:
    """The examples of a page, in order."""
    blocks, examples = list(FENCE.finditer(text)), []
    for block, following in zip(blocks, [*blocks[1:], None], strict=False):
        if block["language"] in ("bash", "python") and not block["reason"]:
            shown = following and following["language"] == "text" and not text[block.end() : following.start()].strip()
            examples.append(
                Example(block["language"], block["title"], block["code"], following["code"] if shown else None)
            )
    return examples


def copy_project(folder: Path) -> Path:
    """A copy of the project, in which an example may change files."""
    return Path(shutil.copytree(ROOT, folder / "suite", ignore=shutil.ignore_patterns(*NOT_COPIED), symlinks=True))


def execute(example: Example, folder: Path) -> str:
    """Write or run an example in a copy of the project; returns what it prints. Raises CalledProcessError."""
    if example.title:
        path = folder / example.title.removesuffix(AT_END)
        with path.open("a" if example.title.endswith(AT_END) else "x", encoding="utf-8") as file:
            file.write("\n" + example.code if example.title.endswith(AT_END) else example.code)
        return ""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment |= {"VENV": str(folder / "no environment"), "PATH": path}
    command = ["bash", "-euo", "pipefail", "-c"] if example.language == "bash" else [sys.executable, "-c"]
    done = subprocess.run(
        [*command, example.code], cwd=folder, env=environment, text=True, timeout=300, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True,
    )  # fmt: skip
    return done.stdout


def same_line(expected: str, found: str) -> bool:
    """Whether a line of output is the expected one, up to white space, real times and the tolerance of numbers."""
    pattern, numbers, place = "", [], 0
    for match in re.finditer(rf"{REAL_TIME.pattern}|{NUMBER}|…|\s+", expected):
        pattern += re.escape(expected[place : match.start()])
        place, text = match.end(), match[0]
        if REAL_TIME.match(expected, match.start()):
            pattern += r"[\d.,:]+"
        elif text == "…":
            pattern += ".*?"
        elif text.isspace():
            pattern += r"\s+"
        else:
            pattern += r"([\d.,]+(?:e[-+]?\d+)?)"
            numbers.append(text)
    matched = re.fullmatch(pattern + re.escape(expected[place:]) + r"\s*", found)
    return matched is not None and all(map(close, numbers, matched.groups()))


def close(expected: str, found: str) -> bool:
    """Whether two numbers, as texts, are equal up to the tolerance."""
    one, other = (float(text.replace(",", "")) for text in (expected, found))
    return math.isclose(one, other, rel_tol=TOLERANCE if one >= 1 else TOLERANCE_BELOW_1, abs_tol=0.02)


def difference(expected: str, found: str) -> str:
    """Empty if an output is the expected one; otherwise what is missing."""
    lines, place = found.splitlines(), 0
    chunks = [chunk.splitlines() for chunk in re.split(r"^…\n", expected, flags=re.MULTILINE)]
    for number, chunk in enumerate(chunks):
        last = number == len(chunks) - 1
        starts = range(place, len(lines) - len(chunk) + 1)
        starts = starts[:1] if number == 0 else starts[-1:] if last and chunk else starts
        for start in starts:
            if all(map(same_line, chunk, lines[start : start + len(chunk)])):
                place = start + len(chunk)
                break
        else:
            return "not found, or not there:\n" + "\n".join(chunk) + "\n\nin:\n" + found
    return found if place < len(lines) and chunks[-1] else ""


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        project = copy_project(Path(folder))
        for example in examples_of(Path(sys.argv[1]).read_text(encoding="utf-8")):
            print(f"\n$ {example.title or example.code}", flush=True)
            try:
                printed = execute(example, project)
            except subprocess.CalledProcessError as error:
                sys.exit(f"{error.output}\nexit code {error.returncode}")
            print(printed)
            if example.output is not None and (wrong := difference(example.output, printed)):
                print(f"DIFFERENT: {wrong}")
