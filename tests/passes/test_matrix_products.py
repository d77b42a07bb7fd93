"""The faster library for float32 products is used only where its products are exact."""

import pytest
import torch
from torch.nn import functional as F

from kb_lens.passes import matrix_products
from kb_lens.passes.matrix_products import fast_products, product_library, use_tuning

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


@pytest.fixture
def auto(monkeypatch, tmp_path):
    monkeypatch.setenv("KB_LENS_TUNING", "auto")
    monkeypatch.setenv("KB_LENS_CACHE", str(tmp_path))
    monkeypatch.setattr(matrix_products, "_exact", lambda: True)
    matrix_products._kept_choice.cache_clear()
    yield tmp_path
    matrix_products._kept_choice.cache_clear()


@pytest.mark.parametrize("faster", ["oneDNN", "default"])
def test_the_faster_library_is_measured_once_a_machine(llama, auto, monkeypatch, faster):
    measured = []
    monkeypatch.setattr(matrix_products, "_faster", lambda: measured.append(1) or faster)
    assert product_library(llama.cfg) == faster
    matrix_products._kept_choice.cache_clear()  # as another process
    assert product_library(llama.cfg) == faster
    assert len(measured) == 1
    with fast_products(llama.cfg):
        assert (setting.fp32_precision == "bf16") == (faster == "oneDNN")


def test_without_measuring_it_is_the_exact_one(llama, auto, monkeypatch):
    monkeypatch.setattr(matrix_products, "_faster", lambda: pytest.fail("measured"))
    use_tuning("off")
    assert product_library(llama.cfg) == "oneDNN"
    monkeypatch.setattr(matrix_products, "_exact", lambda: False)
    assert product_library(llama.cfg) == "default"


def test_a_damaged_choice_is_measured_again(llama, auto, monkeypatch):
    monkeypatch.setattr(matrix_products, "_faster", lambda: "default")
    product_library(llama.cfg)
    (kept,) = (auto / "tuning").glob("*.txt")
    kept.write_text("nonsense")
    matrix_products._kept_choice.cache_clear()
    with pytest.warns(UserWarning, match="is damaged"):
        assert product_library(llama.cfg) == "default"


def test_nowhere_to_keep_it_is_no_error(llama, auto, monkeypatch):
    (auto / "tuning").write_text("a file where the folder should be")
    monkeypatch.setattr(matrix_products, "_faster", lambda: "default")
    assert product_library(llama.cfg) == "default"


def test_timing_takes_both_and_leaves_the_setting(auto):
    before = setting.fp32_precision
    assert matrix_products._faster() in ("oneDNN", "default")
    assert setting.fp32_precision == before
