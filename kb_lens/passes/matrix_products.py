"""Float32 matrix products on a CPU by the faster of two libraries that torch brings.

By default torch multiplies float32 matrices with MKL, which on some processors reaches half of what
oneDNN reaches. torch hands them to oneDNN only where lower precision is allowed, and what oneDNN
does with that permission depends on the processor: one with matrix units for bfloat16 rounds, one
without computes in float32 all the same. So the permission is given only where products that would
show rounding at once come out exact, and where they were faster when both were timed. That takes a
quarter of a second, once a machine; what came out is kept in the cache folder, so that all
processes multiply alike.
``KB_LENS_TUNING=off`` measures nothing and takes oneDNN wherever it is exact.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch.nn import functional as F

from kb_lens.models.gguf import cache_folder
from kb_lens.store import Store, entry_key

_EXACT = 2e-6
"""Largest relative error of a float32 product; one rounded to bfloat16 has 2e-3."""
_SHAPES = ((1, 64, 64), (37, 576, 192), (256, 300, 512))
"""Rows, inner and outer size of the products tried: oneDNN has kernels of its own for single rows
and for sizes that fill its blocks."""


_TIMED = ((256, 576, 1536), (256, 1536, 576), (64, 1024, 1024))
"""Sizes like those of small models' layers, which are timed."""
_CLEARLY = 0.95
"""The default library has to take less than this share of oneDNN's time: else they are as good."""
Library = Literal["oneDNN", "default"]
Tuning = Literal["auto", "off"]
_VARIABLE = "KB_LENS_TUNING"


@contextmanager
def fast_products(cfg: Any) -> Iterator[None]:
    """Inside, a float32 model on the CPU multiplies by the faster library where that is exact.

    Args:
        cfg: The model's configuration: its ``device`` and ``dtype`` count.
    """
    if product_library(cfg) != "oneDNN":
        yield
        return
    with _allowed():
        yield


def product_library(cfg: Any) -> Library:
    """Which library multiplies for a model inside `fast_products`; see there."""
    on_cpu = torch.device(cfg.device).type == "cpu"
    if not (on_cpu and cfg.dtype == torch.float32 and _exact()):
        return "default"
    return "oneDNN" if tuning() == "off" else _kept_choice(torch.get_num_threads())


def tuning() -> Tuning:
    """Whether the library is chosen by measuring: ``auto``, or ``off``."""
    return "off" if os.environ.get(_VARIABLE) == "off" else "auto"


def use_tuning(mode: Tuning) -> None:
    """Say so for this process and those that it starts."""
    os.environ[_VARIABLE] = mode


@cache
def _kept_choice(n_threads: int) -> Library:
    """The faster library with so many threads, as it was measured once on this machine."""
    name = entry_key(["product library", processor(), torch.__version__, n_threads])
    store = Store(cache_folder() / "tuning", ".txt")
    try:
        kept = store.obtain(name, lambda: _faster().encode()).decode()
    except OSError:  # nowhere to keep it: each process measures for itself
        kept = _faster()
    return "default" if kept == "default" else "oneDNN"


def _faster() -> Library:
    """Which library takes less time, the best of several tries with each in turn."""
    generator = torch.Generator().manual_seed(0)
    seconds = dict.fromkeys(get_args(Library), 0.0)
    for rows, inner, outer in _TIMED:
        left = torch.randn(rows, inner, generator=generator)
        right = torch.randn(outer, inner, generator=generator)
        best = dict.fromkeys(get_args(Library), math.inf)
        for _ in range(8):
            for library in best:
                with _allowed() if library == "oneDNN" else nullcontext():
                    start = time.perf_counter()
                    for _ in range(4):
                        F.linear(left, right)
                    best[library] = min(best[library], time.perf_counter() - start)
        for library, least in best.items():
            seconds[library] += least
    return "default" if seconds["default"] < _CLEARLY * seconds["oneDNN"] else "oneDNN"


def processor() -> str:
    """The processor's name, where the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@contextmanager
def _allowed() -> Iterator[None]:
    setting: Any = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"  # leave for oneDNN to multiply, not an order to round
    try:
        yield
    finally:
        setting.fp32_precision = before


@cache
def _exact() -> bool:
    """Whether products under the permission are as exact as float32 is."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.backends.mkldnn, "matmul"):
        return False
    generator = torch.Generator().manual_seed(0)
    for rows, inner, outer in _SHAPES:
        left = torch.randn(rows, inner, generator=generator)
        right = torch.randn(outer, inner, generator=generator)
        exact = left.double() @ right.double().T
        with _allowed():
            product = F.linear(left, right).double()
        error = float((product - exact).norm() / exact.norm())
        if not error <= _EXACT:  # also where it is no number
            return False
    return True
