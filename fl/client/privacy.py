"""Gaussian noise on what a client sends that is made of its data, and what that guarantees.

A client adds noise before anything leaves it. So the guarantee holds against the server itself and everyone behind it:
local (epsilon, delta)-differential privacy of *all data of the client*, replaced by any other data. Standard deviations
are in units of the most that such a replacement can change:

    update      the change is shortened to norm C (``client.update-clip``); two such changes differ by at most 2 C
    importance  a distribution over modules for each of L layers; two such sets differ by at most sqrt(2 L)
                (``eclm.importance-noise``, in `strategies.eclm`)

In simulation the noise is addressed by the seed, as everything is. A real device draws from the system's entropy: noise
that the server can repeat hides nothing.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from fl.config import SettingsError
from fl.config.sections import Client
from models.submodel import State


def private_update(section: Client, noise: np.random.Generator, sent: State, trained: State) -> State:
    """Return ``sent + clip(trained - sent) + noise``; entries that are no floating-point numbers stay the same."""
    change = {name: value.double() - sent[name] for name, value in trained.items() if value.is_floating_point()}
    length = math.sqrt(sum(float(value.square().sum()) for value in change.values()))
    shorter = min(1.0, section.update_clip / max(length, 1e-300))
    deviation = section.update_noise * 2 * section.update_clip
    noisy = {
        name: sent[name] + shorter * value + deviation * torch.from_numpy(noise.standard_normal(value.shape))
        for name, value in change.items()
    }
    return trained | {name: value.to(trained[name].dtype) for name, value in noisy.items()}


def epsilon(releases: Sequence[tuple[float, int]], delta: float) -> float:
    """Return what a client spends in all, by Renyi accounting.

    Args:
        releases: (noise multiplier, how many times something was sent under it); 0 is no noise and gives no guarantee.

    Raises:
        SettingsError: opacus is not installed.
    """
    try:
        from opacus.accountants import RDPAccountant
    except ModuleNotFoundError as error:
        raise SettingsError("accounting needs the package opacus: pip install opacus") from error
    spent = [(multiplier, 1.0, count) for multiplier, count in releases if count]  # 1: of all that the device holds
    if not all(multiplier for multiplier, _, _ in spent):
        return math.inf
    accountant = RDPAccountant()
    accountant.history = spent
    return float(accountant.get_epsilon(delta)) if spent else 0.0
