"""The faster library for float32 products is used only where its products are exact."""

import pytest
import torch
from torch.nn import functional as F

from kb_lens.passes import matrix_products
from kb_lens.passes.matrix_products import fast_products

setting = torch.backends.mkldnn.matmul


def test_products_stay_those_of_float32(llama):
    left = torch.randn(300, 600)
    right = torch.randn(400, 600)
    exact = left.double() @ right.double().T
    with fast_products(llama.cfg):
        product = F.linear(left, right)
    assert (product - exact).norm() / exact.norm() < 2e-6


def test_the_setting_is_as_it_was_also_after_an_exception(llama):
    before = setting.fp32_precision
    with pytest.raises(RuntimeError), fast_products(llama.cfg):
        raise RuntimeError
    assert setting.fp32_precision == before


def test_a_library_that_rounds_is_not_used(llama, monkeypatch):
    linear = F.linear

    def rounding(left, right):
        if setting.fp32_precision == "bf16":
            left = left.bfloat16().float()
            right = right.bfloat16().float()
        return linear(left, right)

    monkeypatch.setattr(F, "linear", rounding)
    matrix_products._exact.cache_clear()
    try:
        assert not matrix_products._exact()
        with fast_products(llama.cfg):
            assert setting.fp32_precision != "bf16"
    finally:
        matrix_products._exact.cache_clear()  # remembered for the process


def test_narrow_types_are_left_alone(llama, monkeypatch):
    monkeypatch.setattr(llama.cfg, "dtype", torch.bfloat16)
    with fast_products(llama.cfg):
        assert setting.fp32_precision != "bf16"
