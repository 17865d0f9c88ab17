"""PyTorch RPC as a star: each worker is connected only to the server.

A group of fixed size, as created by `rpc.init_rpc`, connects all processes to each other and hangs if one of them dies
during start-up. Here each process joins on its own as soon as the server is running: forty workers start in the time
of one, and no process waits for one that has died. Some parts of this are not public in torch: a version without them
uses its public groups, whose processes join one by one and are all connected. Training is the same.
"""

import array
import ctypes
import errno
import fcntl
import functools
import ipaddress
import logging
import os
import queue
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import torch
import torch.distributed as distributed
import torch.distributed.rpc as rpc
from torch.distributed import TCPStore
from torch.distributed.rendezvous import register_rendezvous_handler

from interface.errors import DataError, UsageError, first_line

SERVER = "server"
ADDRESS = f"addrs/{SERVER}"  # the key of the server's address in an agent's store
SERVICE = "asynchronous SGD"  # a key that only the store of this suite has
TIMEOUT_SECONDS = 20 * 24 * 3600  # for all calls; torch stores milliseconds in 31 bits
RENDEZVOUS_SECONDS = 1800  # how long machines wait for each other before training starts
SERVER_SECONDS = 10  # how long the server takes from opening its port to its first answer, at most
LOOPBACK_SECONDS = 2  # how long a connection within this machine takes, at most
BEATS = 4  # heartbeats per `peer_timeout`
SIOCGIFCONF = 0x8912  # linux/sockios.h

# Kept alive until this process leaves: workers on other machines connect to the server's store.
_store: distributed.Store | None = None


def is_star_possible() -> bool:
    """Whether this version of torch has what a star is made of and is not public."""
    return hasattr(rpc.api, "_init_rpc_states") and hasattr(rpc.TensorPipeAgent, "_update_group_membership")


def _make_agent(
    store: distributed.Store,
    name: str,
    rank: int,
    world_size: int | None,
    rpc_backend_options: rpc.TensorPipeRpcBackendOptions,
) -> rpc.TensorPipeAgent:
    # An agent connects to all names in its store, so each has its own, and only the server's address is shared.
    names = distributed.HashStore()
    agent = rpc.TensorPipeAgent(names, name, rank, None, rpc_backend_options, {}, [])
    rpc.api._init_rpc_states(agent)
    if name == SERVER:
        store.set(ADDRESS, names.get(ADDRESS))
    else:
        names.set(ADDRESS, store.get(ADDRESS))  # waits for the server
        agent._update_group_membership(rpc.WorkerInfo(SERVER, 0), [], {}, True)
    return agent


@functools.cache
def _star() -> rpc.backend_registry.BackendType:
    return rpc.backend_registry.register_backend("STAR", rpc.TensorPipeRpcBackendOptions, _make_agent)


def _rendezvous(url: str, **options: object) -> Iterator[tuple[distributed.Store, int, int]]:
    """Like torch's tcp:// rendezvous, but rank 0 listens at the master's address only, not on all interfaces."""
    where, rank = urlparse(url), int(parse_qs(urlparse(url).query)["rank"][0])
    # torchrun may have started a store at that address, which all ranks use.
    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True)
    listener = None
    if serves:
        family, _, _, _, endpoint = socket.getaddrinfo(where.hostname, where.port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(endpoint[:2], family=family).detach()
    store = TCPStore(
        where.hostname, where.port, is_master=serves, wait_for_workers=False, master_listen_fd=listener,
        timeout=timedelta(seconds=RENDEZVOUS_SECONDS),
    )  # fmt: skip
    global _store
    _store = store
    yield store, rank, -1


register_rendezvous_handler("star", _rendezvous)


def join_star(name: str, rank: int, rendezvous: str, threads: int) -> None:
    """Join the star at `rendezvous` (a torch init_method URL); threads: for incoming calls.

    Raises DataError if the rendezvous fails.
    """
    options: dict[str, Any] = {
        "num_worker_threads": threads,
        "init_method": rendezvous.replace("tcp://", "star://"),
        "rpc_timeout": TIMEOUT_SECONDS,
    }
    backend = None  # the usual one
    if is_star_possible():
        backend = _star()
        # With more processes than cores, polling shared memory takes CPU time from the workers.
        options |= {"_transports": ["uv"], "_channels": ["basic"]}
    try:
        with ended_by_signals():
            rpc.init_rpc(name, backend, rank=rank, rpc_backend_options=rpc.TensorPipeRpcBackendOptions(**options))
            _wait_until_known(SERVER)
        if _store and name == SERVER:
            _store.set(SERVICE, "here")
    except (RuntimeError, OSError) as error:  # RuntimeError: torch's error for all network failures
        raise DataError(f"rendezvous at {rendezvous} failed: {first_line(error)}") from error


def _wait_until_known(name: str) -> None:
    """Wait for a member of a group that is not a star. Raises RuntimeError if it does not join."""
    deadline = time.monotonic() + RENDEZVOUS_SECONDS
    while True:
        with suppress(RuntimeError):
            rpc.get_worker_info(name)
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"{name} did not join within {RENDEZVOUS_SECONDS} s")
        time.sleep(0.05)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the process at once, which Python's handlers cannot do while torch waits for a network."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in (number for number in numbers if callable(before[number])):
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_loopback() -> None:
    """Raise DataError if the processes of this machine cannot reach each other."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=LOOPBACK_SECONDS).close()
    except OSError as error:
        raise DataError(
            f"the loopback interface does not work ({error.strerror or error}): bring it up with `ip link set lo up`, "
            "or use --clock virtual"
        ) from error


def check_own_address(address: str) -> None:
    """Raise UsageError unless `address` is one of this machine's, at which it can listen."""
    try:
        family, _, _, _, endpoint = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
        with socket.create_server(endpoint[:2], family=family):
            pass
    except OSError as error:
        raise UsageError(
            f"--master_addr {address} is not valid for --rank 0: it is not an address of this machine "
            f"({error.strerror or error})"
        ) from error
    if ipaddress.ip_address(endpoint[0]).is_loopback and address not in ("localhost", endpoint[0]):
        logging.warning("--master_addr %s is %s here, which no other machine reaches: give this machine's address",
                        address, endpoint[0])  # fmt: skip


def url_of(address: str, port: int) -> str:
    """The rendezvous at an address, as torch's init_method; IPv6 addresses stand in brackets."""
    return f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}"


def leave() -> None:
    """Leave the star; pending calls of this process fail."""
    global _store
    rpc.shutdown(graceful=False)
    _store = None


def ask(function: Callable[..., Any], *arguments: object) -> Any:
    """Call a function on the server and wait for the result. Raises DataError if the server is lost."""
    try:
        return rpc.rpc_sync(SERVER, function, args=arguments)
    except RuntimeError as error:  # torch's error for a broken connection
        raise DataError(f"the server was lost ({first_line(error)})") from error


class DistantServer:
    """The server on another machine, which may vanish without closing its connection: both ends use a timeout.

    heartbeat: a server function that takes this worker's number and returns whether the run is over; called BEATS
    times per `peer_timeout` seconds, until `leave`.
    """

    def __init__(self, number: int, heartbeat: Callable[[int], bool], peer_timeout: float) -> None:
        self.run_is_over = False
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._over = threading.Event()
        beat = threading.Thread(target=self._beat, args=(number, heartbeat, peer_timeout), daemon=True)
        beat.start()

    def ask(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Like the function `ask`, but also raises DataError if the server stops answering heartbeats."""
        rpc.rpc_async(SERVER, function, args=arguments).then(self._answers.put)
        answer = self._answers.get()
        try:
            return answer.value()
        except RuntimeError as error:
            raise DataError(f"the server was lost ({first_line(error)})") from error

    def leave(self) -> None:
        """Stop sending heartbeats."""
        self._over.set()

    def _beat(self, number: int, heartbeat: Callable[[int], bool], peer_timeout: float) -> None:
        while not self._over.wait(peer_timeout / BEATS):
            try:
                self.run_is_over = rpc.rpc_sync(SERVER, heartbeat, args=(number,), timeout=peer_timeout)
            except RuntimeError as error:
                lost = torch.futures.Future()
                lost.set_exception(error)
                self._answers.put(lost)
                return


def use_interface_towards(address: str) -> None:
    """Have RPC listen on the network interface that routes to `address`, unless the environment names another one.

    By default, torch would use the address to which this machine's host name happens to resolve.
    """
    try:
        family, kind, _, _, endpoint = socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(endpoint)  # sends nothing: UDP only looks up the route
            own_address = probe.getsockname()[0]
    except OSError as error:
        raise DataError(f"--master_addr {address}: no route to host ({error.strerror})") from error
    for interface, its_address in _own_addresses():
        if its_address == own_address:
            os.environ.setdefault("TP_SOCKET_IFNAME", interface)


def _own_addresses() -> Iterator[tuple[str, str]]:
    """Interface and address of each address of this machine, secondary ones included."""
    size = ctypes.sizeof(ctypes.c_void_p)
    entry_bytes = 24 + 2 * size  # struct ifreq: a name of 16 bytes, then a socket address in a union of 16 or 24
    entries = array.array("B", bytes(entry_bytes * 1024))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("iP", len(entries), entries.buffer_info()[0])
        (used,) = struct.unpack_from("i", fcntl.ioctl(any_socket, SIOCGIFCONF, request))
    for start in range(0, used, entry_bytes):
        entry = entries[start : start + entry_bytes].tobytes()
        label = entry[:16].split(b"\0")[0].decode()  # of an alias: eth0:1
        yield label.partition(":")[0], socket.inet_ntoa(entry[20:24])
    with suppress(OSError):  # a kernel without IPv6
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            digits, *_, interface = line.split()
            yield interface, socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))


def wait_for_server(address: str, port: int) -> None:
    """Wait until the server listens there. Raises DataError if it does not within RENDEZVOUS_SECONDS."""
    deadline = time.monotonic() + RENDEZVOUS_SECONDS
    while True:
        try:
            with socket.create_connection((address, port), timeout=5) as probe:
                if probe.getsockname() != probe.getpeername():
                    break
            raise ConnectionRefusedError(errno.ECONNREFUSED, "TCP connected the port to itself")
        except OSError as error:
            if isinstance(error, socket.gaierror) or time.monotonic() > deadline:
                raise DataError(f"no server at {url_of(address, port)} ({error.strerror or error})") from error
        time.sleep(0.1)
    answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
    # In a thread: torch waits without end for another kind of service, and would not let Ctrl-C through.
    threading.Thread(target=_look_for_server, args=(address, port, answers), daemon=True).start()
    with suppress(queue.Empty):
        if answers.get(timeout=2 * SERVER_SECONDS):
            return
    raise DataError(f"no server of this suite at {url_of(address, port)}: another service answers there")


def _look_for_server(address: str, port: int, answers: queue.SimpleQueue[bool]) -> None:
    deadline = time.monotonic() + SERVER_SECONDS
    try:
        store = TCPStore(address, port, is_master=False, wait_for_workers=False)
        while not (found := store.check([SERVICE])) and time.monotonic() < deadline:
            time.sleep(0.01)
        answers.put(found)
    except RuntimeError:  # torch's error for a service that closes the connection
        answers.put(False)
