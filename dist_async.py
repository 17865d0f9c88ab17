#!/usr/bin/env python3
"""Train asynchronously: each worker pushes its gradient and fetches the model without waiting for anyone.

python3 dist_async.py --dataset fashion_mnist --world_size 4 --split_dataset --lr 0.005 --momentum 0.9 --epochs 6
"""

import os
from functools import partial

# Read when torch is imported: it would report each worker that ends as a broken connection.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

import torch

from common import build_model, load_dataset
from evaluation import evaluate
from interface.command_line import run_script
from training.engines import virtual
from training.engines.replay import config_of_replay, fit_plan
from training.engines.rpc import launch as rpc
from training.observer import Observer
from training.options import RunConfig, announce, choose_seed, parse_flags
from training.plan import make_plan
from training.record import Record, read_log
from training.server import AsyncServer, DelayCompensation


def main() -> None:
    flags = parse_flags("async", __doc__)
    log = read_log(flags["replay"]) if "replay" in flags else None
    config = RunConfig(mode="async", **flags) if log is None else config_of_replay(log, flags)
    seed = choose_seed(config) if log is None else log.header["seed"]
    announce(f"Asynchronous SGD training of {config.workers} workers", config, seed)

    torch.set_num_threads(1)  # the server's share: the workers get the cores
    samples = load_dataset(config.dataset, config.data_dir).train
    plan = make_plan(config, seed, samples)
    plan = plan if log is None else fit_plan(plan, log)
    if config.rank:  # one of the workers; the server, rank 0, keeps the record
        rpc.work(plan, samples)
        return
    model = build_model(config.dataset, config.alt_model, seed)
    compensation = None
    if config.compensation:
        compensation = DelayCompensation(config.compensation_lambda, config.compensation_mode == "adaptive")
    server = AsyncServer(model.parameters, model.buffers, plan.optimizer(model), plan.learning_rate, compensation)

    clock = config.clock if log is None else "replay"
    with Record(plan, clock) as record, Observer(plan, model, record, partial(evaluate, samples)) as observer:
        if log is not None:
            virtual.replay(plan, samples, log, server, observer)
        elif config.clock == "virtual":
            virtual.train(plan, samples, server, observer)
        else:
            rpc.train(plan, samples, server, observer)
        observer.finish()


if __name__ == "__main__":
    run_script(main)
