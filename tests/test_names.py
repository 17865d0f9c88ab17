"""Names tell runs apart, and every name is read back to the configuration that it stands for."""

import dataclasses
import random

import pytest

from conftest import PUBLISHED, needs_published
from training.names import base_of, decode, encode, parse_run_name, run_name
from training.options import (
    COMPENSATION_MODES,
    DELAY_INTENSITIES,
    DELAY_TYPES,
    LEARNING_RATE_SCHEDULES,
    RunConfig,
)

EXAMPLE = "fashion_mnist_async_11_100_0005_09_32_6_SGD_spe3_labels_delay_slow_worker_1_long_constant"


def test_the_example_of_the_contract():
    config = RunConfig(
        mode="async", dataset="fashion_mnist", world_size=11, lr=0.005, momentum=0.9, epochs=6, saves_per_epoch=3,
        partition="split_labels", delay=True, slow_worker_1=True, delay_intensity="long", delay_type="constant",
    )  # fmt: skip
    assert run_name(config) == EXAMPLE
    assert parse_run_name(EXAMPLE) == config


@pytest.mark.parametrize(
    ("value", "text"), [(0.005, "0005"), (0.0, "00"), (1.0, "10"), (10.0, "100"), (2.0, "20"), (1.5, "15"),
                        (150.0, "1500"), (1e-05, "1e-05"), (1.5e-05, "15e-05")]
)  # fmt: skip
def test_numbers(value, text):
    assert encode(value) == text
    assert decode(text) == value


def random_config(draw: random.Random) -> RunConfig:
    """Any valid configuration, with odd numbers among its settings."""
    number = lambda: draw.choice([0.005, 0.01, 1.25, 12.5, 125.0, 1e-05, 3.3e-7, 0.30000000000000004, 10.0, 1e20])  # noqa: E731
    mode = draw.choice(["classic", "sync", "async"])
    settings = {
        "mode": mode,
        "dataset": draw.choice(["mnist", "fashion_mnist", "cifar10", "digits"]),
        "train_split": draw.choice([1.0, 0.2, 0.05, 0.123, 1 / 3]),
        "lr": number(),
        "momentum": draw.choice([0.0, 0.9, number()]),
        "batch_size": draw.choice([1, 32, 128]),
        "epochs": draw.choice([1, 6]),
        "seed": draw.choice([None, 0, 42, 7]),
        "saves_per_epoch": draw.choice([None, 1, 3]),
        "alr": draw.random() < 0.3,
        "lrs": draw.choice([None, *LEARNING_RATE_SCHEDULES]),
        "alt_model": draw.random() < 0.5,
        "val": draw.random() < 0.5,
    }
    if mode != "classic":
        settings["partition"] = draw.choice(["none", "split_dataset", "split_labels"])
        settings["world_size"] = draw.choice([3, 6, 11])
        settings["delay"], settings["slow_worker_1"] = draw.random() < 0.5, draw.random() < 0.5
        if settings["delay"] or settings["slow_worker_1"]:
            settings["delay_type"] = draw.choice(DELAY_TYPES)
            settings[draw.choice(["delay_intensity", "delay_ms"])] = None
            if draw.random() < 0.5:
                settings["delay_ms"] = number()
            else:
                settings["delay_intensity"] = draw.choice(list(DELAY_INTENSITIES))
        settings["clock"] = draw.choice(["wall", "virtual"])
        if settings["clock"] == "virtual":
            settings["compute_ms"] = draw.choice([None, number()])
    if mode == "async" and draw.random() < 0.5:
        settings["compensation"] = True
        settings["compensation_mode"] = draw.choice(COMPENSATION_MODES)
        settings["compensation_lambda"] = draw.choice([None, 0.0, number()])
    return RunConfig(**settings)


def test_round_trip_and_no_two_configurations_share_a_name():
    draw = random.Random(20)
    seen = {}
    for _ in range(3000):
        config = random_config(draw)
        # A run without a seed has the name of the default seed.
        named = dataclasses.replace(config, seed=None if config.seed == 42 else config.seed)
        name = run_name(config)
        assert parse_run_name(name) == named, name
        assert seen.setdefault(name, named) == named
    assert len(seen) > 2500


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
    with pytest.raises(ValueError):
        parse_run_name(name)
