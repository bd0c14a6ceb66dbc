"""Gaussian noise on what a device sends that is made of its data, and what that guarantees.

A device adds noise before anything leaves it, so the guarantee holds against the cloud itself, whatever that merges,
and against everyone behind it: local (epsilon, delta)-differential privacy of *all data that the device holds*,
replaced by any other data. Standard deviations are in units of the most that such a replacement can change:

    update      the change is shortened to norm C (``update-clip``); two such changes differ by at most 2 C
    importance  a distribution over modules for each of L layers; two such sets differ by at most sqrt(2 L)

Where one machine plays all devices the noise is addressed by the seed, as everything is; a device of its own
(``placement = "own"``) draws from the system's entropy, for nobody can hide behind noise that the cloud can repeat.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from models.submodel import State
from partitions import Purpose, rng

if TYPE_CHECKING:
    from fl.config.settings import Settings
    from fl.workloads.workload import Order


def _generator(settings: "Settings", order: "Order", what: int) -> np.random.Generator:
    if settings.placement == "own":
        return np.random.default_rng()
    return rng(order.seed, Purpose.NOISE, what, order.round, order.device)


def private_update(settings: "Settings", order: "Order", sent: State, trained: State) -> State:
    """``sent + clip(trained - sent) + noise``; entries that are no floating-point numbers stay as they are."""
    change = {name: value.double() - sent[name] for name, value in trained.items() if value.is_floating_point()}
    length = math.sqrt(sum(float(value.square().sum()) for value in change.values()))
    shorter = min(1.0, settings.update_clip / max(length, 1e-300))
    deviation, generator = settings.update_noise * 2 * settings.update_clip, _generator(settings, order, 0)
    noisy = {
        name: sent[name] + shorter * value + deviation * torch.from_numpy(generator.standard_normal(value.shape))
        for name, value in change.items()
    }
    return trained | {name: value.to(trained[name].dtype) for name, value in noisy.items()}


def private_importance(
    settings: "Settings", order: "Order", importance: Mapping[str, list[float]]
) -> dict[str, list[float]]:
    """Noisy distributions over the modules of each layer: negative values are cut off, and the rest sums to 1."""
    deviation, generator = settings.importance_noise * math.sqrt(2 * len(importance)), _generator(settings, order, 1)
    told = {}
    for layer, values in importance.items():
        noisy = np.maximum(np.array(values) + deviation * generator.standard_normal(len(values)), 0) + 1e-12
        told[layer] = (noisy / noisy.sum()).tolist()
    return told


def epsilon(releases: Sequence[tuple[float, int]], delta: float) -> float:
    """What a device spends in all, by Renyi accounting.

    Args:
        releases: (noise multiplier, how many times something was sent under it); 0 is no noise, and no guarantee.

    Raises:
        SettingsError: opacus is not installed.
    """
    try:
        from opacus.accountants import RDPAccountant
    except ModuleNotFoundError as error:
        from fl.config.settings import SettingsError

        raise SettingsError("accounting needs opacus: pip install 'driftfed[privacy]'") from error
    spent = [(multiplier, 1.0, count) for multiplier, count in releases if count]  # 1: of all that the device holds
    if not all(multiplier for multiplier, _, _ in spent):
        return math.inf
    accountant = RDPAccountant()
    accountant.history = spent
    return float(accountant.get_epsilon(delta)) if spent else 0.0
