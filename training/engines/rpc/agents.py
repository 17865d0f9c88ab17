"""PyTorch RPC as a star: each worker is connected to the server, and to nobody else.

A group of fixed size, as `rpc.init_rpc` makes it, connects everybody to everybody, and waits forever if one
dies on the way. Here each process joins alone, a worker as soon as the server is there, so that forty
start in the time of one, and those who live never wait for the dead.
"""

import array
import fcntl
import os
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import torch.distributed as distributed
import torch.distributed.rpc as rpc

from interface.errors import DataError

SERVER = "server"
ADDRESS = f"addrs/{SERVER}"  # where an agent keeps it in its store
TIMEOUT_SECONDS = 20 * 24 * 3600  # of any call; torch counts it in 31 bits of milliseconds
MEETING_SECONDS = 1800  # how long machines wait for one another before training starts
BEATS = 4  # heartbeats in the time after which silence counts as a loss
SIOCGIFADDR = 0x8915  # linux/sockios.h

# Held as long as this process takes part: of the server, it is what workers on other machines connect to.
_meeting: distributed.Store | None = None


def _make_agent(
    store: distributed.Store,
    name: str,
    rank: int,
    world_size: int | None,
    rpc_backend_options: rpc.TensorPipeRpcBackendOptions,
) -> rpc.TensorPipeAgent:
    global _meeting
    _meeting = store
    # An agent looks for everyone whose name is in its store: so each has one of its own, and shares an address alone.
    names = distributed.HashStore()
    agent = rpc.TensorPipeAgent(names, name, rank, None, rpc_backend_options, {}, [])
    rpc.api._init_rpc_states(agent)
    if name == SERVER:
        store.set(ADDRESS, names.get(ADDRESS))
    else:
        names.set(ADDRESS, store.get(ADDRESS))  # waits for the server
        agent._update_group_membership(rpc.WorkerInfo(SERVER, 0), [], {}, True)
    return agent


STAR = rpc.backend_registry.register_backend("STAR", rpc.TensorPipeRpcBackendOptions, _make_agent)


def meet(name: str, rank: int, rendezvous: str, threads: int) -> None:
    """Join the star at `rendezvous` (a URL of torch's), to take calls on some threads.

    Raises DataError if the rendezvous fails.
    """
    options = rpc.TensorPipeRpcBackendOptions(
        num_worker_threads=threads,
        init_method=rendezvous,
        rpc_timeout=TIMEOUT_SECONDS,
        # With more processes than cores, polling shared memory takes the time of those who compute.
        _transports=["uv"],
        _channels=["basic"],
    )
    try:
        rpc.init_rpc(name, backend=STAR, rank=rank, rpc_backend_options=options)
    except RuntimeError as error:  # torch's error for whatever a network may do
        raise DataError(f"rendezvous at {rendezvous} failed: {_first_line(error)}") from error


def leave() -> None:
    """End this process's part in the star; calls of its own that wait for an answer fail."""
    global _meeting
    rpc.shutdown(graceful=False)
    _meeting = None


def ask(function: Callable[..., Any], *arguments: object) -> Any:
    """Call a function of the server's and wait. Raises DataError if the server is lost."""
    try:
        return rpc.rpc_sync(SERVER, function, args=arguments)
    except RuntimeError as error:  # torch's error for a broken connection
        raise DataError(f"the server was lost ({_first_line(error)})") from error


class DistantServer:
    """The server on another machine, which may vanish without closing its connection: each end times the other.

    heartbeat: a function of the server's that takes this worker's number; called BEATS times in
    `peer_timeout` seconds, until `leave`.
    """

    def __init__(self, number: int, heartbeat: Callable[[int], None], peer_timeout: float) -> None:
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._over = threading.Event()
        beat = threading.Thread(target=self._beat, args=(number, heartbeat, peer_timeout), daemon=True)
        beat.start()

    def ask(self, function: Callable[..., Any], *arguments: object) -> Any:
        """As the function `ask`; raises DataError as well if the server falls silent meanwhile."""
        rpc.rpc_async(SERVER, function, args=arguments).then(self._answers.put)
        answer = self._answers.get()
        try:
            return answer.value()
        except RuntimeError as error:
            raise DataError(f"the server was lost ({_first_line(error)})") from error

    def leave(self) -> None:
        """Send no more heartbeats."""
        self._over.set()

    def _beat(self, number: int, heartbeat: Callable[[int], None], peer_timeout: float) -> None:
        while not self._over.wait(peer_timeout / BEATS):
            sign = rpc.rpc_async(SERVER, heartbeat, args=(number,), timeout=peer_timeout)
            try:
                sign.wait()
            except RuntimeError:
                self._answers.put(sign)
                return


def use_interface_towards(address: str) -> None:
    """Take RPC's calls on the network interface that leads to `address`, unless the environment names another.

    Without it, torch would take the address that this machine's host name happens to have.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))  # sends nothing: it looks up the route
        except OSError as error:
            raise DataError(f"--master_addr {address}: no route to host ({error.strerror})") from error
        own_address = probe.getsockname()[0]
        for _, interface in socket.if_nameindex():
            if _address_of(interface, probe) == own_address:
                os.environ.setdefault("TP_SOCKET_IFNAME", interface)


def _address_of(interface: str, any_socket: socket.socket) -> str | None:
    request = array.array("b", struct.pack("256s", interface.encode()))
    try:
        fcntl.ioctl(any_socket, SIOCGIFADDR, request)
    except OSError:  # it has none
        return None
    return socket.inet_ntoa(request.tobytes()[20:24])


def wait_for_server(address: str, port: int) -> None:
    """Return once somebody listens there. Raises DataError if nobody does for MEETING_SECONDS."""
    deadline = time.monotonic() + MEETING_SECONDS
    while True:
        try:
            socket.create_connection((address, port), timeout=5).close()
            return
        except OSError as error:
            if isinstance(error, socket.gaierror) or time.monotonic() > deadline:
                raise DataError(f"no server at {address}:{port} ({error.strerror or error})") from error
        time.sleep(0.1)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
