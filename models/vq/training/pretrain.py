"""Pretraining of both halves on unlabelled text: masked tokens (DCCT eq. 3) and replaced tokens (ELECTRA).

In a distributed setting, the device keeps private parts: the text, the tied output layer of masked tokens, and
ELECTRA's generator. ELECTRA exchanges one number per token, masked tokens a state of d numbers each.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.vq.ends import LearningRates
from models.vq.network.composite import states
from models.vq.network.halves import CloudHalf, DeviceHalf, Half, PooledLayer, Shape, bert_init, seeded
from models.vq.network.heads import Masked, Replaced, head_for
from models.vq.network.pooling import flatten
from models.vq.network.tokens import Tokens, batches
from models.vq.quantiser.codebook import Codebook, Estimator, straight_through
from partitions.rng import Purpose, rng

RTD_WEIGHT = 50.0  # weight of the discriminator's loss (Clark et al., arXiv:2003.10555)


def choose_masked(
    tokens: Tokens, special: Sequence[int], generator: np.random.Generator, share: float = 0.15
) -> Tensor:
    """Choose the tokens to mask, bool (B, T).

    Args:
        tokens: the texts.
        special: ids that are never masked.
        generator: source of the choice.
        share: share of each text's other tokens that is masked, at least one token.
    """
    candidates = ~torch.isin(tokens.ids, torch.tensor([0, *special]))
    scores = torch.from_numpy(generator.random(tokens.ids.shape)).masked_fill(~candidates, 2.0)
    counts = (candidates.sum(1) * share).round().clamp_min(1)
    return candidates & (scores.argsort(1).argsort(1) < counts[:, None])


def corrupt(tokens: Tokens, chosen: Tensor, mask: int) -> Tokens:
    """Replace the chosen tokens (B, T) with [MASK]."""
    return Tokens(tokens.ids.masked_fill(chosen, mask), tokens.types, tokens.lengths)


class Tied(Half):
    """The device's output layer over its vocabulary: its word embeddings and a bias."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(shape.vocabulary))

    def forward(self, h: Tensor, device: DeviceHalf) -> Tensor:
        """Compute logits (n, V) of states (n, d)."""
        return F.linear(h, device.embeddings.word_embeddings.weight, self.bias)


class Generator(Half):
    """ELECTRA's generator, a narrow encoder on the device's embeddings.

    Args:
        shape: of the halves.
        narrow: its width is d divided by this.
        layers: number of layers.
    """

    def __init__(self, shape: Shape, narrow: int = 4, layers: int = 1):
        super().__init__()
        config = shape.bert
        config.hidden_size, config.intermediate_size = shape.hidden // narrow, shape.inner // narrow
        config.num_attention_heads = max(1, shape.heads // narrow)
        self.into, self.out = nn.Linear(shape.hidden, config.hidden_size), nn.Linear(config.hidden_size, shape.hidden)
        self.layers = nn.ModuleList(PooledLayer(config, 1) for _ in range(layers))
        self.tied = Tied(shape)

    def forward(self, tokens: Tokens, chosen: Tensor, device: DeviceHalf) -> Tensor:
        """Compute logits (chosen tokens, V)."""
        h = self.into(device.embeddings(tokens.ids, tokens.types))
        for layer in self.layers:
            h, _ = layer(h, tokens.lengths)
        return self.tied(self.out(h[chosen]), device)


def generator_for(shape: Shape, seed: int) -> Generator:
    """Build a new generator with BERT's initial weights."""
    with seeded(seed):
        return Generator(shape).apply(bert_init)


def masked_loss(
    device: DeviceHalf,
    cloud: CloudHalf,
    head: Masked,
    tied: Tied,
    tokens: Tokens,
    chosen: Tensor,
    mask: int,
    codebook: Codebook | None = None,
    beta: float = 0.25,
    estimator: Estimator = straight_through,
) -> Tensor:
    """Compute the mean cross-entropy of the chosen tokens (B, T), plus beta times the commitment loss."""
    h, _, commitment = states(device, cloud, corrupt(tokens, chosen, mask), codebook, estimator)
    rows = head.hidden(h, tokens.lengths)[flatten(chosen[..., None], tokens.lengths)[:, 0]]
    return F.cross_entropy(tied(rows, device), tokens.ids[chosen]) + beta * commitment


def replace(
    generator: Generator, device: DeviceHalf, tokens: Tokens, chosen: Tensor, mask: int, rng: np.random.Generator
) -> tuple[Tokens, Tensor, Tensor]:
    """Replace the chosen tokens (B, T) with samples of the generator, which pass no gradient.

    Returns:
        The texts; float32 (sum of lengths,), 1 where a token differs from the original; the generator's mean
            cross-entropy.
    """
    logits = generator(corrupt(tokens, chosen, mask), chosen, device)
    noise = torch.from_numpy(rng.gumbel(size=tuple(logits.shape))).float()
    samples = (logits.detach() + noise).argmax(1)
    ids = tokens.ids.masked_scatter(chosen, samples)
    replaced = flatten((ids != tokens.ids)[..., None], tokens.lengths)[:, 0].float()
    return Tokens(ids, tokens.types, tokens.lengths), replaced, F.cross_entropy(logits, tokens.ids[chosen])


def replaced_loss(
    device: DeviceHalf,
    cloud: CloudHalf,
    head: Replaced,
    generator: Generator,
    tokens: Tokens,
    chosen: Tensor,
    mask: int,
    rng: np.random.Generator,
    codebook: Codebook | None = None,
    beta: float = 0.25,
    estimator: Estimator = straight_through,
) -> Tensor:
    """Compute ELECTRA's loss of the chosen tokens (B, T).

    It is the generator's loss, plus 50 times the loss of the halves and ``head``, plus beta times the commitment loss.
    """
    texts, replaced, generator_loss = replace(generator, device, tokens, chosen, mask, rng)
    h, positions, commitment = states(device, cloud, texts, codebook, estimator)
    discriminator_loss = head.loss(head(h, positions, tokens.lengths), replaced, tokens.lengths)
    return generator_loss + RTD_WEIGHT * discriminator_loss + beta * commitment


Loss = Callable[[Tokens, Tensor, np.random.Generator], Tensor]
"""``loss(texts, chosen, generator)`` of the chosen tokens, (B, T)."""


def _masked(device: DeviceHalf, cloud: CloudHalf, mask: int, seed: int) -> tuple[list[Half], Loss]:
    head, tied = head_for("mlm", device.shape, 0, seed), Tied(device.shape)
    assert isinstance(head, Masked)
    return [head, tied], lambda texts, chosen, _: masked_loss(device, cloud, head, tied, texts, chosen, mask)


def _replaced(device: DeviceHalf, cloud: CloudHalf, mask: int, seed: int) -> tuple[list[Half], Loss]:
    head, electra_generator = head_for("rtd", device.shape, 1, seed), generator_for(device.shape, seed)
    assert isinstance(head, Replaced)

    def loss(texts: Tokens, chosen: Tensor, generator: np.random.Generator) -> Tensor:
        return replaced_loss(device, cloud, head, electra_generator, texts, chosen, mask, generator)

    return [head, electra_generator], loss


OBJECTIVES = {"mlm": _masked, "electra": _replaced}
"""Functions that return the parts needed only in training, and the loss."""


def pretrain(
    device: DeviceHalf,
    cloud: CloudHalf,
    objective: str,
    tokens: Tokens,
    special: Sequence[int],
    mask: int,
    epochs: int,
    batch: int,
    lr: float,
    seed: int,
) -> list[float]:
    """Train both halves on unlabelled texts, with activations between them.

    Args:
        device, cloud: the halves, trained in place.
        objective: a name in `OBJECTIVES`.
        tokens: the texts.
        special: ids that are never masked.
        mask: the id of [MASK].
        epochs, batch: passes over the texts, texts per step.
        lr: peak learning rate.
        seed: of all random numbers.

    Returns:
        The mean loss of each epoch.
    """
    extra_parts, loss_of = OBJECTIVES[objective](device, cloud, mask, seed)
    parts = [device, cloud, *extra_parts]
    rates = LearningRates(lr, lr, epochs * -(-len(tokens) // batch))
    optimizer, schedule = rates.build([p for part in parts for p in part.parameters() if p.requires_grad], [])
    for part in parts:
        part.train()
    losses = []
    for epoch in range(epochs):
        total = 0.0
        for step, rows in enumerate(batches(tokens.lengths, batch, rng(seed, Purpose.OFFLINE, 0, epoch))):
            generator = rng(seed, Purpose.OFFLINE, 0, epoch, step)
            texts = tokens[rows]
            with seeded(int(generator.integers(2**63))):
                loss = loss_of(texts, choose_masked(texts, special, generator), generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(rows)
        losses.append(total / len(tokens))
    return losses
