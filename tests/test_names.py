"""Names tell runs apart, and every name is read back to the configuration that it stands for."""

import argparse
import dataclasses
import random
import re

import pytest

from conftest import PUBLISHED, needs_published
from interface.command_line import Interval, ValueType
from interface.errors import UsageError
from training.algorithms import ALGORITHMS
from training.config import RunConfig, default_of, experiment_of
from training.flags import MODES, Scope
from training.names import base_of, decode, encode, parse_run_name, run_name, suffixed
from training.settings import OWNERS, ROWS

EXAMPLE = "fashion_mnist_async_11_100_0005_09_32_6_SGD_spe3_labels_delay_slow_worker_1_long_constant"


def test_the_example_of_the_contract():
    config = RunConfig(
        mode="async", dataset="fashion_mnist", world_size=11, lr=0.005, momentum=0.9, epochs=6, saves_per_epoch=3,
        partition="split_labels", delay=True, slow_worker_1=True, delay_intensity="long", delay_type="constant",
    )  # fmt: skip
    assert run_name(config) == EXAMPLE
    assert parse_run_name(EXAMPLE) == config


def test_the_part_of_the_training_set_is_written_as_it_was_given():
    for part in (0.046, 0.57, 1 / 3, 1e-05):
        name = run_name(RunConfig(mode="async", dataset="digits", train_split=part))
        assert parse_run_name(name).train_split == part
    assert "_046_" in run_name(RunConfig(mode="async", dataset="digits", train_split=0.046))
    for percent in range(1, 101):  # decimal numbers, which binary ones multiplied by 10 only approach
        assert "_split" not in run_name(RunConfig(mode="async", dataset="digits", train_split=percent / 100))


def test_names_of_long_lists_of_speeds_tell_runs_apart():
    flags = {"mode": "async", "dataset": "digits", "clock": "virtual"}
    for count in (20, 1000):
        speeds = [1 / number for number in range(3, 3 + count)]
        names = []
        for text in (" ".join(map(str, speeds)), " ".join(map(str, reversed(speeds)))):
            config = RunConfig(**flags, world_size=count + 1, worker_speeds=text)
            names.append(run_name(config))
            found = parse_run_name(names[-1])
            assert run_name(found) == names[-1] and found.world_size == count + 1
        assert names[0] != names[1] and len(names[0]) < 150
    (text,) = re.findall("list[0-9a-f]{8}", names[0])
    with pytest.raises(argparse.ArgumentTypeError, match="one per worker, or spread:CV"):
        ROWS["worker_speeds"].valid(text)


def test_an_algorithm_whose_name_begins_like_a_delay():
    config = RunConfig(mode="async", algorithm="delay_adaptive", alt_model=True)
    assert parse_run_name(run_name(config)) == config
    delayed = RunConfig(mode="async", algorithm="delay_adaptive", delay=True)
    assert parse_run_name(run_name(delayed)) == delayed


@pytest.mark.parametrize(
    ("value", "text"), [(0.005, "0005"), (0.0, "00"), (1.0, "10"), (10.0, "100"), (2.0, "20"), (1.5, "15"),
                        (150.0, "1500"), (1e-05, "1e-05"), (1.5e-05, "15e-05")]
)  # fmt: skip
def test_numbers(value, text):
    assert encode(value) == text
    assert decode(text) == value


ODD = (0.005, 0.01, 1.25, 12.5, 125.0, 1e-05, 3.3e-7, 0.30000000000000004, 10.0, 1e20, 1 / 3, 0.2, 1, 3, 6, 11, 42, 0)


TEXTS = {
    "compute_time": ["constant", "exponential", "normal:0.1", "normal:3e-07", "lognormal:0.5", "pareto:2.5"],
    "master_addr": ["somewhere", "10.0.0.1", "::1"],
    "replay": ["some/where", "elsewhere"],
    "worker_speeds": ["0.5 1.0", "1.0 1.0", "3.0", "1e-05 2.0 1e+20", "spread:0.3", " ".join(["0.25", *["1.0"] * 999])],
}


def values_of(name: str) -> list[object]:
    """Some valid values of a flag, odd numbers among them."""
    valid, default = ROWS[name].valid, default_of(name)
    if name in TEXTS:
        return TEXTS[name]
    if isinstance(valid, Interval):
        return [valid.kind(value) for value in ODD if valid.kind(value) == value and valid.kind(value) in valid]
    if valid is not None:
        return list(valid)
    return [True] if isinstance(default, bool) else ["some/where"]


def random_config(draw: random.Random, settled: str = "") -> RunConfig:
    """Any valid configuration; a flag that is refused beside the others is left out, until none is.

    settled: a setting of some algorithm, which the configuration then has.
    """
    settings = {name: draw.choice(values_of(name)) for name in ROWS if draw.random() < 0.4}
    settings["mode"] = draw.choice(MODES)
    owners = [name for name, rule in ALGORITHMS.items() if OWNERS.get(settled) in rule.flags]
    if owners:
        settings["algorithm"] = draw.choice(owners)
        settings["mode"] = ALGORITHMS[settings["algorithm"]].mode
    while True:
        try:
            return RunConfig(**settings)
        except UsageError as error:
            refused = re.search(r"--(\w+)", str(error))[1]
            del settings[refused if refused in settings else "partition"]


def named(config: RunConfig) -> RunConfig:
    """What the name of a run holds: all that shapes training, the seed and the saves; that it is a replay."""
    left_out = {
        name: default_of(name)
        for name, row in ROWS.items()
        if row.scope is not Scope.TRAINING and name not in ("saves_per_epoch", "evals_per_epoch", "replay")
    }
    seed = None if config.seed == 42 else config.seed  # a run without a seed has the name of the default seed
    return dataclasses.replace(
        config, **left_out, seed=seed, replay=config.replay and ROWS["replay"].valid.in_name(config.replay)
    )


def test_round_trip_and_equal_settings_mean_equal_names():
    draw = random.Random(20)
    names, configs = {}, {}
    for _ in range(3000):
        config = random_config(draw)
        name = run_name(config)
        assert parse_run_name(name) == named(config), name
        assert names.setdefault(named(config), name) == name
        assert configs.setdefault(name, named(config)) == named(config)
    assert len(configs) > 2500


def test_repetitions_differ_in_their_names_only_by_seed_and_saves():
    draw = random.Random(21)
    for _ in range(300):
        config = random_config(draw)
        experiment = experiment_of(config)
        again = dataclasses.replace(config, seed=7, saves_per_epoch=None, evals_per_epoch=2, data_dir="elsewhere")
        assert experiment_of(again) == experiment
        assert experiment_of(dataclasses.replace(config, epochs=config.epochs + 1)) != experiment


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.scope is Scope.TRAINING])
def test_every_setting_that_changes_training_is_in_the_name(name):
    draw = random.Random(22)
    changed = 0
    for _ in range(300):
        config = random_config(draw, name)
        try:
            other = dataclasses.replace(config, **{name: draw.choice(values_of(name))})
        except UsageError:
            continue
        if named(other) != named(config):
            changed += 1
            assert run_name(other) != run_name(config)
    assert changed


def test_suffixes_are_told_apart():
    valid_of = {name: ROWS[name].valid for name in suffixed() if not isinstance(ROWS[name].valid, ValueType)}
    words = [f"{ROWS[name].suffix}{choice}" for name, valid in valid_of.items() for choice in valid or ("",)]
    assert "virtual" in words and len(words) == len(set(words))


@needs_published
def test_published_names():
    bases = {base_of(path) for path in PUBLISHED.glob("*_*.*")}
    assert len(bases) == 3
    assert all(run_name(parse_run_name(base)) == base for base in bases)


def test_partial_runs_are_read_too():
    assert parse_run_name(f"{EXAMPLE}_partial1234") == parse_run_name(EXAMPLE)


@pytest.mark.parametrize(
    "name", ["", "model", "mnist", EXAMPLE + "x", EXAMPLE + "_nonsense5", EXAMPLE + "_seed", EXAMPLE + "_seed1.5",
             EXAMPLE.replace("_11_", "_12_"), EXAMPLE.replace("async", "classic"), "mnist_async_3_100_x_09_32_6_SGD"]
)  # fmt: skip
def test_what_is_no_name(name):
    with pytest.raises(UsageError):
        parse_run_name(name)


def test_replays_of_different_logs_have_different_names():
    names = {run_name(RunConfig(mode="async", replay=path)) for path in ("a_log.log", "b_log.log")}
    assert len(names) == 2
    assert all(parse_run_name(name).replay and run_name(parse_run_name(name)) == name for name in names)
    assert parse_run_name(f"{EXAMPLE}_replay").replay == "unknown", "as an earlier version called it"
