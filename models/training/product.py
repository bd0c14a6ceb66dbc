"""Large matrix products by oneDNN.

In single precision torch takes MKL for them, which on AMD's processors uses half of the vector units; oneDNN, which
does torch's convolutions, uses all of them. Its product has a name of its own that only compiled code calls, so where
a torch lacks it, or there is nothing to be won, this is torch's product.
"""

import torch
from torch import Tensor

ENOUGH = 2_000_000  # multiplications from which on it was faster, measured with 10 to 1300 rows


def product(x_BI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """``x @ W^T + b``, (B, O). No gradients."""
    if x_BI.shape[0] * weight_OI.numel() >= ENOUGH and x_BI.dtype is torch.float32 and x_BI.device.type == "cpu":
        linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
        if linear is not None and torch.backends.mkldnn.is_available():
            return linear(
                x_BI.detach(), weight_OI.detach(), None if bias_O is None else bias_O.detach(), "none", [], ""
            )
    return torch.nn.functional.linear(x_BI, weight_OI, bias_O)
