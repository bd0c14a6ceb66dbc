"""The unified module selector: one light network that routes a sample through all module layers at once (ECLM 4.2).

Shape suffixes: B batch, E embedding, N modules of a layer, M modules held on a device.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.body import home


@dataclass(frozen=True)
class Routing:
    """How gates follow from the selector's output.

    Args:
        top_k: modules active per sample in each layer; fewer if fewer are held.
        scale: what the gates of one sample sum to. With ``scale = shrink`` an even spread over ``shrink`` modules gives
            each the gate 1, which is what a taken-over dense model computes.
        core: the first module is always active and its gate always ``scale / top_k``; the gates of the others average
            that too, however few they are.
    """

    top_k: int
    scale: float
    core: bool = False

    def gates(self, logits_BM: Tensor) -> Tensor:
        """Gates (B, M) of the modules whose logits are given: zero outside the top k, renormalised over it.

        Given the columns of the modules that a device holds, this is the selection among *available* modules.
        """
        k = min(self.top_k, logits_BM.shape[1])
        if not self.core:
            return _spread(logits_BM, k, self.scale)
        mean = self.scale / self.top_k
        others = _spread(logits_BM[:, 1:], k - 1, (k - 1) * mean)
        return torch.cat([torch.full_like(logits_BM[:, :1], mean), others], dim=1)


def _spread(logits_BM: Tensor, k: int, total: float) -> Tensor:
    """``total`` times the softmax over the k largest logits, 0 elsewhere."""
    top_BK, at_BK = logits_BM.topk(k, dim=1)
    return torch.zeros_like(logits_BM).scatter(1, at_BK, total * top_BK.softmax(1))


class Selector(nn.Module):
    """Embedding network and one linear head per module layer.

    Args:
        input_shape: one sample, (F,) or (C, H, W).
        layers: number of modules N of each module layer, by its axis.
        embed: width E of the embedding.
        core: the first module of each layer counts as much as all the others together, whatever the sample, so that
            every sub-model holds it. The state says so by an entry of this name.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        layers: Mapping[str, int],
        embed: int,
        generator: torch.Generator | None = None,
        core: bool = False,
    ):
        super().__init__()
        self.layers = tuple(layers)
        self.register_buffer("core", torch.ones(()) if core else None)
        if len(input_shape) == 3:
            channels, height, _ = input_shape
            self.embed: nn.Module = nn.Sequential(
                nn.AvgPool2d(max(1, height // 16)),
                nn.Conv2d(channels, embed // 4, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(embed // 4, embed // 2, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(embed // 2, embed, 3, stride=2, padding=1),
                nn.ReLU(),
                # Images of 16 x 16 and its multiples are at 2 x 2 already; others, square or not, are brought to it.
                nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()),
                nn.Linear(embed * 4, embed),
                nn.ReLU(),
            )
        else:
            self.embed = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), embed), nn.ReLU())
        # Heads start at zero: every module is equally likely until there is a reason to prefer one.
        self.heads = nn.ModuleList(nn.Linear(embed, n) for n in layers.values())
        self.noise = nn.ModuleList(nn.Linear(embed, n) for n in layers.values())
        for head in (*self.heads, *self.noise):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        if generator is not None:
            for p in self.embed.parameters():
                if p.dim() > 1:
                    nn.init.normal_(p, std=(2.0 / p[0].numel()) ** 0.5, generator=generator)
                else:
                    nn.init.zeros_(p)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Logits (B, N) for every layer."""
        h_BE = self.embed(x)
        return [self._led(head(h_BE)) for head in self.heads]

    def specialists(self, layer_BN: Tensor) -> Tensor:
        """The columns of the modules that are chosen by the sample: all but the core's."""
        return layer_BN if self.core is None else layer_BN[:, 1:]

    def _led(self, logits_BN: Tensor) -> Tensor:
        """The logits with the core's in its place."""
        if self.core is None:
            return logits_BN
        others = self.specialists(logits_BN)
        return torch.cat([others.logsumexp(1, keepdim=True), others], dim=1)

    @torch.no_grad()
    def logits(self, x: Tensor, batch_size: int = 500) -> list[Tensor]:
        """Logits (n, N) for every layer of any number of samples, for serving: no gradient, batch by batch.

        The samples and the logits are in the machine's own memory, wherever the selector computes.
        """
        self.eval()
        place = home(self)
        chunks = [self(part.to(place)) for part in x.split(batch_size)]
        return [torch.cat(layer).cpu() for layer in zip(*chunks, strict=True)]

    def noisy(self, x: Tensor, generator: torch.Generator) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Training: (clean logits, noisy logits, standard deviation of the noise), each (B, N), for every layer.

        Noisy top-k of Shazeer et al. 2017 (arXiv:1701.06538), eq. 4.
        """
        h_BE = self.embed(x)
        out = []
        for head, noise in zip(self.heads, self.noise, strict=True):
            clean, std = head(h_BE), F.softplus(noise(h_BE)) + 1e-2
            noisy = clean + std * torch.randn(clean.shape, generator=generator).to(clean.device)
            out.append((self._led(clean), self._led(noisy), std))
        return out


def importance(logits: Sequence[Tensor]) -> list[Tensor]:
    """Importance of each module for a data set: the mean over its samples of g(x)_i, (N,) per layer (ECLM 5.1)."""
    return [layer.softmax(1).mean(0) for layer in logits]


def _cv_squared(x: Tensor) -> Tensor:
    return x.var(unbiased=False) / (x.mean() ** 2 + 1e-10)


def load_balance(routed: Sequence[tuple[Tensor, Tensor, Tensor]], top_k: int) -> Tensor:
    """CV(importance)^2 + CV(load)^2, mean over the layers (Shazeer et al. 2017, eqs. 6 to 11).

    A module's importance is its share of the softmax before the top k is taken: those that are never active hear of it
    too.

    Args:
        routed: what `Selector.noisy` returned.
        top_k: modules active per sample.
    """
    loss = torch.zeros(())
    for clean, noisy, std in routed:
        loss = loss + _cv_squared(noisy.softmax(1).sum(0))
        n = clean.shape[1]
        if top_k < n:
            # P(module i is among the top k under fresh noise), a smooth stand-in for its load.
            top = noisy.topk(top_k + 1, dim=1).values
            inside = noisy >= top[:, top_k - 1 : top_k]
            threshold = torch.where(inside, top[:, top_k : top_k + 1], top[:, top_k - 1 : top_k])
            chance = torch.special.ndtr((clean - threshold) / std)
            loss = loss + _cv_squared(chance.sum(0))
    return loss / len(routed)
