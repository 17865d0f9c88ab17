#!/usr/bin/env python3
"""Train synchronously: each update averages one gradient per worker, and all workers fetch the same model.

python3 dist_sync.py --dataset fashion_mnist --world_size 4 --split_dataset --lr 0.005 --momentum 0.9 --epochs 6
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also under PYTHONSAFEPATH

from interface.command_line import run_script
from training.command_line import announce, choose_seed, parse_flags
from training.config import RunConfig

# Read when torch is imported. Otherwise torch logs a broken connection for each worker that ends.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def main() -> None:
    config = RunConfig(mode="sync", **parse_flags("sync", __doc__))

    # Slow imports: not needed for --help or to report a wrong command line.
    import torch

    from common import build_model, load_dataset
    from interface.device import prepare_device
    from training.checkpoints import Checkpoints
    from training.engines import virtual
    from training.engines.rpc import launch
    from training.observer import Observer
    from training.plan import make_plan
    from training.record.resume import find_checkpoint
    from training.record.writer import Record

    prepare_device(config.device, config.tf32)
    resumed = find_checkpoint(config)
    seed = choose_seed(config) if resumed is None else resumed.seed
    announce(f"Synchronous SGD training of {config.workers} workers", config, seed)

    torch.set_num_threads(1)  # the server needs only one: leave the cores to the workers
    dataset = load_dataset(config.dataset, config.data_dir, config.changed_data)
    samples = dataset.train
    plan = make_plan(config, seed, samples)
    plan = plan if resumed is None else resumed.fit_plan(plan)
    if plan.left_out:
        print(plan.left_out)
    if config.rank:  # a worker; only the server, rank 0, writes the record
        launch.work(plan, samples)
        return
    if config.clock == "wall":
        launch.check_machine(config)
    dataset = dataset.to(config.device)
    model = build_model(config.dataset, config.network_name, seed, config.device)
    algorithm = plan.algorithm(model)

    engine = virtual if config.clock == "virtual" else launch
    with Record(plan, config.clock, resumed) as record, Observer(plan, model, record, dataset) as observer:
        checkpoints = Checkpoints(plan, model, algorithm.server.optimizer, observer, resumed)
        engine.train(plan, dataset.train, algorithm, observer, checkpoints)
        observer.finish()


if __name__ == "__main__":
    run_script(main)
