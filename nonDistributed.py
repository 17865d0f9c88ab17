#!/usr/bin/env python3
"""Train one model in one process: the baseline for distributed training.

python3 nonDistributed.py --dataset fashion_mnist --lr 0.005 --momentum 0.9 --epochs 6 --seed
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also under PYTHONSAFEPATH

from interface.command_line import run_script
from training.command_line import announce, choose_seed, parse_flags
from training.config import RunConfig

# Read when torch is imported. Threads that wait for each other spin, by default for so long that a single other busy
# process can make a gradient take tens of times as long.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def main() -> None:
    config = RunConfig(mode="classic", **parse_flags("classic", __doc__))

    # Slow imports: not needed for --help or to report a wrong command line.
    import torch
    import torch.nn.functional as F

    from common import build_model, load_dataset, make_generator
    from interface.device import prepare_device
    from training.checkpoints import Checkpoints
    from training.observer import Observer
    from training.plan import make_plan
    from training.protocol import Outcome, Push, Update
    from training.record.resume import find_checkpoint
    from training.record.writer import Record
    from training.worker import mini_batches

    prepare_device(config.device, config.tf32)
    resumed = find_checkpoint(config)
    seed = choose_seed(config) if resumed is None else resumed.seed
    announce("Non-distributed SGD training", config, seed)

    dataset = load_dataset(config.dataset, config.data_dir, config.changed_data)
    plan = make_plan(config, seed, dataset.train)
    plan = plan if resumed is None else resumed.fit_plan(plan)
    torch.set_num_threads(plan.threads_per_gradient)
    dataset = dataset.to(config.device)
    samples = dataset.train
    model = build_model(config.dataset, config.network_name, seed, config.device)
    dropout = make_generator(seed, "dropout", 1, config.device)
    model.use_generator(dropout)
    optimizer = plan.optimizer(model)
    batches = mini_batches(plan.shards[0], config.batch_size, make_generator(seed, "shuffle", worker=1))

    with Record(plan, "wall", resumed) as record, Observer(plan, model, record, dataset) as observer:
        checkpoints = Checkpoints(plan, model, optimizer, observer, resumed)
        if resumed is not None:
            dropout.set_state(checkpoints.engine["dropout"].cpu())
            for _ in range(observer.updates):
                next(batches)
        start = time.perf_counter() - observer.seconds - observer.paused_seconds
        with checkpoints.interruptible():
            for step in range(observer.updates, plan.updates):
                images, labels = samples.batch(next(batches))
                model.network.train()
                loss = F.nll_loss(model.network(images), labels)
                model.gradients.zero_()
                loss.backward()
                optimizer.step(model.gradients, plan.learning_rate(step, step))

                push = Push(1, step + 1, step, loss.item(), model.gradients, model.buffers)
                weight_norm = torch.linalg.vector_norm(model.parameters).item()
                update = Update(step + 1, (push,), push.loss, weight_norm)
                seconds = time.perf_counter() - start - observer.paused_seconds
                observer.push(seconds, push, Outcome(update))
                checkpoints.offer(lambda: {"dropout": dropout.get_state()})
        observer.finish()


if __name__ == "__main__":
    run_script(main)
