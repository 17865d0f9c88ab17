"""The nursery, from which runs are forked: it reports a run that it cannot start, and it ends when it is closed."""

import errno
import os
import pickle
import shutil
import signal
import socket
import subprocess
import tempfile
from multiprocessing.connection import Connection

import pytest

from scripts import nursery as nursery_module
from scripts.nursery import Nursery, Order, Report, begin
from test_bad_files import write_mnist
from test_drivers import wait_until_gone
from training.config import RunConfig

SHORT = Order(("nb_params.py",))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.EAGAIN])
def test_a_run_for_which_there_is_no_room_is_reported(number, monkeypatch):
    """And the nursery lives on."""

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    ours, theirs = (Connection(end.detach()) for end in socket.socketpair())
    with monkeypatch.context() as patch, ours:
        patch.setattr(
            *((nursery_module.FORK, "Process") if number == errno.EAGAIN else (tempfile, "TemporaryFile")), refuse
        )
        ours.send_bytes(pickle.dumps(SHORT))
        assert begin(theirs) is None and theirs.closed
        assert ours.poll(0)
        report: Report = pickle.loads(ours.recv_bytes())
    assert report.code == 1 and os.strerror(number) in report.said


def test_an_order_whose_giver_is_gone_is_dropped():
    ours, theirs = (Connection(end.detach()) for end in socket.socketpair())
    ours.close()
    assert begin(theirs) is None and theirs.closed


def test_a_nursery_that_does_not_listen_is_killed(monkeypatch):
    """As while it downloads a data set."""
    monkeypatch.setattr(nursery_module, "GRACE_SECONDS", 0.1)
    nursery = Nursery(parallel=False)
    assert nursery.execute(SHORT).code == 0
    process: subprocess.Popen = nursery._process
    process.send_signal(signal.SIGSTOP)
    nursery.close()
    assert process.returncode == -signal.SIGKILL


def test_a_data_set_is_read_once_for_all_runs(tmp_path):
    write_mnist(tmp_path / "data/MNIST/raw")
    nursery = Nursery(parallel=False)
    try:
        for seed in (1, 2):
            flags = {"dataset": "mnist", "data_dir": str(tmp_path / "data"), "batch_size": 8, "seed": seed}
            flags["subfolder"] = str(tmp_path / "runs")
            words = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
            report = nursery.execute(Order(("nonDistributed.py", *words), RunConfig(mode="classic", **flags)))
            assert report.code == 0, report.said
            shutil.rmtree(tmp_path / "data", ignore_errors=True)
    finally:
        nursery.close()


def test_a_nursery_that_is_killed_fails_its_run_and_is_replaced(tmp_path):
    flags = {"dataset": "digits", "seed": 1, "subfolder": str(tmp_path)}
    words = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    order = Order(("nonDistributed.py", *words), RunConfig(mode="classic", **flags))
    nursery = Nursery(parallel=False)
    try:
        assert nursery.execute(order).code == 0
        os.kill(nursery._process.pid, signal.SIGKILL)
        assert nursery.execute(order).code in (0, -signal.SIGKILL)  # it may not have ended yet
        assert nursery.execute(order).code == 0
    finally:
        nursery.close()


def test_a_run_that_nobody_waits_for_ends_although_it_ignores_sigterm(tmp_path):
    script, started = tmp_path / "stubborn.py", tmp_path / "started"
    script.write_text(
        "import os, pathlib, signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(started)!r}).write_text(str(os.getpid()))\n"
        "signal.pause()\n"
    )
    nursery = Nursery(parallel=False)
    try:
        assert nursery.execute(Order((str(script),)), wanted=lambda: not started.exists()) is None
        wait_until_gone({int(started.read_text())})
    finally:
        nursery.close()
