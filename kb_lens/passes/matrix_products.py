"""Float32 matrix products on a CPU by the faster of two libraries that torch brings.

By default torch multiplies float32 matrices with MKL, which on some processors reaches half of what
oneDNN reaches. torch hands them to oneDNN only where lower precision is allowed, and what oneDNN
does with that permission depends on the processor: one with matrix units for bfloat16 rounds, one
without computes in float32 all the same. So the permission is given only where products that would
show rounding at once come out exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch.nn import functional as F

_EXACT = 2e-6
"""Largest relative error of a float32 product; one rounded to bfloat16 has 2e-3."""
_SHAPES = ((1, 64, 64), (37, 576, 192), (256, 300, 512))
"""Rows, inner and outer size of the products tried: oneDNN has kernels of its own for single rows
and for sizes that fill its blocks."""


@contextmanager
def fast_products(cfg: Any) -> Iterator[None]:
    """Inside, a float32 model on the CPU multiplies by the faster library where that is exact.

    Args:
        cfg: The model's configuration: its ``device`` and ``dtype`` count.
    """
    on_cpu = torch.device(cfg.device).type == "cpu"
    if not (on_cpu and cfg.dtype == torch.float32 and _exact()):
        yield
        return
    with _allowed():
        yield


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
