"""What cannot be built is one sentence; what is built has the options that were set."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fl.config import Settings, SettingsError
from fl.config.sections import Model
from fl.workloads.resolve import GENERAL_MODEL_OPTIONS, resolve, without_unused
from fl.workloads.world import model_options
from models.nn.registry import MODELS
from partitions import LocalData
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


@pytest.fixture
def clients(tmp_path: Path) -> dict[str, Any]:
    """Settings for a folder with files of two clients, with 200 and 400 samples, and of the cloud."""
    for name, rows in (("device-0", 200), ("device-1", 400), ("server", 50)):
        lines = (f"{row},{row % 3},c{row % 3}" for row in range(rows))
        (tmp_path / f"{name}.csv").write_text("\n".join(["a,b,label", *lines]))
    kept = {"data.name": "folder", "data.root": str(tmp_path), "data.partition": "none", "drift.kind": "none"}
    return {**kept, "devices.count": 2, "cohort": 2, "strategies": "fedavg"}


def test_known_clients_may_report_all_of_their_samples(clients: dict[str, Any]) -> None:
    run = resolve(Settings.parse(clients))
    world = run.worlds(1)
    assert [len(world.draw(client, 0).train) for client in range(2)] == [160, 320]
    assert run.worlds.most_samples(1) == 320 and len(world.proxy()) == 40
    assert resolve(Settings.parse({"strategies": "fedavg"})).worlds.most_samples(1) == 150
    config = run.config()
    assert config["folder"]["test-fraction"] == 0.2 and not {"samples-max", "test-samples"} & {*config["data"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.samples-max": 200}, "data.samples-max is not read by partition 'none': leave it out"),
        ({"data.proxy-fraction": 0.1}, "data.proxy-fraction = 0.1 is not read, because the cloud has its own data"),
        ({"devices.count": 3}, "devices.count = 3, and the data are of 2 devices: set it to that"),
        ({"folder.lable": "y"}, "unknown run-config key 'folder.lable'; known: folder.features, folder.label"),
        ({"folder.test-fraction": 1.5}, "folder.test-fraction = 1.5: input should be less than 1"),
        (
            {"data.name": "har-embedded", "folder.label": "y"},
            "folder.label is an option of data set 'folder'",
        ),
    ],
)
def test_settings_that_known_clients_do_not_read(
    clients: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        resolve(Settings.parse(clients | changes)).worlds(1)


def test_defaults_of_an_experiment_that_the_partition_does_not_read_are_dropped(clients: dict[str, Any]) -> None:
    settings = Settings.parse(clients | {"data.samples-max": 200, "data.test-samples": 20, "data.proxy-fraction": 0.9})
    assert not {"samples-max", "proxy-fraction"} & {*without_unused(settings, ()).nested()["data"]}
    assert without_unused(settings, ("data.samples-max",)).nested()["data"]["samples-max"] == 200


def test_a_real_device_reads_its_own_file_alone(clients: dict[str, Any], tmp_path: Path) -> None:
    for name in ("device-0", "server"):
        (tmp_path / f"{name}.csv").unlink()
    (tmp_path / "classes.txt").write_text("c0\nc1\nc2\n")
    world = resolve(Settings.parse(clients | {"devices.placement": "own", "data.samples-max": 99})).worlds(1)
    assert isinstance(world, LocalData)
    assert len(world.draw(1, 0).train) == 99 and world.data.domains == ("device-1",)
