"""The models that an experiment can name."""

from models.body import Family
from models.mlp import mlp
from models.resnet import resnet18

MODELS: dict[str, Family] = {
    "mlp": mlp,
    "resnet18": resnet18,
}
