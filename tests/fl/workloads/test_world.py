"""What cannot be built is one sentence; what is built has the hyper-parameters that were asked for."""

import pytest

from fl.config.settings import Settings, SettingsError
from fl.workloads.world import dataset, hyper


def test_samples_that_cannot_be_shrunk_are_a_mistake_of_the_settings() -> None:
    with pytest.raises(SettingsError, match="^har-embedded holds no images, so image size must be 0, not 8$"):
        dataset(Settings(dataset="har-embedded", image_size=8))


def test_a_model_is_given_only_what_it_knows_and_what_was_set() -> None:
    with pytest.raises(SettingsError, match="^module-layers chooses stages .* 'mlp' has none$"):
        hyper(Settings(model="mlp", module_layers=2))
    assert hyper(Settings(model="mlp", width=32)) == {"width": 32}
    assert hyper(Settings(model="vgg16")) == {"norm": "group"}
    assert hyper(Settings(model="resnet18", width=8, norm="batch", module_layers=2)) == {
        "width": 8, "norm": "batch", "layers": 2,
    }  # fmt: skip
