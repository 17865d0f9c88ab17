"""Gradients computed in batches agree with the workers' own, and a GPU is asked for in vain in one line."""

import pytest
import torch

import common
from conftest import run, train, weights_of
from test_resume import PowerFailure, train_here
from training.config import RunConfig
from training.engines import gradients
from training.engines.batches import BatchGradients, NetworkFunction
from training.engines.gradients import OwnGradients
from training.names import run_name
from training.plan import make_plan

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def cifar() -> common.Samples:
    """Samples in the shape of CIFAR-10's."""
    generator = torch.Generator().manual_seed(0)
    return common.Samples(torch.randn(50, 32, 32, 3, generator=generator), torch.arange(50) % 10)


@pytest.mark.parametrize(
    ("network", "settings"),
    [("LeNet5", {}), ("CNN1", {}), ("LeNet5", {"local_steps": 3}), ("CNN1", {"local_steps": 2}), ("ResNet18", {})],
    ids=str,
)
def test_a_batch_agrees_with_the_workers_own_gradients(network, settings):
    """Within 1e-5, dropout masks and running statistics included, and for mini-batches of several sizes.

    Where a ReLU near 0 or two nearly equal maxima switch, the difference is larger: along local steps, through
    ResNet18's layers, and for LeNet5 on some processors, on which the worker's own gradient is the less exact one.
    """
    bound = 1e-3 if settings or network == "ResNet18" else {"LeNet5": 1e-4, "CNN1": 1e-5}[network]
    dataset = "cifar10" if network == "ResNet18" else "digits"
    samples = cifar() if network == "ResNet18" else common.load_dataset("digits", "unused").train
    config = RunConfig(mode="async", dataset=dataset, network=network, world_size=5, partition="split_dataset",
                       batch_size=5 if network == "ResNet18" else 50, lr=0.05, clock="virtual", **settings)  # fmt: skip
    plan = make_plan(config, 3, samples)
    model = common.build_model(dataset, network, 3)
    server = plan.algorithm(model).server
    own, batches = OwnGradients(plan, samples), BatchGradients(plan, samples)
    batches._largest = 4
    for round_number in range(max(plan.pushes_per_epoch) + 1):
        for worker in plan.steps:
            model.parameters.add_(0.001)  # everybody has other weights
            server.version += 1
            for computed in (own, batches):
                computed.start(worker, server.fetch(worker), 0.0)
        for worker in plan.steps:
            one, other = own.take(worker), batches.take(worker)
            assert (one.worker, one.step, one.version) == (other.worker, other.step, other.version)
            assert other.loss == pytest.approx(one.loss, rel=bound)
            error = torch.linalg.vector_norm(one.gradient - other.gradient) / torch.linalg.vector_norm(one.gradient)
            assert error < bound, round_number
            torch.testing.assert_close(other.buffers, one.buffers, rtol=1e-4, atol=1e-6)


def test_gradients_in_a_batch_are_those_of_double_precision():
    """Within 1e-6, for LeNet5."""
    samples = common.load_dataset("digits", "unused").train
    config = RunConfig(mode="async", dataset="digits", world_size=5, partition="split_dataset", batch_size=50,
                       clock="virtual")  # fmt: skip
    plan = make_plan(config, 3, samples)
    model = common.build_model("digits", "LeNet5", 3)
    snapshot = plan.algorithm(model).server.fetch(1)
    model.network.double()
    batches = BatchGradients(plan, samples)
    for worker in plan.steps:
        batches.start(worker, snapshot, 0.0)
    for worker in plan.steps:
        (batch,) = plan.worker(worker).start(snapshot).batches
        images, labels = samples.batch(batch)
        loss = torch.nn.functional.nll_loss(model.network(images.double()), labels)
        exact = torch.cat([one.flatten() for one in torch.autograd.grad(loss, list(model.network.parameters()))])
        error = torch.linalg.vector_norm(batches.take(worker).gradient - exact) / torch.linalg.vector_norm(exact)
        assert error < 1e-6


def test_a_batch_of_resnet18_agrees_in_double_precision():
    model = common.build_model("cifar10", "ResNet18", 3)
    function = NetworkFunction(model)
    model.network.double()
    state = [torch.cat([value.detach().flatten().double() for value in values])
             for values in (model.network.parameters(), model.network.buffers())]  # fmt: skip
    images, labels = cifar().batch(torch.arange(6))
    parameters = torch.stack([state[0], state[0] + 0.001])
    inputs = (parameters, torch.stack([state[1]] * 2), images.double().unflatten(0, (2, 3)), labels.view(2, 3))
    together = function(*inputs)
    for row in range(2):
        alone = function(*(tensor[row : row + 1] for tensor in inputs))
        for several, one in zip(together, alone, strict=True):
            torch.testing.assert_close(several[row], one[0], rtol=1e-10, atol=1e-12)


def test_a_run_in_batches_resumes_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr("test_resume.virtual.gradients_of", lambda plan, samples, algorithm: gradients.nullcontext(
        BatchGradients(plan, samples)
    ))  # fmt: skip
    settings = {"mode": "async", "world_size": 4, "alt_model": True, "epochs": 1, "batch_size": 16}
    whole, log = train_here(tmp_path / "whole", **settings)
    with pytest.raises(PowerFailure):
        train_here(tmp_path / "cut", 30, **settings)
    parameters, resumed_log = train_here(tmp_path / "cut", resume=True, **settings)
    assert torch.equal(parameters, whole)
    assert resumed_log == log


@needs_gpu
@pytest.mark.parametrize("more", [(), ("--tf32",)], ids=str)
@pytest.mark.parametrize(
    "command", [("nonDistributed.py",), ("dist_sync.py", "--clock", "virtual"), ("dist_async.py", "--clock", "virtual")]
)
def test_a_run_on_a_gpu_repeats_itself(command, more, tmp_path):
    runs = [train(*command[:1], tmp_path / name, *command[1:], "--device", "cuda", *more) for name in ("one", "two")]
    assert weights_of(runs[0]) == weights_of(runs[1])


@needs_no_gpu
@pytest.mark.parametrize(
    "command", [("nonDistributed.py",), ("dist_sync.py", "--clock", "virtual"), ("dist_async.py", "--clock", "virtual"),
                ("kfold.py",)]
)  # fmt: skip
def test_training_without_a_gpu(command, tmp_path):
    done = run(*command, "--dataset", "digits", "--device", "cuda", "--subfolder", tmp_path, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "--device cuda is not valid: PyTorch" in done.stderr
    assert not list(tmp_path.iterdir())


@needs_no_gpu
@pytest.mark.parametrize(
    ("mode", "script", "clock"),
    [
        ("classic", "nonDistributed.py", "wall"),
        ("sync", "dist_sync.py", "virtual"),
        ("async", "dist_async.py", "virtual"),
    ],
)
def test_resuming_without_a_gpu(mode, script, clock, tmp_path):
    """It is the GPU that is missing, and no checkpoint that is damaged."""
    name = run_name(RunConfig(mode=mode, dataset="digits", clock=clock))
    (tmp_path / f"{name}_partial1_checkpoint.pt").write_text("unreadable")
    clock_flags = () if mode == "classic" else ("--clock", clock)
    command = (script, "--dataset", "digits", *clock_flags, "--subfolder", tmp_path, "--resume")
    done = run(*command, check=False)
    assert done.returncode == 1 and "not a checkpoint of a run" in done.stderr
    done = run(*command, "--device", "cuda", check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "--device cuda is not valid: PyTorch" in done.stderr


@needs_no_gpu
def test_analysis_without_a_gpu(tmp_path):
    made = train("nonDistributed.py", tmp_path / "runs", "--saves_per_epoch", 3, "--seed", 1)
    for script, second in (("test_model.py", "log"), ("loss_landscape.py", "weights")):
        done = run(
            script, made["model"], made[second], "--device", "cuda", "--subfolder", tmp_path / "plots", check=False
        )
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert "--device cuda is not valid: PyTorch" in done.stderr


def test_tf32_needs_a_gpu(tmp_path):
    done = run("dist_async.py", "--clock", "virtual", "--tf32", "--subfolder", tmp_path, check=False)
    assert done.returncode == 2 and "--tf32 has no effect without --device cuda" in done.stderr
    done = run("kfold.py", "--dataset", "digits", "--tf32", "--subfolder", tmp_path, check=False)
    assert done.returncode == 2 and "--tf32 has no effect without --device cuda" in done.stderr
    done = run("dist_async.py", "--device", "cuda", "--subfolder", tmp_path, check=False)
    assert done.returncode == 2 and "has no effect without --clock virtual" in done.stderr
