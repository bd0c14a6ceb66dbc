"""The models that an experiment can name."""

from models.body import Family
from models.cnn import cnn
from models.mlp import mlp
from models.resnet import resnet18, resnet34
from models.vgg import vgg16

MODELS: dict[str, Family] = {
    "cnn": cnn,
    "mlp": mlp,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "vgg16": vgg16,
}
