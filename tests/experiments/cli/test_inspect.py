"""Commands `settings`, `inspect`, `drift` and `privacy`."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

from experiments.cli.tree import branch
from experiments.plots.cuts import layers
from fl.config import flatten
from fl.workloads.resolve import default_tables
from models.nn.any_module import from_module
from models.nn.resnet import resnet18
from partitions.datasets.images.arrays import save

Call = Callable[..., tuple[object, str, str]]


class Series(nn.Module):
    """A recurrent layer, which stays whole, one that is cut into modules, and a narrow one."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.read = nn.LSTM(4, 24, batch_first=True)
        self.wide, self.narrow, self.head = nn.Linear(24, 64), nn.Linear(64, 21), nn.Linear(21, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.narrow(self.wide(self.read(x)[0][:, -1]).relu()).relu())


def test_settings_explains_every_key_of_every_component() -> None:
    assert {key.name for of in branch() for key in of.keys} == set(flatten(default_tables()))


def test_a_branch_is_a_section_a_component_or_a_key(call: Call) -> None:
    _, drift, _ = call("settings", "drift")
    assert "[drift]" in drift and "[feature]" not in drift
    assert "drift.fraction = 0.5" in drift and "allowed: at least 0 and at most 1" in drift
    assert "allowed: none, resample, class-swap" in drift
    _, feature, _ = call("settings", "feature")
    assert "Options of drift feature (key drift.kind)." in feature and "feature.severity-step = 0.5" in feature
    assert call("settings", "eclm-plus")[1] == call("settings", "eclm")[1]
    _, one, _ = call("settings", "client.lr")
    assert "client.lr = 0.01" in one and "allowed: above 0; not in workload vq" in one and "batch" not in one


def test_the_options_of_a_class_of_the_users_own(call: Call) -> None:
    _, printed, _ = call("settings", "strategies.fedprox:FedProx")
    assert "Options of strategies.fedprox:FedProx." in printed and "fedprox.mu = 0.01" in printed


def test_settings_as_tables_for_pyproject(call: Call) -> None:
    pytest.importorskip("fl.workloads.tables")
    _, printed, _ = call("settings", "--toml")
    assert "[tool.flwr.app.config.drift]" in printed


def test_inspect_prints_and_draws_what_can_be_cut(tmp_path: Path, call: Call) -> None:
    words = ["inspect", "tests.experiments.cli.test_inspect:Series", "--shape", "7,4", "--classes", "3"]
    code, printed, errors = call(*words, "--out", str(tmp_path / "new" / "layers.png"))
    assert code in (0, None), errors
    assert "modules: wide.modules" in printed and "whole: read, because recurrent layers keep" in printed
    assert (tmp_path / "new" / "layers.png").stat().st_size > 5_000
    assert "is no name of a picture: write --out layers.png" in call(*words, "--out", "layers.svg")[2]
    rows = layers(from_module(Series(3), (7, 4), 3))
    assert rows["layer"].tolist() == ["read", "wide", "narrow", "head"]
    assert rows["kind"].tolist() == ["whole", "modules", "modules", "cut"]
    assert rows["axes"].tolist() == ["", "wide", "narrow, wide", "classes, narrow"]
    assert rows["parameters"].sum() == sum(parameter.numel() for parameter in Series(3).parameters())


def test_layers_of_a_network_of_this_project_are_drawn() -> None:
    rows = layers(resnet18((3, 8, 8), 3, width=8, layers=1))
    assert rows["layer"].tolist()[0] == "(the model)" and set(rows["why"]) == {""}
    assert rows.set_index("layer")["kind"][["stages.0.0.block", "stages.3.1.block"]].tolist() == ["cut", "modules"]


def test_drift_draws_the_shares_of_the_world(tmp_path: Path, call: Call) -> None:
    changes = ["data.partition=m-classes", "m-classes.m=1", "drift.kind=class-swap"]
    words = ["drift", "--devices", "2", "--steps", "3", *(f"--set={change}" for change in changes)]
    code, _, errors = call(*words, "--out", str(tmp_path))
    assert code in (0, None), errors
    lines = (tmp_path / "drift.csv").read_text().splitlines()
    assert lines[0] == "device,step,cell,share,severity" and len(lines) == 1 + 2 * 3 * 5
    held = [line.split(",")[:3] for line in lines if line.endswith(",1,0")]
    assert len(held) == 6 and held[0][2] != held[1][2]  # one class for each device, another one at each step
    assert (tmp_path / "drift.png").stat().st_size > 5_000


def test_drift_draws_concepts_labels_and_who_is_online(tmp_path: Path, call: Call) -> None:
    """Two devices; the concept of device 1 swaps classes 0 and 4 from step 1 on; device 0 is online in odd rounds."""
    (tmp_path / "concepts.cp").write_text("0 0\n0 1\n")
    (tmp_path / "trace.csv").write_text("1,1\n0,1\n")
    changes = [
        "data.partition=iid", "drift.kind=concept-matrix", f"concept-matrix.file={tmp_path / 'concepts.cp'}",
        "concept-matrix.swaps=0-4", "devices.availability=trace", f"trace.file={tmp_path / 'trace.csv'}",
        "rounds-per-step=2",
    ]  # fmt: skip
    words = ["drift", "--devices", "2", "--steps", "2", *(f"--set={change}" for change in changes)]
    code, _, errors = call(*words, "--out", str(tmp_path))
    assert code in (0, None), errors
    assert (tmp_path / "concepts.csv").read_text() == "device,step,concept,first\n0,0,0,1\n0,1,0,0\n1,0,0,1\n1,1,1,1\n"
    online = (tmp_path / "online.csv").read_text().split()
    assert online == [
        "device,round,online",
        *(f"0,{r},{r % 2}" for r in (1, 2, 3, 4)),
        *(f"1,{r},1" for r in (1, 2, 3, 4)),
    ]
    lines = [line.split(",") for line in (tmp_path / "labels.csv").read_text().split()[1:]]
    shares = [[float(x[3]) for x in lines if x[:2] == [device, step]] for device, step in ("00", "01", "10", "11")]
    assert shares[3] == [shares[2][4], *shares[2][1:4], shares[2][0]] and shares[0] == shares[1] != shares[3]
    for name in ("drift", "labels", "concepts", "online"):
        assert (tmp_path / f"{name}.png").stat().st_size > 3_000


def test_drift_draws_images_with_their_corruption(tmp_path: Path, call: Call) -> None:
    x, y = np.random.default_rng(0).integers(0, 256, (300, 1, 28, 28), np.uint8), np.arange(300) % 10
    save(tmp_path, "fashion-mnist", {"x_train": x, "y_train": y, "x_test": x, "y_test": y}, [str(k) for k in range(10)])
    changes = [
        "data.name=fashion-mnist", f"data.root={tmp_path}", "data.partition=iid", "drift.kind=concept",
        "concept.swaps=0", "concept.contexts=contrast:1",
    ]  # fmt: skip
    words = ["drift", "--devices", "2", "--steps", "2", *(f"--set={change}" for change in changes)]
    code, _, errors = call(*words, "--out", str(tmp_path))
    assert code in (0, None), errors
    assert (tmp_path / "samples.png").stat().st_size > 3_000 and not (tmp_path / "labels.png").exists()


def test_privacy_counts_importances_only_if_a_method_sends_them(call: Call) -> None:
    pytest.importorskip("opacus")
    noise = ["--set=client.update-clip=1", "--set=client.update-noise=2"]
    _, printed, _ = call("privacy", *noise, "--set=strategies=fedavg")
    assert "no guarantee" not in printed
    _, printed, _ = call("privacy", *noise)
    assert "no guarantee" in printed
    _, printed, _ = call("privacy", *noise, "--set=eclm.importance-noise=2")
    assert "no guarantee" not in printed
