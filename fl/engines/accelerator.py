"""Where networks compute: on the CPU, or on a GPU that the cloud and the simulated clients share.

Data, states and messages stay in main memory. Training and scoring bring inputs to the network
(`models.nn.body.device_of`) and take states back (`Body.state`). Workers are processes, so several share a GPU.
"""

import os
from functools import lru_cache

import torch

from fl.config import SettingsError

CPU = torch.device("cpu")


def cloud_place(accelerator: str) -> torch.device:
    """Return where the cloud's networks compute.

    Raises:
        SettingsError: this machine has no such accelerator.
    """
    return _gpu() if accelerator == "cuda" else CPU


def client_place(accelerator: str, placement: str) -> torch.device:
    """Return where a client's networks compute: simulated clients share the cloud's GPU, real devices do not."""
    return CPU if placement == "own" else cloud_place(accelerator)


def gpu_name(accelerator: str) -> str:
    """Return the name of the GPU that the cloud's networks compute on; empty for the CPU.

    Raises:
        SettingsError: as in `cloud_place`.
    """
    return "" if accelerator == "cpu" else torch.cuda.get_device_name(cloud_place(accelerator))


def failed(error: Exception) -> bool:
    """Return whether the GPU failed, or its memory is full. Then this process is to blame, not a client."""
    return isinstance(error, (torch.AcceleratorError, torch.OutOfMemoryError))


@lru_cache(maxsize=1)
def _gpu() -> torch.device:
    """Return a GPU, another one for the next process if there are several; set up so that runs can be repeated."""
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
