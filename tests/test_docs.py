"""The documentation says what the code does: its examples are run, and its tables have every flag."""

import re
import subprocess

import pytest

from catalogue import PARTITIONS
from conftest import ROOT
from pages import AT_END, FENCE, copy_project, difference, examples_of, execute, same_line
from training.algorithms import ALGORITHMS
from training.command_line import make_parser
from training.config import default_of
from training.flags import MODES
from training.settings import ROWS

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
NAMES = {str(path.relative_to(ROOT)): path for path in (ROOT / "README.md", *PAGES)}


@pytest.mark.parametrize("name", [name for name, path in NAMES.items() if examples_of(path.read_text())])
def test_examples(name, tmp_path):
    project = copy_project(tmp_path)
    for example in examples_of(NAMES[name].read_text(encoding="utf-8")):
        try:
            printed = execute(example, project)
        except subprocess.CalledProcessError as error:
            pytest.fail(f"{example.code}\nends with exit code {error.returncode}:\n{error.output}")
        if example.output is not None:
            wrong = difference(example.output, printed)
            assert not wrong, f"{example.code}\n{wrong}"


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_well_formed(name):
    """Every block has a language, and one whole heading of the first level comes first."""
    text = NAMES[name].read_text(encoding="utf-8")
    assert text.startswith("# ") and text.count("```") % 2 == 0
    assert not re.findall(r"^```\n(?=.*?^```)", FENCE.sub("", text), re.MULTILINE | re.DOTALL)
    outside = FENCE.sub("", text)
    assert len(re.findall(r"^# ", outside, re.MULTILINE)) == 1


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text()))
    assert listed == {str(path.relative_to(DOCS)) for path in PAGES}


def test_own_additions_are_short_and_complete():
    """Each addition is one file of ten to thirty lines, and a row for it."""
    files = [example for example in examples_of((DOCS / "extend.md").read_text()) if example.title]
    written = [example for example in files if not example.title.endswith(AT_END)]
    assert len(written) >= 4
    assert all(8 <= len(example.code.split("\n")) - example.code.count("\n\n") <= 31 for example in written)


# ----------------------------------------------------------------------------------------------------
# Flags
# ----------------------------------------------------------------------------------------------------


def rows_of(page: str) -> list[list[str]]:
    """The cells of all rows of all tables of a page."""
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]


def test_the_page_of_flags_has_every_flag_with_its_default():
    rows = rows_of("flags.md")
    partitions = {name for name in PARTITIONS if name != "none"}
    for name in {name for name in ROWS if name != "partition"} | partitions:
        found = [row for row in rows if re.search(rf"`--{name}\b", row[0])]
        assert len(found) == 1, name
        if name in ROWS and not isinstance(default_of(name), bool):
            used = ROWS[name].fills if default_of(name) is None else default_of(name)
            assert used is None or callable(used) or str(used) in found[0][-1], (name, found)


def test_the_page_of_flags_has_no_other_flag():
    shown = {flag for row in rows_of("flags.md") for flag in re.findall(r"`--(\w+)", row[0])}
    assert shown == {name for mode in MODES for name in re.findall(r"^  --(\w+)", make_parser(mode, "").format_help(),
                                                                   re.MULTILINE)}  # fmt: skip


SCRIPTS = ("test_model", "loss_landscape", "loss_landscape_multi", "kfold", "nb_params")


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_page_of_a_script_has_every_flag(script, nursery):
    help_text = nursery.run(f"{script}.py", "--help").output
    flags = set(re.findall(r"^  (--\w+|[A-Z]+)\b", help_text, re.MULTILINE)) - {"-h"}
    shown = {flag for row in rows_of(f"scripts/{script}.md") for flag in re.findall(r"`(--\w+|[A-Z]+)", row[0])}
    assert shown == flags


DRIVERS = sorted(path.stem for path in (ROOT / "scripts").glob("*.sh"))


def settings_of(driver: str) -> set[str]:
    """The settings that a driver lists."""
    done = subprocess.run(["bash", ROOT / "scripts" / f"{driver}.sh", "--help"], capture_output=True, text=True,
                          check=True, timeout=60)  # fmt: skip
    return set(re.findall(r"^  --(\w+)", done.stdout, re.MULTILINE))


@pytest.mark.parametrize("driver", [name for name in DRIVERS if name.startswith("run_") and name != "run_tests"])
def test_the_page_of_a_driver_has_every_setting(driver):
    shared = {flag for row in rows_of("drivers/index.md") for flag in re.findall(r"`--(\w+)", row[0])}
    page = "run_kfold" if driver == "run_kfold_full" else driver
    own = {flag for row in rows_of(f"drivers/{page}.md") for flag in re.findall(r"`--(\w+)", row[0])}
    assert settings_of(driver) <= shared | own
    assert own <= settings_of(driver) | {"alr"}


def test_the_page_of_drivers_names_each_of_them():
    text = (DOCS / "drivers/index.md").read_text()
    assert [name for name in DRIVERS if f"{name}.sh" not in text and name != "lib"] == []


def test_the_page_of_algorithms_has_each_with_its_source():
    text = (DOCS / "algorithms.md").read_text(encoding="utf-8")
    for name, algorithm in ALGORITHMS.items():
        row = next((line for line in text.splitlines() if line.startswith(f"| `{name}`")), None)
        assert row, name
        for number in re.findall(r"arXiv (\d{4}\.\d{5})", algorithm.__doc__):
            assert number in row, (name, number)


# ----------------------------------------------------------------------------------------------------
# How outputs are compared
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "found", "same"),
    [
        ("loss 0.1242", "loss 0.1250", True),
        ("loss 0.1242", "loss 0.25", False),
        ("3 workers", "3 worker", False),
        ("in 2.8 s of real time", "in 99.1 s of real time", True),
        ("runs/a_4_100.log", "runs/a_5_100.log", False),
        ("a … b 7", "a long way to b 7", True),
        ("a   b", "a b", True),
    ],
)
def test_lines_are_compared_up_to_the_last_bits(expected, found, same):
    assert same_line(expected, found) is same


@pytest.mark.parametrize(
    ("expected", "found", "same"),
    [
        ("a\nb\n", "a\nb\n", True),
        ("a\n", "a\nb\n", False),
        ("…\nb\n", "a\nb\n", True),
        ("a\n…\n", "a\nb\nc\n", True),
        ("a\n…\nc\n", "a\nb\nc\n", True),
        ("a\n…\nb\n", "a\nb\nc\n", False),
        ("b\n…\n", "a\nb\n", False),
    ],
)
def test_outputs_are_compared_line_by_line(expected, found, same):
    assert (difference(expected, found) == "") is same
