"""The models that an experiment can name."""

from models.nn.body import Family
from models.nn.cnn import cnn
from models.nn.mlp import mlp
from models.nn.resnet import resnet18, resnet34
from models.nn.vgg import vgg16

MODELS: dict[str, Family] = {
    "cnn": cnn,
    "mlp": mlp,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "vgg16": vgg16,
}
