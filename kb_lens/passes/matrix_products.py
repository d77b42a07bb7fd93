"""Float32 matrix products on a CPU, by the faster of torch's two libraries.

By default torch multiplies float32 matrices with MKL, which on some processors is half as fast as
oneDNN. torch uses oneDNN only if lower precision is allowed. Then oneDNN rounds on a processor with
matrix units for bfloat16, and computes in float32 on others. So lower precision is allowed only if
test products that would show rounding are exact, and if oneDNN is faster. Timing both takes a
quarter of a second, once for each machine; the choice is kept in the cache folder, so that all
processes multiply alike. ``KB_LENS_TUNING=off`` skips the timing and uses oneDNN wherever it is
exact.
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
"""Largest relative error of a float32 product; rounding to bfloat16 gives 2e-3."""
_SHAPES = ((1, 64, 64), (37, 576, 192), (256, 300, 512))
"""Rows, inner and outer size of the test products: oneDNN has special kernels for single rows and
for sizes that fill its blocks."""


_TIMED = ((256, 576, 1536), (256, 1536, 576), (64, 1024, 1024))
"""The timed sizes, like those of small models' layers."""
_CLEARLY = 0.95
"""The default library is chosen if it takes less than this share of oneDNN's time."""
Library = Literal["oneDNN", "default"]
Tuning = Literal["auto", "off"]
_VARIABLE = "KB_LENS_TUNING"


@contextmanager
def fast_products(cfg: Any) -> Iterator[None]:
    """Inside, a float32 model on the CPU multiplies by the faster library if that is exact.

    Args:
        cfg: The model's configuration, of which ``device`` and ``dtype`` are used.
    """
    if product_library(cfg) != "oneDNN":
        yield
        return
    with _allowed():
        yield


def product_library(cfg: Any) -> Library:
    """The library that multiplies for a model inside `fast_products`."""
    on_cpu = torch.device(cfg.device).type == "cpu"
    if not (on_cpu and cfg.dtype == torch.float32 and _exact()):
        return "default"
    return "oneDNN" if tuning() == "off" else _kept_choice(torch.get_num_threads())


def tuning() -> Tuning:
    """``auto`` if the library is chosen by timing, else ``off``."""
    return "off" if os.environ.get(_VARIABLE) == "off" else "auto"


def use_tuning(mode: Tuning) -> None:
    """Set the tuning for this process and those that it starts."""
    os.environ[_VARIABLE] = mode


@cache
def _kept_choice(n_threads: int) -> Library:
    """The faster library for this number of threads, timed once on this machine."""
    name = entry_key(["product library", processor(), torch.__version__, n_threads])
    store = Store(cache_folder() / "tuning", ".txt")
    try:
        kept = store.obtain(name, lambda: _faster().encode()).decode()
    except OSError:  # the choice cannot be stored: each process times for itself
        kept = _faster()
    return "default" if kept == "default" else "oneDNN"


def _faster() -> Library:
    """The library that takes less time, by the best of several tries in turn."""
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
    """The processor's name, if the system gives it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@contextmanager
def _allowed() -> Iterator[None]:
    setting: Any = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"  # allows oneDNN; does not force rounding
    try:
        yield
    finally:
        setting.fp32_precision = before


@cache
def _exact() -> bool:
    """Whether products are as exact as float32 if lower precision is allowed."""
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
        if not error <= _EXACT:  # also if it is NaN
            return False
    return True
