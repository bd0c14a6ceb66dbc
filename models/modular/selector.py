"""The unified module selector: one light network that routes a sample through all module layers (ECLM 4.2).

Shape suffixes: B batch, E embedding, N modules of a layer, M modules of a layer in the client's sub-model.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.body import device_of

FIRST_SPREAD = 0.2  # standard deviation of a module's first logits over samples
FIRST_NOISE = 0.05  # standard deviation of the noise on them


@dataclass(frozen=True)
class Routing:
    """How gates follow from the selector's logits.

    Args:
        top_k: active modules per sample in each layer; fewer if the sub-model has fewer.
        scale: sum of the gates of one sample. With ``scale = shrink``, equal gates over ``shrink`` modules are 1 each,
            which reproduces the dense model.
        core: the first module is always active with gate ``scale / top_k``. The mean gate of the other active modules
            has the same value, however few they are.
    """

    top_k: int
    scale: float
    core: bool = False

    def gates(self, logits_BM: Tensor) -> Tensor:
        """Compute gates (B, M) of the given modules: zero outside the top k, renormalised over it.

        Given the columns of a sub-model's modules, this selects among the *available* modules.
        """
        k = min(self.top_k, logits_BM.shape[1])
        if not self.core:
            return _scaled_softmax(logits_BM, k, self.scale)
        mean = self.scale / self.top_k
        others = _scaled_softmax(logits_BM[:, 1:], k - 1, (k - 1) * mean)
        return torch.cat([torch.full_like(logits_BM[:, :1], mean), others], dim=1)


def _scaled_softmax(logits_BM: Tensor, k: int, total: float) -> Tensor:
    """Return ``total`` times the softmax over the k largest logits, 0 elsewhere."""
    values_BK, index_BK = logits_BM.topk(k, dim=1)
    return torch.zeros_like(logits_BM).scatter(1, index_BK, total * values_BK.softmax(1))


class Selector(nn.Module):
    """An embedding network and one linear head per module layer.

    Args:
        input_shape: shape of one sample, (F,) or (C, H, W).
        layers: number of modules N of each module layer, by its axis.
        embed: width E of the embedding.
        generator: source of the initial weights; None leaves torch's.
        core: the first module of each layer gets the importance of all others together, for every sample, so every
            sub-model contains it. The state then has an entry ``core``.
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
                # Images of 16 x 16 and multiples have 2 x 2 positions here; all others are pooled to 2 x 2.
                nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()),
                nn.Linear(embed * 4, embed),
                nn.ReLU(),
            )
        else:
            self.embed = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), embed), nn.ReLU())
        # Heads start at zero, so all modules are equally likely at first.
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

    @torch.no_grad()
    def choose_one_copy_of_each(self, x: Tensor, slices: int, generator: torch.Generator) -> None:
        """Let every sample begin with one copy of each slice, in place (ours).

        Module i of the modular model is a copy of slice ``i mod slices`` of the dense model. If the modules of a sample
        are drawn at random, some slices occur twice and others not at all. Here the logits of the two copies of a slice
        are random linear functions of the embedding with opposite signs. So one of them is in the larger half of all
        logits, and with ``top_k = slices`` the network begins as the dense model. For the same reason the noise of the
        first steps is small.

        Args:
            x: (n, ...) samples, for the mean and the scale of the logits.
            slices: of the dense model; without copies, nothing changes.
            generator: source of the random numbers.
        """
        device = device_of(self)
        h_nE = self.embed(x.to(device))
        mean_E = h_nE.mean(0)
        for head, noise in zip(self.heads, self.noise, strict=True):
            assert isinstance(head, nn.Linear) and isinstance(noise, nn.Linear)
            modules, embed = head.weight.shape
            copies = modules // slices
            if copies < 2:
                continue
            weight_RSE = torch.randn(copies, slices, embed, generator=generator).to(device)
            weight_RSE -= weight_RSE.mean(0)
            if self.core is not None:
                weight_RSE[:, 0] = 0  # the core is always active; its copy waits between the others
            weight_NE = weight_RSE.flatten(0, 1)
            std_N = ((h_nE - mean_E) @ weight_NE.T).std(0)
            weight_NE *= (FIRST_SPREAD / std_N.clamp(min=1e-6))[:, None]
            head.weight[: copies * slices] = weight_NE
            head.bias[: copies * slices] = -weight_NE @ mean_E
            nn.init.constant_(noise.bias, math.log(math.expm1(FIRST_NOISE)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute logits (B, N) for every layer."""
        h_BE = self.embed(x)
        return [self._with_core(head(h_BE)) for head in self.heads]

    def specialists(self, layer_BN: Tensor) -> Tensor:
        """Return the columns of all modules except the core."""
        return layer_BN if self.core is None else layer_BN[:, 1:]

    def _with_core(self, logits_BN: Tensor) -> Tensor:
        """Set the core's logit to the log-sum-exp of all others."""
        if self.core is None:
            return logits_BN
        others = self.specialists(logits_BN)
        return torch.cat([others.logsumexp(1, keepdim=True), others], dim=1)

    @torch.no_grad()
    def logits(self, x: Tensor, batch_size: int = 500) -> list[Tensor]:
        """Compute logits (n, N) for every layer in evaluation: without gradients, batch by batch.

        Samples and logits are in CPU memory, wherever the selector computes.
        """
        self.eval()
        device = device_of(self)
        chunks = [self(part.to(device)) for part in x.split(batch_size)]
        return [torch.cat(layer).cpu() for layer in zip(*chunks, strict=True)]

    def noisy(self, x: Tensor, generator: torch.Generator) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Compute routing for training with noisy top-k (Shazeer et al. 2017, arXiv:1701.06538, eq. 4).

        Returns:
            Clean logits, noisy logits and the standard deviation of the noise, each (B, N), for every layer.
        """
        h_BE = self.embed(x)
        routed = []
        for head, noise in zip(self.heads, self.noise, strict=True):
            clean, std = head(h_BE), F.softplus(noise(h_BE)) + 1e-2
            noisy = clean + std * torch.randn(clean.shape, generator=generator).to(clean.device)
            routed.append((self._with_core(clean), self._with_core(noisy), std))
        return routed


def importance(logits: Sequence[Tensor]) -> list[Tensor]:
    """Compute the importance of each module for a data set: the mean of g(x)_i over its samples (ECLM 5.1).

    Returns:
        (N,) per layer.
    """
    return [layer.softmax(1).mean(0) for layer in logits]


def _cv_squared(x: Tensor) -> Tensor:
    return x.var(unbiased=False) / (x.mean() ** 2 + 1e-10)


def load_balance(routed: Sequence[tuple[Tensor, Tensor, Tensor]], top_k: int) -> Tensor:
    """Compute CV(importance)^2 + CV(load)^2, averaged over the layers (Shazeer et al. 2017, eqs. 6 to 11).

    Importance is the softmax before the top k, so modules that are never active also get a gradient.

    Args:
        routed: result of `Selector.noisy`.
        top_k: active modules per sample.
    """
    loss = torch.zeros(())
    for clean, noisy, std in routed:
        loss = loss + _cv_squared(noisy.softmax(1).sum(0))
        modules = clean.shape[1]
        if top_k < modules:
            # P(module i is among the top k under fresh noise), a differentiable estimate of its load.
            top_scores = noisy.topk(top_k + 1, dim=1).values
            inside = noisy >= top_scores[:, top_k - 1 : top_k]
            threshold = torch.where(inside, top_scores[:, top_k : top_k + 1], top_scores[:, top_k - 1 : top_k])
            probability = torch.special.ndtr((clean - threshold) / std)
            loss = loss + _cv_squared(probability.sum(0))
    return loss / len(routed)
