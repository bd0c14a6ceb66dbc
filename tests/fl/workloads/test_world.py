"""What cannot be built is one sentence; what is built has the options that were set."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from fl.config import Settings, SettingsError
from fl.config.sections import Model
from fl.workloads.resolve import GENERAL_MODEL_OPTIONS, resolve
from fl.workloads.world import model_options
from models.nn.registry import MODELS
from partitions.components import options_of


def chosen(shape: tuple[int, ...], options: Mapping[str, Any] = {}, **section: Any) -> dict[str, Any]:
    """Return the arguments of a model for samples of a shape."""
    model, data = Model(**section), SimpleNamespace(name="samples", text=False, input_shape=shape, num_classes=10)
    family = MODELS[model.name]
    return model_options(data, model, family, options_of(family, GENERAL_MODEL_OPTIONS)(**options))  # type: ignore[arg-type]


def test_samples_that_cannot_be_shrunk_are_a_mistake_in_the_settings() -> None:
    run = resolve(Settings.parse({"data.name": "har-embedded", "data.image-size": 8}))
    with pytest.raises(SettingsError, match="^har-embedded holds no images, so data.image-size must be 0, not 8$"):
        run.worlds.dataset  # noqa: B018


def test_a_model_is_given_only_the_options_that_it_takes_and_that_were_set() -> None:
    for key, value in {"module_layers": 2, "module_names": "head", "norm": "batch"}.items():
        said = f"^model.{key.replace('_', '-')} = {value!r} is not an option of model.name = 'mlp': leave it out$"
        with pytest.raises(SettingsError, match=said):
            chosen((6,), name="mlp", **{key: value})
    assert chosen((6,), name="mlp") == {}
    assert chosen((6,), name="mlp", width=32) == {"width": 32}
    assert chosen((3, 32, 32), name="vgg16") == {"norm": "group", "groups": 8}
    assert chosen((3, 32, 32), {"groups": 4}, name="resnet18", width=8, norm="batch", module_layers=2) == {
        "width": 8, "norm": "batch", "layers": 2, "groups": 4,
    }  # fmt: skip


def test_a_convolutional_model_needs_images() -> None:
    with pytest.raises(SettingsError, match=r"^model.name = 'vgg16' needs images, samples has samples of shape \(6,\)"):
        chosen((6,), name="vgg16")


def test_a_world_is_built_once_per_seed() -> None:
    run = resolve(Settings.parse({"strategies": "la"}))
    assert run.worlds(1) is run.worlds(1) is not run.worlds(2)
    assert run.worlds.dataset is run.worlds.dataset
