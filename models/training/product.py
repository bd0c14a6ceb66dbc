"""Large matrix products by oneDNN.

For single precision torch calls MKL, which uses half of the vector units on AMD processors. OneDNN, which computes
torch's convolutions, uses all of them. Its product is an operator that otherwise only compiled code calls. If torch
lacks it, or the product is small, this module falls back to torch's own product.
"""

import torch
from torch import Tensor

MIN_MACS = 2_000_000  # from this size on oneDNN was faster, measured with 10 to 1300 rows


def product(x_BI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Compute ``x @ W^T + b``, (B, O), without gradients."""
    if x_BI.shape[0] * weight_OI.numel() >= MIN_MACS and x_BI.dtype is torch.float32 and x_BI.device.type == "cpu":
        linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
        if linear is not None and torch.backends.mkldnn.is_available():
            return linear(
                x_BI.detach(), weight_OI.detach(), None if bias_O is None else bias_O.detach(), "none", [], ""
            )
    return torch.nn.functional.linear(x_BI, weight_OI, bias_O)
