"""Both implementations of the product give the same numbers."""

import pytest
import torch

from models.training import product as module
from models.training.product import product


@pytest.mark.parametrize("rows", [1, 16, 100])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_and_small_products(
    rows: int, transposed: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    g = torch.Generator().manual_seed(0)
    x, w = torch.randn(rows, 30, generator=g, dtype=dtype), torch.randn(7, 30, generator=g, dtype=dtype)
    x, w = (x.T.contiguous().T, w.T.contiguous().T) if transposed else (x, w)
    b = torch.randn(7, generator=g, dtype=dtype)
    wanted = x.double() @ w.double().T
    for threshold in (1, module.MIN_MACS):
        monkeypatch.setattr(module, "MIN_MACS", threshold)
        torch.testing.assert_close(product(x, w), wanted.to(dtype), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(product(x, w, b), (wanted + b).to(dtype), rtol=1e-5, atol=1e-5)


def test_without_onednn_torch_computes_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_MACS", 1)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert torch.equal(product(torch.ones(2, 3), torch.ones(4, 3)), torch.full((2, 4), 3.0))
