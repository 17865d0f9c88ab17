"""Multi-machine runs: on hosts in network namespaces where these are allowed, otherwise on loopback."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch.distributed import TCPStore

from common import load_dataset
from conftest import DATA, ROOT, shared_nursery, train, weights_of
from interface.errors import DataError
from live_run import listening_addresses
from training.algorithms import ALGORITHMS
from training.config import RunConfig
from training.engines.rpc import agents, launch
from training.engines.rpc.agents import check_own_address
from training.engines.rpc.coordinator import Terms
from training.engines.rpc.mailbox import OnTheWire
from training.plan import make_plan
from training.record.reader import read_log

FLAGS = ("--dataset", "digits", "--lr", 0.05, "--momentum", 0.9, "--seed", 1, "--split_dataset", "--peer_timeout", 3)
PORT = 20000 + os.getpid() % 20000
PEER_TIMEOUT = 3  # seconds, as in FLAGS


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)


class Hosts:
    """Three hosts, each in its own network namespace, connected by a bridge in a fourth namespace."""

    def __init__(self) -> None:
        self.switch, *self.names = (f"optml{os.getpid()}{part}" for part in ("switch", 0, 1, 2))

    def __enter__(self) -> "Hosts":
        ip("netns", "add", self.switch)
        ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", self.switch, "link", "set", "bridge", "up")
        for number, name in enumerate(self.names):
            ip("netns", "add", name)
            ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", f"port{number}", "netns", self.switch)
            ip("-n", self.switch, "link", "set", f"port{number}", "master", "bridge", "up")
            ip("-n", name, "address", "add", f"{self.address(number)}/24", "dev", "eth0")
            for link in ("eth0", "lo"):
                ip("-n", name, "link", "set", link, "up")
        return self

    def __exit__(self, *exception: object) -> None:
        for name in (self.switch, *self.names):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=20)

    def address(self, number: int) -> str:
        return f"10.213.7.{number + 1}"

    def namespace(self, number: int) -> str | None:
        """The network namespace of a host."""
        return self.names[number]

    def cut(self, number: int) -> None:
        """Take the link of a host down; the other hosts are not notified."""
        ip("-n", self.switch, "link", "set", f"port{number}", "down")


@dataclass
class Loopback:
    """A replacement for `Hosts` where namespaces are not allowed: all ranks on this machine."""

    own_address: str = "127.0.0.1"

    def address(self, number: int) -> str:
        return self.own_address

    def namespace(self, number: int) -> str | None:
        return None

    def cut(self, number: int) -> None:
        pytest.skip("network namespaces are not allowed here")


@pytest.fixture
def network() -> Iterator[Hosts | Loopback]:
    hosts = Hosts()
    try:
        network = hosts.__enter__()
    except (OSError, subprocess.CalledProcessError):  # no `ip`, or not allowed
        network = Loopback()
    yield network
    if network is hosts:
        hosts.__exit__()


class Rank:
    """One rank of a run, on its own host. torchrun: whether to use torchrun's variables instead of flags."""

    def __init__(
        self, network: Hosts | Loopback, folder: Path, script: str, rank: int, *flags: object, torchrun: bool = False
    ) -> None:
        self.folder = folder / f"rank{rank}"
        rendezvous = {"RANK": rank, "WORLD_SIZE": 3, "MASTER_ADDR": network.address(0), "MASTER_PORT": PORT}
        given = [] if torchrun else [text for key, value in rendezvous.items() for text in (f"--{key.lower()}", value)]
        variables = {key: str(value) for key, value in rendezvous.items()} if torchrun else {}
        self.process = shared_nursery().start(
            script, *FLAGS, *given, *flags, "--subfolder", self.folder,
            network=network.namespace(rank), variables=variables, timeout=120,
        )  # fmt: skip

    def wait_until(self, pattern: str, file: Path | None = None, seconds: float = 60) -> None:
        """Wait until the output of this rank, or a file in its folder, contains a pattern."""
        deadline = time.monotonic() + seconds
        while True:
            files = [self.process.output, self.process.errors] if file is None else list(self.folder.glob(str(file)))
            if any(re.search(pattern, path.read_text()) for path in files):
                return
            written = [path.read_text() for path in (self.process.output, self.process.errors)]
            assert self.process.poll() is None, written
            assert time.monotonic() < deadline, f"no {pattern} in: {written}"
            time.sleep(0.02)

    def wait_until_training(self) -> None:
        self.wait_until("update 50/", Path("*_log.log"))

    def end(self, seconds: float = 60) -> tuple[int, str]:
        """The exit code, and what it wrote: the errors last."""
        ended = self.process.wait(seconds)
        return ended.code, ended.output + ended.errors

    def succeed(self) -> None:
        """Wait for the end, which must be a success."""
        code, written = self.end()
        assert code == 0, written

    def files(self) -> dict[str, Path]:
        return {path.stem.rpartition("_")[2]: path for path in self.folder.iterdir()}


@pytest.fixture
def start(network, tmp_path):
    ranks = []

    def start(script: str, rank: int, *flags: object, on: Hosts | Loopback = network, **how: bool) -> Rank:
        ranks.append(Rank(on, tmp_path, script, rank, *flags, **how))
        return ranks[-1]

    yield start
    for rank in ranks:
        rank.process.kill()


@pytest.mark.parametrize("torchrun", [False, True], ids=["flags", "torchrun's variables"])
def test_workers_may_start_before_the_server_and_train_as_on_one_machine(torchrun, start, tmp_path):
    workers = [start("dist_sync.py", rank, torchrun=torchrun) for rank in (2, 1)]
    for worker in workers:
        worker.wait_until("Waiting for the server")
    server = start("dist_sync.py", 0, torchrun=torchrun)
    for rank in (server, *workers):
        rank.succeed()
    local = train("dist_sync.py", tmp_path / "local", "--seed", 1, "--split_dataset")
    assert weights_of(server.files()) == weights_of(local)


@pytest.mark.parametrize("script", ["dist_sync.py", "dist_async.py"])
@pytest.mark.parametrize("flags", [("--master_addr", "10.0.0.5"), ("--master_port", 29501)], ids=lambda flags: flags[0])
def test_an_address_without_a_rank_is_refused_in_place_of_training_here(script, flags, nursery, tmp_path):
    ended = nursery.run(script, "--dataset", "digits", "--seed", 1, *flags, "--subfolder", tmp_path / "runs")
    ended.refused(f"{flags[0]} {flags[1]} has no effect without --rank")
    assert ended.code == 2 and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("address", ["::1", "localhost", "127.0.0.2"])
def test_the_address_of_the_server_may_be(address, start):
    """127.0.0.2 stands for a secondary address: the loopback interface has another one first."""
    ranks = [start("dist_async.py", rank, on=Loopback(address)) for rank in range(3)]
    for rank in ranks:
        rank.succeed()


@pytest.mark.parametrize("algorithm", ["rennala", "ringleader", "dude", "malenia", "backup"])
def test_algorithms_that_make_workers_wait_or_keep_their_gradients(algorithm, start):
    script = f"dist_{ALGORITHMS[algorithm].mode}.py"
    ranks = [start(script, rank, "--algorithm", algorithm, "--stop", "total") for rank in range(3)]
    for rank in ranks:
        rank.succeed()
    assert read_log(ranks[0].files()["log"]).status == "complete"


def test_a_run_that_spanned_machines_is_replayed_on_one(start, tmp_path):
    ranks = [start("dist_async.py", rank) for rank in range(3)]
    for rank in ranks:
        rank.succeed()
    again = train("dist_async.py", tmp_path / "again", "--replay", ranks[0].files()["log"])
    assert weights_of(again) == weights_of(ranks[0].files())


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--world_size", 4), "world_size"),
        (("--seed", 2), "seed"),
        (("--dataset", "mnist", "--data_dir", DATA), "dataset"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_machine_with_other_settings_is_refused_and_named(flags, named, start):
    if "mnist" in flags and not DATA.is_dir():
        pytest.skip("no real data")
    server, other = (start("dist_async.py", rank) for rank in range(2))
    server.wait_until("Worker_1 has joined")
    refused = start("dist_async.py", 2, *flags)
    for rank in (server, refused):
        code, output = rank.end()
        last = output.strip().split("\n")[-1]
        assert code == 1 and named in last and "Worker_2" in last
    code, output = other.end()
    assert code == 1 and "aborted" in output and named in output


def test_a_machine_whose_rank_the_server_does_not_know_is_refused_and_named(start):
    server, other = (start("dist_async.py", rank) for rank in range(2))
    server.wait_until("Worker_1 has joined")
    refused = start("dist_async.py", 2, "--rank", 3, "--world_size", 4)
    for rank in (server, refused, other):
        code, output = rank.end()
        assert code == 1 and "Worker_3 was started with --world_size 4, the server with 3" in output
        assert "Traceback" not in output


def test_an_asynchronous_run_continues_without_a_host_whose_link_goes_down(start, network):
    server, lost, other = (start("dist_async.py", rank, "--epochs", 40) for rank in range(3))
    server.wait_until_training()
    network.cut(1)
    cut = time.monotonic()
    server.wait_until(rf"Worker_1 was lost \(silent for {PEER_TIMEOUT} s\)")
    assert time.monotonic() - cut < 2 * PEER_TIMEOUT
    code, output = lost.end()
    assert code == 1 and "server" in output.strip().split("\n")[-1]
    assert server.end()[0] == 0 and other.end()[0] == 0
    assert read_log(server.files()["log"]).result["lost_workers"] == ["Worker_1"]


def test_a_synchronous_run_ends_and_names_the_host_whose_link_goes_down(start, network):
    server, lost, other = (start("dist_sync.py", rank, "--epochs", 2000) for rank in range(3))
    server.wait_until_training()
    network.cut(2)
    cut = time.monotonic()
    code, output = server.end()
    assert code == 1 and "Worker_2" in output.strip().split("\n")[-1]
    assert time.monotonic() - cut < 2 * PEER_TIMEOUT + 2
    assert lost.end()[0] == 1 and other.end()[0] == 1


def test_a_killed_worker_on_another_host_is_detected(start):
    server, other, killed = (start("dist_async.py", rank, "--epochs", 40) for rank in range(3))
    server.wait_until_training()
    killed.process.send_signal(signal.SIGKILL)
    server.wait_until("Worker_2 was lost", seconds=2 * PEER_TIMEOUT)
    assert server.end()[0] == 0 and other.end()[0] == 0
    assert read_log(server.files()["log"]).result["lost_workers"] == ["Worker_2"]


def test_a_gradient_that_takes_longer_than_the_run_is_no_error(start):
    """The server waits for the workers' goodbyes for `--peer_timeout`, and then leaves."""
    flags = ("--max_seconds", 1, "--delay", "--delay_type", "constant", "--delay_ms", 1000 * (2 * PEER_TIMEOUT + 2))
    for rank in [start("dist_async.py", rank, *flags) for rank in range(3)]:
        rank.succeed()


def test_a_worker_computes_with_the_threads_of_the_server():
    """They are in the log, and a replay needs them."""
    config = RunConfig(mode="async", dataset="digits", threads=1)
    samples = load_dataset("digits", DATA).train
    threads = torch.get_num_threads()
    answers = {"_terms": Terms(threads=3, pushed=0, buffers=None), "_join": None}
    try:
        assert launch._work(make_plan(config, 1, samples), samples, 1, OnTheWire(),
                            lambda function, *arguments: answers[function.__name__]) is None  # fmt: skip
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


def test_a_killed_server_ends_its_workers(start):
    server, *workers = (start("dist_async.py", rank, "--epochs", 2000) for rank in range(3))
    server.wait_until_training()
    server.process.send_signal(signal.SIGKILL)
    for worker in workers:
        code, output = worker.end(10)
        assert code == 1 and "server" in output.strip().split("\n")[-1]


@pytest.fixture
def other_services() -> Iterator[dict[str, int]]:
    """Ports where something else listens: a store of another job of torch's, a web server, one that is mute."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as web_server,
        socket.create_server(("127.0.0.1", 0)) as mute,
    ):
        threading.Thread(target=web_server.serve_forever, daemon=True).start()
        yield {"store": store.port, "web server": web_server.server_port, "mute": mute.getsockname()[1]}
        web_server.shutdown()


def test_another_service_on_the_port(other_services, start):
    workers = {
        port: start("dist_async.py", 1, "--master_port", port, on=Loopback()) for port in other_services.values()
    }
    for port, worker in workers.items():
        code, output = worker.end()
        assert code == 1 and f"no server of this suite at tcp://127.0.0.1:{port}" in output.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_that_meets_another_service_can_be_ended(number, other_services, start):
    worker = start("dist_async.py", 1, "--master_port", other_services["mute"], on=Loopback())
    worker.wait_until("Waiting for the server")
    worker.process.send_signal(number)
    assert worker.end(10)[0] == 130


def test_a_rank_that_is_started_twice_is_refused_without_harm_to_the_first(start):
    server, first = (start("dist_async.py", rank) for rank in range(2))
    server.wait_until("Worker_1 has joined")
    code, output = start("dist_async.py", 1).end()
    assert code == 1 and "Worker_1 has already joined" in output.splitlines()[-1]
    other = start("dist_async.py", 2)
    for rank in (server, first, other):
        assert rank.end()[0] == 0
    assert read_log(server.files()["log"]).result["lost_workers"] == []


def test_a_rank_that_is_started_again_during_training_is_refused_without_harm_to_the_first(start):
    ranks = [start("dist_async.py", rank, "--epochs", 40) for rank in range(3)]
    ranks[0].wait_until_training()
    for rank, named in ((1, "Worker_1 has already joined"), (0, "Address already in use")):
        code, output = start("dist_async.py", rank, "--epochs", 40).end()
        assert code == 1 and named in output.splitlines()[-1]
    for rank in ranks:
        rank.succeed()
    log = next(path for path in ranks[0].folder.glob("*_log.log") if "_partial" not in path.name)
    assert read_log(log).result["lost_workers"] == []


def test_an_interrupted_server_tells_its_workers(start):
    server, *workers = (start("dist_async.py", rank, "--epochs", 2000) for rank in range(3))
    server.wait_until_training()
    server.process.send_signal(signal.SIGINT)
    assert server.end(10)[0] == 130
    for worker in workers:
        code, output = worker.end(10)
        assert code == 1 and "the server was interrupted" in output.splitlines()[-1]


def test_a_run_listens_only_at_addresses_of_its_interface(start, network):
    ranks = [start("dist_async.py", rank, "--epochs", 2000) for rank in range(3)]
    ranks[0].wait_until_training()
    for number, rank in enumerate(ranks):
        own = socket.inet_aton(network.address(number))[::-1].hex().upper()
        assert listening_addresses([rank.process.pid]) == {own}


def test_a_host_name_that_is_a_loopback_address_is_warned_of(caplog, monkeypatch):
    """As Debian's /etc/hosts has it: 127.0.1.1 for the machine's own name."""
    entry = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", 0))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: [entry])
    check_own_address("node1")
    assert "--master_addr node1 is 127.0.1.1 here, which no other machine reaches" in caplog.text
    caplog.clear()
    check_own_address("localhost")
    check_own_address("127.0.1.1")
    assert not caplog.text


def test_a_connection_of_a_port_to_itself_is_not_a_server(monkeypatch):
    """A client of an ephemeral port may be given that same port as its own."""
    connect = socket.create_connection
    monkeypatch.setattr(socket, "create_connection", lambda end, **options: connect(end, source_address=end, **options))
    monkeypatch.setattr(agents, "RENDEZVOUS_SECONDS", 0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DataError, match=f"no server at tcp://127.0.0.1:{port} .*itself"):
        agents.wait_for_server("127.0.0.1", port)


def test_a_port_that_is_taken(other_services, start):
    code, output = start("dist_async.py", 0, "--master_port", other_services["mute"], on=Loopback()).end()
    assert code == 1 and "Address already in use" in output.splitlines()[-1]
    assert str(other_services["mute"]) in output.splitlines()[-1]


@pytest.mark.parametrize("name", ["dist_sync.py", "dist_async.py"])
def test_torchrun(name, tmp_path):
    """Its agent has a store at the master's address already."""
    flags = ("--dataset", "digits", "--seed", 1, "--split_dataset", "--lr", 0.05, "--momentum", 0.9)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", 3, "--master-port", PORT + 1,
               ROOT / name, *flags, "--subfolder", tmp_path]  # fmt: skip
    subprocess.run(list(map(str, command)), check=True, timeout=120, capture_output=True)
    (log,) = tmp_path.glob("*_log.log")
    assert read_log(log).status == "complete"


def test_a_machine_without_a_loopback_interface(network, tmp_path):
    if isinstance(network, Loopback):
        pytest.skip("network namespaces are not allowed here")
    ip("-n", network.names[0], "link", "set", "lo", "down")
    flags = ("--dataset", "digits", "--subfolder", tmp_path)
    done = shared_nursery().run("dist_async.py", *flags, network=network.namespace(0))
    assert done.code == 1 and "ip link set lo up" in done.errors.splitlines()[-1]
