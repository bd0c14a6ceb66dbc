"""Where networks compute: on this machine's CPU, or on a GPU that the cloud and the simulated devices share.

Data, states and messages stay in the machine's own memory; what trains or scores a network brings its inputs to it
(`models.nn.body.home`) and takes states back (`Body.state`). Workers are processes, so several of them share a GPU.
"""

import os
from functools import lru_cache

import torch

from fl.config.settings import Settings, SettingsError

CPU = torch.device("cpu")


def of_cloud(settings: Settings) -> torch.device:
    """Where the cloud's networks compute.

    Raises:
        SettingsError: this machine has no such accelerator.
    """
    return _gpu() if settings.accelerator == "cuda" else CPU


def of_devices(settings: Settings) -> torch.device:
    """Where a device's networks compute: the cloud's GPU stands in for simulated devices, not for machines."""
    return CPU if settings.placement == "own" else of_cloud(settings)


def name(settings: Settings) -> str:
    """Of the GPU that the cloud's networks compute on."""
    return torch.cuda.get_device_name(of_cloud(settings))


def failed(error: Exception) -> bool:
    """Whether it is the GPU that fails, or its memory that is full: then no device is to blame, but this process."""
    return isinstance(error, (torch.AcceleratorError, torch.OutOfMemoryError))


@lru_cache(maxsize=1)
def _gpu() -> torch.device:
    """A GPU, another one for the next process where there are several; set up so that runs can be repeated."""
    if not torch.cuda.is_available():
        raise SettingsError(
            f"accelerator = 'cuda': torch {torch.__version__} finds no NVIDIA GPU here; use accelerator = 'cpu', or, "
            "if this machine has one, see that its driver fits torch and that CUDA_VISIBLE_DEVICES does not hide it"
        )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it products may differ from run to run
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a kernel for each result
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32
    return torch.device("cuda", os.getpid() % torch.cuda.device_count())
