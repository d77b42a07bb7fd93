"""The faster library for float32 products is used only where its products are exact."""

from types import SimpleNamespace

import pytest
import torch

from kb_lens.passes import matrix_products
from kb_lens.passes.matrix_products import fast_products

FLOAT = SimpleNamespace(cfg=SimpleNamespace(device="cpu", dtype=torch.float32))
setting = torch.backends.mkldnn.matmul


def test_products_stay_those_of_float32():
    left, right = torch.randn(300, 600), torch.randn(400, 600)
    true = left.double() @ right.double().T
    with fast_products(FLOAT):
        found = torch.nn.functional.linear(left, right)
    assert (found - true).norm() / true.norm() < 2e-6


def test_the_setting_is_as_it_was_also_after_an_exception():
    before = setting.fp32_precision
    with pytest.raises(RuntimeError), fast_products(FLOAT):
        raise RuntimeError
    assert setting.fp32_precision == before


def test_a_library_that_rounds_is_not_used(monkeypatch):
    linear = torch.nn.functional.linear

    def rounding(left, right):
        if setting.fp32_precision == "bf16":
            left, right = left.bfloat16().float(), right.bfloat16().float()
        return linear(left, right)

    monkeypatch.setattr(torch.nn.functional, "linear", rounding)
    matrix_products._exact.cache_clear()
    try:
        assert not matrix_products._exact()
        with fast_products(FLOAT):
            assert setting.fp32_precision != "bf16"
    finally:
        matrix_products._exact.cache_clear()


def test_narrow_types_are_left_alone():
    with fast_products(SimpleNamespace(cfg=SimpleNamespace(device="cpu", dtype=torch.bfloat16))):
        assert setting.fp32_precision != "bf16"
