"""What follows a run: trackers, and callbacks of your own."""

from fl.callbacks.callback import Callback, Callbacks
from partitions.components import Registry

CALLBACKS: Registry[type[Callback]] = Registry(
    "callback",
    "driftfed.callbacks",
    {
        "tensorboard": "fl.callbacks.trackers:TensorBoard",
        "mlflow": "fl.callbacks.trackers:MLflow",
        "wandb": "fl.callbacks.trackers:WandB",
        "trackio": "fl.callbacks.trackers:Trackio",
    },
)

__all__ = ["CALLBACKS", "Callback", "Callbacks"]
