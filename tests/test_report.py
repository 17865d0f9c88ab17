"""compare.sh and report.sh: any comparison in one command, and a page that answers it, opened in a real browser."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from analysis.report.figures import curves_figure, in_epochs
from analysis.report.runs import compare, read_folder
from analysis.reports.trials import Trials
from conftest import PUBLISHED, ROOT, needs_published, train
from interface.errors import UsageError
from nursery import DEAD_PROXY
from scripts.compare import combine, make_parser, read_values
from scripts.estimate import in_words, sleeping_seconds, total_seconds
from scripts.plan import PlannedRun, without_duplicates
from test_drivers import drive
from training.config import RunConfig

QUESTION = ("--modes", "sync", "async", "--workers", 5, "--partitions", "split_labels", "--slow_worker_1")

# ----------------------------------------------------------------------------------------------------
# What a comparison consists of
# ----------------------------------------------------------------------------------------------------


def combined(line: str):
    """The comparison of a command line."""
    given = vars(make_parser().parse_args(line.split()))
    for name in ("jobs", "scheduler", "keep", "results", "dry_run", "verbose", "names"):
        given.pop(name)
    names, values = set(given), read_values(given)
    return combine(values, names, {"subfolder": "runs"})


def test_every_combination_is_one_run():
    found = combined("--workers 2 5 --partitions none split_labels --momentum 0 0.9 --seeds 1 2 --epochs 1")
    assert len(found.configs) == 2 * 2 * 2 * 2 * 2 and not found.left_out and not found.without_effect
    assert [config.seed for config in found.configs] == [1] * 16 + [2] * 16  # whole seeds
    assert {(config.mode, config.workers) for config in found.configs} == {
        (mode, workers) for mode in ("sync", "async") for workers in (2, 5)
    }


def test_what_means_nothing_is_left_out_and_told():
    found = combined(
        "--modes classic sync async --workers 3 5 --partitions split_labels --seeds 1 --compensation yes no"
    )
    assert [config.mode for config in found.configs] == ["classic", "sync", "async", "async"]
    assert [config.compensation for config in found.configs] == [False, False, True, False]
    assert list(found.left_out) == [
        "--world_size 4 is not valid with --split_labels on the 10 labels of digits: give one of --world_size 3, 6, 11"
    ]
    assert "--compensation has no effect on synchronous runs" in found.without_effect
    assert "--evals_per_epoch 2 has no effect on non-distributed runs" not in found.without_effect  # nobody gave it


def test_algorithms_go_to_the_mode_that_has_them():
    found = combined("--algorithms ssp backup dude --seeds 1")
    assert [(config.mode, config.algorithm) for config in found.configs] == [
        ("sync", "backup"), ("async", "ssp"), ("async", "dude")
    ]  # fmt: skip
    found = combined("--algorithms ssp --slack 0 4 --seeds 1")
    assert [(config.algorithm, config.slack) for config in found.configs] == [
        ("average", None), ("ssp", 0), ("ssp", 4)
    ]  # fmt: skip


def test_values_of_several_words():
    assert {one.worker_speeds for one in combined("--workers 3 --worker_speeds 1 0.5 1").configs} == {"1.0 0.5 1.0"}
    given = vars(make_parser().parse_args(["--workers", "2", "--worker_speeds", "1 0.5", "spread:0.3"]))
    assert given["worker_speeds"] == ["1.0 0.5", "spread:0.3"]
    assert {one.split_dirichlet for one in combined("--split_dirichlet 0.1 1").configs} == {0.1, 1.0}
    with pytest.raises(UsageError, match="give one of the two"):
        combined("--split_dirichlet 0.1 --partitions none")


def test_partitions_and_a_label_skew_in_one_comparison():
    alphas = "split_dirichlet:0.123456789 split_dirichlet:1"
    found = combined(f"--partitions none split_labels {alphas} --seeds 1 --modes async")
    assert [(one.partition, one.split_dirichlet) for one in found.configs] == [
        ("none", None), ("split_labels", None), ("split_dirichlet", 0.123456789), ("split_dirichlet", 1.0)
    ]  # fmt: skip


def test_a_home_folder_is_expanded_as_in_the_scripts():
    (config, *_) = combined("--data_dir=~/data --seeds 1 --modes async").configs
    assert config.data_dir == str(Path.home() / "data")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--delay_ms 10 30", "--delay_ms 30.0 has no effect without --delay or --slow_worker_1"),
        ("--modes sync --compensation", "--compensation has no effect on synchronous runs"),
        (
            "--modes classic --partitions none split_dirichlet:1",
            "--split_dirichlet 1.0 has no effect on",
        ),
        ("--modes classic --algorithms dude", "--algorithms dude has no effect without --modes async"),
        ("--modes sync --algorithms average asgd", "--algorithms asgd has no effect without --modes async"),
        ("--algorithms backup --backup_workers 7", "--backup_workers 7 is not valid"),
    ],
)
def test_a_setting_that_no_run_has_is_refused(line, message):
    with pytest.raises(UsageError, match=message):
        combined(line)


@pytest.mark.parametrize("line", ["--threads 1 2 --clock wall", "--model_accuracy yes no", "--device cpu cuda"])
def test_runs_that_would_overwrite_each_other_are_refused(line):
    with pytest.raises(UsageError, match=f"^{line.split()[0]}: not in the names of runs"):
        without_duplicates(map(PlannedRun.of, combined(line).configs))


@pytest.mark.parametrize(
    ("script", "flags", "hint"),
    [
        ("scripts/compare.sh", "--world_size 3", "give --workers, which does not count the server"),
        ("scripts/compare.sh", "--split_labels", "give --partitions split_labels"),
        ("scripts/compare.sh", "--partitions split_dirichlet", "split_labels_unscaled, split_dirichlet:F"),
        ("nonDistributed.py", "--clock virtual", "--clock is for synchronous and asynchronous runs"),
        ("dist_sync.py", "--compensation", "--compensation is for asynchronous runs"),
        ("dist_async.py", "--workers 3", "give --world_size, the number of workers + 1 for the server"),
        ("dist_async.py", "--epoch 3", "did you mean --epochs?"),
    ],
)
def test_a_flag_of_another_script_leads_to_that_of_this_one(script, flags, hint):
    command = ["bash"] if script.endswith(".sh") else [sys.executable]
    done = subprocess.run([*command, ROOT / script, *flags.split(), *["--dry_run"] * script.endswith(".sh")],
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and hint in done.stderr


def test_a_planned_run_is_its_command():
    line = ("--algorithms fedbuff dude backup --worker_speeds 1 0.5 1 1 1 --stops first total --delay --delay_ms 20 "
            "--lrs cosine_annealing --split_dirichlet 0.5 --local_steps 2 --alt_model yes no --val")  # fmt: skip
    for config in combined(line).configs:
        run = PlannedRun.of(config)
        again = PlannedRun.parse(f"row {run.command.removeprefix('python3 ')}")
        assert again.config == config and again.name == run.name


def test_estimates_grow_with_the_work():
    small, large = (RunConfig(mode="async", dataset="digits", epochs=epochs) for epochs in (1, 100))
    assert total_seconds([small], 1) < total_seconds([small] * 2, 1) < total_seconds([large], 1)
    asleep = dataclasses.replace(large, delay=True, delay_ms=1000.0)
    assert total_seconds([asleep], 1) > 4400 > 10 * total_seconds([dataclasses.replace(asleep, clock="virtual")], 1)
    halved = dataclasses.replace(asleep, delay=False, slow_worker_1=True)  # by one of two workers, twice as long
    assert sleeping_seconds(halved) == 2 * sleeping_seconds(asleep)
    assert [in_words(value) for value in (0.2, 300, 7300, None)] == ["about 1 s", "about 5 min", "about 2.0 h", ""]


def test_a_dry_run_tells_number_and_time_and_changes_nothing(tmp_path):
    words = drive("compare", *QUESTION, "--dry_run", cwd=tmp_path, timeout=20)
    assert re.search(r"^6 runs: 0 done, 6 to do, about \d+ s with --jobs 1$", words, re.MULTILINE)
    assert "python3" not in words and not list(tmp_path.iterdir())
    words = drive("compare", *QUESTION, "--dry_run", "--verbose", cwd=tmp_path, timeout=20)
    assert words.count("python3 dist_async.py") == 3
    words = drive("compare", "--workers", 3, "--partitions", "split_labels", "--dry_run", cwd=tmp_path, code=2)
    assert "Not run (2 combinations): --workers 3 is not valid" in words and "give one of --workers 2, 5, 10" in words
    assert "no run is left" in words


# ----------------------------------------------------------------------------------------------------
# The page
# ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> Path:
    """The folder of a comparison: the new user's question, in little."""
    folder = tmp_path_factory.mktemp("compared")
    words = drive("compare", *QUESTION, "--epochs", 4, "--seeds", 1, 2, "--results", "runs", "--jobs", 2, cwd=folder)
    assert "Report of 4 runs of 2 settings" in words
    return folder / "runs"


def test_a_comparison_leaves_a_table_a_page_and_figures(compared):
    for name in ("summary.md", "report.html", "report_curves.png", "report_curves.pdf", "report_differences.pdf"):
        assert (compared / name).stat().st_size > 500, name
    words = drive("compare", *QUESTION, "--epochs", 4, "--seeds", 1, 2, "--results", compared, cwd=compared.parent)
    assert "4 runs, 4 already done" in words


def test_the_page_is_one_file_that_needs_no_network(compared):
    page = (compared / "report.html").read_text()
    own = page.replace(re.search(r"<script>/\*\*.*?</script>", page, re.DOTALL)[0], "")  # all but plotly.js
    assert "http" not in own and not re.findall(r"{{\w+}}", own)
    data = json.loads(re.search(r'type="application/json">(.*?)</script>', own, re.DOTALL)[1])
    trials = Trials(compared).rows
    for setting in data["settings"]:
        for run in setting["runs"]:
            outcome = trials[run["name"]].outcome
            assert run["accuracy"] == pytest.approx(outcome.test_accuracy, rel=1e-5)
            assert run["test"][2] == pytest.approx([one[2] for one in outcome.evaluations], rel=1e-5)
            assert sum(run["histogram"][1]) == outcome.updates
            assert (compared / run["link"]).exists()


def test_a_report_measures_what_no_sweep_has(compared, tmp_path):
    for path in [*compared.glob("*_log.log"), *compared.glob("*_model.pt")]:
        shutil.copy(path, tmp_path)
    before = sorted(tmp_path.iterdir())
    runs = list(read_folder(tmp_path, tmp_path, "data"))
    assert {run.trial.name: run.outcome for run in runs} == {
        name: trial.outcome for name, trial in Trials(compared).rows.items()
    }
    assert sorted(tmp_path.iterdir()) == before
    for path in tmp_path.glob("*_model.pt"):
        path.unlink()
    logs_only = compare(list(read_folder(tmp_path, tmp_path, "data")))
    assert [len(setting.runs) for setting in logs_only.settings] == [2, 2]
    assert [one.cells for one in logs_only.settings] == [("synchronous",), ("asynchronous",)]
    known = {trial.name: trial.outcome for trial in Trials(compared).rows.values()}
    for run in logs_only.runs:
        for what in ("test_accuracy", "test_loss", "converged"):
            assert getattr(run.outcome, what) == pytest.approx(getattr(known[run.trial.name], what)), what


def test_an_unreadable_log_costs_only_its_own_run(compared, nursery, tmp_path):
    folder = tmp_path / "a#1"  # a name that a link has to quote
    shutil.copytree(compared, folder)
    (folder / "other_log.log").touch()
    for script, code in (("analysis/report/__main__.py", 0), ("analysis/conclude.py", 1)):
        (folder / "report.html").unlink()
        ended = nursery.run(script, folder, folder=tmp_path)
        assert ended.code == code and "other_log.log" in ended.errors
        assert "left out" in ended.errors
        page = (folder / "report.html").read_text()
        links = re.findall(r'"link":"([^"]*)"', page)
        assert len(links) == 4 and all((folder / unquote(link)).is_file() for link in links)


def test_a_trial_without_its_log_does_not_replace_the_run(compared, tmp_path):
    runs = [run for folder in (compared, tmp_path) for run in read_folder(folder, compared, "data")]
    assert len(runs) == 8 and all(run.log is not None for run in compare(runs).runs)


def test_the_figure_shows_a_first_worker_that_finished_below_all_curves(compared):
    runs = [
        dataclasses.replace(run, trial=dataclasses.replace(run.trial, outcome=dataclasses.replace(
            run.outcome, first_left_update=1, first_left_seconds=0.001, first_left_accuracy=1.0)))
        for run in read_folder(compared, compared, "data")
    ]  # fmt: skip
    low, high = curves_figure(compare(runs)).axes[0].get_ylim()
    assert low < 1 and high > 50


@pytest.fixture(scope="module")
def uneven(tmp_path_factory) -> Path:
    """A run whose epochs have different numbers of updates: rounds get shorter as workers leave."""
    folder = tmp_path_factory.mktemp("uneven")
    train("dist_sync.py", folder, "--split_dirichlet", 0.3, "--worker_speeds", 1, 0.5, 0.25, "--world_size", 4,
          "--algorithm", "malenia", "--clock", "virtual", "--train_split", 0.2, "--epochs", 3, "--val",
          "--evals_per_epoch", 2)  # fmt: skip
    return folder


def test_evaluations_are_drawn_at_their_epochs_although_updates_are_uneven(uneven):
    (run,) = read_folder(uneven, uneven, "data")
    updates = [update for _, update, _ in run.outcome.evaluations]
    assert len(set(np.diff([0, *updates]))) > 1
    epochs, first = in_epochs(run)
    assert epochs.tolist() == [0.5, 1, 1.5, 2, 2.5, 3]
    assert np.interp(first, [0, *epochs], [0, *updates]) == pytest.approx(run.outcome.first_left_update)


@needs_published
def test_published_logs_and_single_runs_are_reported(compared, monkeypatch, tmp_path):
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, DEAD_PROXY)
    drive("report", PUBLISHED, "--data_dir", tmp_path / "no data", "--output", tmp_path / "page.html", cwd=tmp_path)
    assert "asynchronous SGD, LeNet5" in (tmp_path / "page.html").read_text()
    assert not (PUBLISHED / "trials.jsonl").exists()
    (log,) = compared.glob("*_async_*_seed1_*_log.log")
    for path in (log, log.with_name(log.name.replace("_log.log", "_model.pt"))):
        shutil.copy(path, tmp_path)
    assert "Report of 1 run of 1 setting;" in drive("report", tmp_path, cwd=tmp_path)


@pytest.mark.parametrize("driver", ["compare", "report"])
def test_help_installs_nothing(driver, tmp_path):
    words = drive(driver, "--help", cwd=tmp_path, timeout=20)
    assert f"bash scripts/{driver}.sh" in words and "--data_dir" in words and "Installing" not in words


def test_a_folder_without_runs_is_refused(tmp_path):
    assert "no complete run to report" in drive("report", tmp_path, cwd=tmp_path, code=1)
    assert "no such folder" in drive("report", tmp_path / "none", cwd=tmp_path, code=2)


# ----------------------------------------------------------------------------------------------------
# In a browser
# ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Chromium, as Debian packages it."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser) -> Iterator[Callable]:
    """Opens a page, which may neither fail nor ask for anything but itself."""
    problems = []

    def visit(page: Path, width: int = 1400, scheme: str = "light"):
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("request", lambda request: problems.append(request.url) if request.url != page.as_uri() else None)
        tab.goto(page.as_uri())
        tab.wait_for_selector("#staleness .main-svg")
        return tab

    yield visit
    assert [problem for problem in problems if not problem.startswith("data:")] == []


def lines_in(tab, figure: str) -> list[str]:
    """The names of what a figure's legend lists."""
    return tab.evaluate(f"byId('{figure}').data.filter((one) => one.name).map((one) => one.name)")


def test_histograms_of_different_widths_are_added_in_proportion(compared, visit):
    runs = [{"bin_width": 2, "histogram": [[0, 2], [4, 6]]}, {"bin_width": 3, "histogram": [[0, 3], [3, 9]]}]
    counts, width = visit(compared / "report.html").evaluate(
        "(runs) => { const [counts, width] = stalenessCounts(runs); return [[...counts], width]; }", runs
    )
    assert (counts, width) == ([[0, 4 + 3 + 3], [3, 3 + 9]], 3)


def test_ticking_filtering_and_sorting(compared, visit):
    tab = visit(compared / "report.html")
    assert "4 runs of 2 settings, 2 seeds" in tab.inner_text("#summary")
    assert lines_in(tab, "curves") == ["synchronous SGD", "asynchronous SGD"]
    tab.uncheck("input[aria-label='draw synchronous SGD']")
    assert lines_in(tab, "curves") == lines_in(tab, "staleness") == ["asynchronous SGD"]
    tab.click("#show-all")
    tab.fill("#filter", "asynchronous")
    assert tab.locator("tr.setting").count() == 1
    tab.fill("#filter", "")
    accuracies = []
    for _ in range(2):
        tab.click("th:has-text('test accuracy, %')")
        cells = tab.locator("tr.setting td:nth-child(4)").all_inner_texts()
        accuracies.append([float(cell.split()[0]) for cell in cells])
    assert accuracies == [sorted(accuracies[0]), sorted(accuracies[0], reverse=True)]
    tab.click("tr.setting >> nth=0")
    links = tab.locator("td.runs a").evaluate_all("links => links.map((link) => link.getAttribute('href'))")
    assert len(links) == 2 and all((compared / link).exists() for link in links)
    points = "byId('times').data.reduce((sum, one) => sum + one.x.length, 0)"
    assert tab.evaluate(points) == 4
    tab.locator("td.runs input").first.uncheck()
    assert tab.evaluate(points) == 3 and len(lines_in(tab, "curves")) == 2
    tab.locator("td.runs input").last.uncheck()
    assert tab.evaluate(points) == 2 and len(lines_in(tab, "curves")) == 1
    tab.locator("td.runs input").last.check()
    assert tab.evaluate(points) == 3


def test_the_choices_of_the_figures(compared, visit):
    tab = visit(compared / "report.html")
    for abscissa, title in (("updates", "updates"), ("epochs", "epochs"), ("time", "virtual-clock time (s)")):
        tab.select_option("#abscissa", abscissa)
        assert tab.evaluate("byId('curves').layout.xaxis.title.text") == title
    for quantity in ("test_loss", "staleness"):
        tab.select_option("#quantity", quantity)
        drawn = tab.evaluate("byId('curves').data.filter((one) => one.name).map((one) => one.y)")
        assert len(drawn) == 2 and all(line and None not in line for line in drawn)
    sync, asynchronous = drawn
    assert set(sync) == {0} and max(asynchronous) > 1
    tab.select_option("#quantity", "training")
    assert tab.evaluate("byId('curves').layout.yaxis.title.text") == "training loss"
    before = tab.evaluate("byId('curves').data.length")
    tab.uncheck("#bands")
    tab.uncheck("#seeds")
    assert tab.evaluate("byId('curves').data.length") == before - 2 - 4
    tab.fill("#target", "99.9")
    tab.press("#target", "Enter")
    assert "99.9 %" in tab.evaluate("byId('times').layout.xaxis.title.text")
    assert set(tab.evaluate("byId('times').data.flatMap((one) => one.marker.symbol)")) == {"triangle-right-open"}
    assert tab.locator("tr.setting >> text=never").count() == 2


def test_curves_stand_at_their_epochs_although_updates_are_uneven(uneven, nursery, visit):
    nursery.run("analysis/report/__main__.py", uneven, folder=uneven).went_well()
    tab = visit(uneven / "report.html")
    drawn = "byId('curves').data.find((one) => one.name).x"
    tab.select_option("#abscissa", "epochs")
    assert tab.evaluate(drawn) == pytest.approx([0.5, 1, 1.5, 2, 2.5, 3])
    tab.select_option("#quantity", "validation")
    assert tab.evaluate(drawn) == pytest.approx([1, 2, 3])
    tab.select_option("#abscissa", "updates")
    (run,) = read_folder(uneven, uneven, "data")
    assert tab.evaluate(drawn) == [update for _, update, _ in run.outcome.evaluations[1::2]]


def test_differences_are_paired_by_seed(compared, visit):
    tab = visit(compared / "report.html")
    outcomes = {(trial.config.mode, trial.seed): trial.outcome for trial in Trials(compared).rows.values()}
    differences = [outcomes["async", seed].test_accuracy - outcomes["sync", seed].test_accuracy for seed in (1, 2)]
    (shown,) = tab.evaluate("byId('differences').data[0].x")
    assert shown == pytest.approx(sum(differences) / 2, abs=1e-3)
    (half,) = tab.evaluate("byId('differences').data[0].error_x.array")
    assert half == pytest.approx(12.7062 * abs(differences[0] - differences[1]) / 2, rel=1e-3)
    tab.select_option("#baseline", "1")
    assert tab.evaluate("byId('differences').data[0].x") == [pytest.approx(-shown)]


@pytest.mark.parametrize("width", [390, 800, 1920])
def test_widths_and_colour_schemes(width, compared, visit):
    papers = []
    for scheme in ("light", "dark"):
        tab = visit(compared / "report.html", width, scheme)
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        papers.append(tab.evaluate("byId('curves').layout.paper_bgcolor"))
    assert papers[0] != papers[1]


def test_many_runs(compared, visit, tmp_path):
    trials, many = list(Trials(compared).rows.values()), Trials(tmp_path)
    for number in range(250):
        base = trials[number % 4]
        config = dataclasses.replace(base.config, seed=number % 10, lr=(1 + number // 10) / 1000)
        many.add(dataclasses.replace(base, name=f"run{number}", seed=number % 10, config=config))
    drive("report", tmp_path, cwd=tmp_path)
    tab = visit(tmp_path / "report.html")
    assert "250 runs of 50 settings" in tab.inner_text("#summary") and len(lines_in(tab, "curves")) == 8
    tab.click("#show-all")
    assert len(lines_in(tab, "curves")) == 50
