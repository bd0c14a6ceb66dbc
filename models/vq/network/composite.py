"""Both halves in one graph: for pretraining, for baselines without a cut, and as a reference for the split step."""

from torch import Tensor

from models.vq.network.halves import CloudHalf, DeviceHalf
from models.vq.network.tokens import Tokens
from models.vq.quantiser.codebook import Codebook, Estimator, straight_through


def states(
    device: DeviceHalf,
    cloud: CloudHalf,
    tokens: Tokens,
    codebook: Codebook | None = None,
    estimator: Estimator = straight_through,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute hidden states (B, T', d), positions of each text (B,), and the commitment loss, 0 without a codebook."""
    z = device(tokens)
    if codebook is None:
        return *cloud(z, tokens.lengths), z.new_zeros(())
    _, q = codebook.quantise(z, estimator)
    return *cloud(q, tokens.lengths), codebook.commitment(z, q)
