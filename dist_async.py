#!/usr/bin/env python3
"""Train asynchronously: each worker pushes its gradient and fetches the model without waiting for the others.

python3 dist_async.py --dataset fashion_mnist --world_size 4 --split_dataset --lr 0.005 --momentum 0.9 --epochs 6
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also under PYTHONSAFEPATH

from interface.command_line import run_script
from interface.errors import UsageError
from training.command_line import announce, choose_seed, parse_flags
from training.config import RunConfig

# Read when torch is imported. Otherwise torch logs a broken connection for each worker that ends.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def main() -> None:
    flags = parse_flags("async", __doc__)
    config = None if "replay" in flags else RunConfig(mode="async", **flags)
    if "replay" in flags and not Path(flags["replay"]).is_file():
        raise UsageError(f"--replay {flags['replay']}: no such file")

    # Slow imports: not needed for --help or to report a wrong command line.
    import torch

    from common import build_model, load_dataset
    from interface.device import prepare_device
    from training.checkpoints import Checkpoints
    from training.engines import replay, virtual
    from training.engines.rpc import launch
    from training.observer import Observer
    from training.plan import make_plan
    from training.record.reader import read_log
    from training.record.resume import find_checkpoint
    from training.record.writer import Record

    log = read_log(flags["replay"]) if config is None else None
    config = config or replay.config_of_replay(log, flags)
    prepare_device(config.device, config.tf32)
    resumed = find_checkpoint(config)
    earlier = resumed if log is None else log
    seed = choose_seed(config) if earlier is None else earlier.seed
    announce(f"Asynchronous SGD training of {config.workers} workers", config, seed)

    torch.set_num_threads(1)  # the server needs only one: leave the cores to the workers
    dataset = load_dataset(config.dataset, config.data_dir, config.changed_data)
    samples = dataset.train
    plan = make_plan(config, seed, samples)
    plan = plan if log is None else replay.fit_plan(plan, log)
    plan = plan if resumed is None else resumed.fit_plan(plan)
    if plan.left_out:
        print(plan.left_out)
    if config.rank:  # a worker; only the server, rank 0, writes the record
        launch.work(plan, samples)
        return
    if config.clock == "wall" and log is None:
        launch.check_machine(config)
    dataset = dataset.to(config.device)
    model = build_model(config.dataset, config.network_name, seed, config.device)
    algorithm = plan.algorithm(model)

    clock = config.clock if log is None else "replay"
    with Record(plan, clock, resumed) as record, Observer(plan, model, record, dataset) as observer:
        checkpoints = Checkpoints(plan, model, algorithm.server.optimizer, observer, resumed)
        if log is not None:
            replay.replay(plan, dataset.train, log, algorithm, observer)
        elif config.clock == "virtual":
            virtual.train(plan, dataset.train, algorithm, observer, checkpoints)
        else:
            launch.train(plan, dataset.train, algorithm, observer, checkpoints)
        observer.finish(replay.partial_because(log) if log else "")


if __name__ == "__main__":
    run_script(main)
