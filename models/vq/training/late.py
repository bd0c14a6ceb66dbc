"""Codes that come late: a model that was trained with activations gets a codebook, and learns to answer its codes."""

from dataclasses import replace

import torch

from models.vq.network.body import SplitBody
from models.vq.network.pooling import pooled_lengths
from models.vq.network.tokens import Tokens
from models.vq.training.train import Quantiser, Split, SplitTrainingPlan


def add_codes(
    body: SplitBody, plan: SplitTrainingPlan, quantiser: Quantiser, tokens: Tokens, epochs: int, seed: int
) -> None:
    """Let codes cross the cut of a trained model, in place. This needs texts of the cloud, and no labels.

    Code space gets coordinates in which squared error is the change of the model's answers. K-means over all texts
    makes the codebook. Then the cloud half and the head learn to answer codes as they answered activations.

    Args:
        body: with a projection into code space, and without a codebook.
        plan: of its training; its batch size and learning rate serve the teaching.
        quantiser: size and groups of the codebook.
        tokens: n texts.
        epochs: passes over the texts in which the cloud half learns; 0: it stays as it is.
        seed: of k-means and of the batches.
    """
    split = Split(body.device, body.cloud, body.head, replace(plan, quantiser=None))
    (late,) = split.quantised(tokens, [replace(quantiser, weigh=True)], seed)
    if epochs:
        late = late.distil_cloud(tokens, split.predict(tokens), epochs, seed)
    body.device.load(late.device.state())
    body.cloud.load(late.cloud.state())
    body.head.load_state_dict(late.head.state_dict())
    assert late.codebook_ema is not None
    per_example = float(pooled_lengths(tokens.lengths, body.shape.pool).double().mean())
    with torch.no_grad():
        body.set_statistics(late.codebook_ema.with_mass(per_example).running)
