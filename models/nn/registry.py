"""Models by name; `partitions.components.Registry` says how to add one.

A model is a function ``family(input_shape, classes, **options) -> Architecture``. It receives the general run-config
keys ``model.width``, ``model.norm`` and ``model.module-layers`` as ``width=``, ``norm=`` and ``layers=`` if it takes
them. Its other keyword parameters are the options of its own run-config section, e.g. ``resnet18.groups``.
"""

from models.nn.body import Family
from models.nn.cnn import cnn
from models.nn.mlp import mlp
from models.nn.resnet import resnet18, resnet34
from models.nn.vgg import vgg16
from partitions.components import Registry

MODELS: Registry[Family] = Registry(
    "model",
    "driftfed.models",
    {"cnn": cnn, "mlp": mlp, "resnet18": resnet18, "resnet34": resnet34, "vgg16": vgg16},
)
