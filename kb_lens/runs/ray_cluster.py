"""Join a Ray cluster, or start Ray on this machine for as long as it is needed."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from kb_lens.extras import install_command
from kb_lens.runs.execution import SharedExecution


def check_ray() -> None:
    """Raise `ValueError` unless Ray is installed."""
    if find_spec("ray") is None:
        raise ValueError(f"Ray is not installed: {install_command('ray')}.")


@contextmanager
def connected(address: str | None) -> Generator[Any, None, None]:
    """The package `ray`, connected to a cluster; a Ray that is started here is stopped here."""
    if address is None:
        _keep_to_itself()
    ray: Any = import_module("ray")
    if ray.is_initialized():
        yield ray
        return
    try:
        _check_address(address)
        where: dict[str, Any] = {"address": address} if address else _OF_THIS_MACHINE
        with _own_signals():
            ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        what = f"join the cluster at {address!r}" if address else "start on this machine"
        raise ValueError(
            f"Ray cannot {what}: {error}. Start a cluster with 'ray start --head --port=6379' and "
            "join it from one of its nodes; without an address Ray works on this machine."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _own_signals() -> Generator[None, None, None]:
    """Keep our handler of SIGTERM: Ray's would abort the process without our message."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    with suppress(ValueError):  # only possible in the main thread, where Ray does it too
        signal.signal(signal.SIGTERM, before)


# The second loopback address: Ray replaces the first by an address that the network can reach.
# macOS has no second one; there a local Ray stays on the loopback.
_LOOPBACK = {"_node_ip_address": "127.0.0.2"} if sys.platform == "linux" else {}
_OF_THIS_MACHINE: dict[str, Any] = {"address": "local", "include_dashboard": False, **_LOOPBACK}
"""How a local Ray is started."""


def _keep_to_itself() -> None:
    """Let a Ray that is started here admit only this process, and send no usage reports.

    A connection needs a token that is written nowhere. Settings of the environment take precedence.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "RAY_AUTH_MODE" not in os.environ:  # without a token Ray writes one into the home folder
        os.environ.setdefault("RAY_AUTH_TOKEN", _token())


@cache
def _token() -> str:
    """One token per process: Ray remembers the first that it sees."""
    return secrets.token_hex(32)


def _check_address(address: str | None) -> None:
    """Raise `OSError` if nothing listens at ``host:port``; Ray would wait for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def room_for(ray: Any, workers: SharedExecution) -> tuple[int, dict[str, float]]:
    """The number of workers, and the resources of each.

    Raises:
        ValueError: If they do not fit on all nodes together: Ray would wait for ever.
    """
    n_gpus = int(ray.cluster_resources().get("GPU", 0))
    gpus = workers.gpus
    if gpus == "auto":
        gpus = min(n_gpus, 1)
        if workers.device_map is not None and workers.workers is not None:
            gpus = n_gpus // workers.workers  # the model is spread over several
    n_workers = workers.workers or (max(1, int(n_gpus / gpus)) if gpus else 2)
    # A local Ray has no other work to share the CPUs with.
    needs = {"CPU": 0 if workers.address is None else 1, "GPU": gpus}
    room = sum(_fits(node, needs, n_workers) for node in ray.nodes() if node["Alive"])
    if room < n_workers:
        each = " and ".join(f"{need:g} {name}" for name, need in needs.items() if need)
        raise ValueError(
            f"there is room for {room} workers of {each} each, not for {n_workers}. Ask for fewer "
            "or smaller ones, or add nodes to the cluster."
        )
    return n_workers, needs


def _fits(node: Mapping[str, Any], needs: Mapping[str, float], most: int) -> int:
    """The number of workers that fit on a node."""
    # A little is added, since 1 / (1 / 3) may be below 3.
    fits = [
        int(node["Resources"].get(name, 0) / need + 1e-6) for name, need in needs.items() if need
    ]
    return min(fits, default=most)
