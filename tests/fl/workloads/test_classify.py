"""Classification: a client's data with their corruptions, its network, and what it uses after local adaptation."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fl.config import Settings
from fl.results.files import ResultsError
from fl.results.reader import read_rounds
from fl.workloads.classify import Classify, LocalClient
from fl.workloads.resolve import resolve
from fl.workloads.state_store import ClientStateStore
from fl.workloads.workload import ClientContext
from fl.workloads.world import tensors
from partitions import World
from partitions.datasets.images.arrays import save
from strategies import STRATEGIES
from strategies.core.client import ClientTask, interpolate
from strategies.core.strategy import Profile, TrainTask
from strategies.fedavg import FedAvg


def test_a_client_trains_and_is_tested_on_corrupted_samples(tmp_path: Path) -> None:
    """Brightness adds twice the severity of the step at which a sample entered."""
    x, y = np.random.default_rng(0).integers(0, 256, (600, 1, 28, 28), np.uint8), np.arange(600) % 10
    arrays = {"x_train": x[:400], "y_train": y[:400], "x_test": x[400:], "y_test": y[400:]}
    save(tmp_path, "fashion-mnist", arrays, [str(k) for k in range(10)])
    run = resolve(
        Settings.parse(
            {
                "data.name": "fashion-mnist", "data.root": str(tmp_path), "data.partition": "iid",
                "data.samples-max": 60, "drift.kind": "feature", "feature.corruption": "brightness",
                "feature.severity-step": 1.0, "model.name": "resnet18",
            }
        )
    )  # fmt: skip
    world, context = run.worlds(3), ClientContext(client=2, seed=3, round=9, step=3, store=ClientStateStore(tmp_path))
    assert isinstance(world, World) and isinstance(run.workload, Classify)
    client = LocalClient.of(run.workload, context)
    _, (severity,) = world.history([2], 4)
    for split in ("train", "test"):
        seen, labels = client.samples(split)
        clean, expected = tensors(world.data, split, getattr(world.draw(2, 3), split))
        added = (seen - clean)[:, 0, 5, 5].double().numpy() / 2
        assert torch.equal(labels, expected)
        near = np.abs(added[:, None] - severity).min(axis=1)
        assert near.max() < 1e-5 and len(np.unique(added.round(4))) == (4 if split == "train" else 1)
    assert np.abs(added - severity[3]).max() < 1e-5


def concepts(folder: Path, rows: str = "0 1 0 1 0 1\n1 1 0 0 0 0\n") -> dict[str, Any]:
    """Return keys of a run of 2 steps on 6 clients with a concept matrix; concept 1 swaps two pairs of 5 classes."""
    (folder / "concepts.cp").write_text(rows)
    own = {"data.labelled": 15, "concept-matrix.file": str(folder / "concepts.cp"), "concept-matrix.swaps": "0-1,2-4"}
    return {**own, "drift.kind": "concept-matrix", "data.partition": "iid", "strategies": "fedavg-prior,eclm"}


def test_training_tests_and_class_shares_have_the_labels_of_the_clients_concept(tmp_path: Path) -> None:
    run = resolve(
        Settings.parse({**concepts(tmp_path), "data.labelled": 0, "devices.count": 6, "cohort": 2, "rounds": 10})
    )
    assert isinstance(run.workload, Classify)
    swapped, y_train = np.array([1, 0, 4, 3, 2]), run.worlds.dataset.y_train
    for number, step, concept in [(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 1), (2, 1, 0)]:
        client = LocalClient.of(run.workload, ClientContext(number, 1, 3, step, ClientStateStore(tmp_path)))
        draw, labels = client.world.draw(number, step), swapped if concept else np.arange(5)
        assert client.samples("train")[1].tolist() == labels[y_train[draw.train]].tolist()
        assert client.samples("test")[1].tolist() == labels[run.worlds.dataset.y_test[draw.test]].tolist()
        counts = np.bincount(y_train[draw.train], minlength=5)[labels]  # the swaps are their own inverse
        assert client.class_shares([]).tolist() == pytest.approx((counts / counts.sum()).tolist())
        assert client.samples("test", 0)[1].tolist() == client.world.draw(number, 0).test_labels.tolist()


def test_a_client_trains_on_its_labelled_samples_and_methods_get_the_others(tmp_path: Path) -> None:
    run = resolve(Settings.parse({"data.labelled": 12, "data.partition": "iid", "drift.kind": "resample"}))
    assert isinstance(run.workload, Classify)
    client = LocalClient.of(run.workload, ClientContext(4, 1, 3, 1, ClientStateStore(tmp_path)))
    draw, (x, y) = client.world.draw(4, 1), client.samples("train")
    whole, _ = tensors(client.world.data, "train", draw.train)
    known = torch.from_numpy(draw.train_labels >= 0)
    assert len(x) == len(y) == client.examples == 12 and torch.equal(x, whole[known])
    assert torch.equal(client.unlabelled(), whole[~known]) and len(client.samples("test")[1]) == 100
    shares = torch.bincount(y, minlength=5) / 12
    torch.testing.assert_close(client.class_shares([]), shares)


def test_a_run_with_a_concept_matrix(tmp_path: Path, play: Callable[..., list[str]]) -> None:
    """No accuracy on the global test set, and results of another matrix are not continued."""
    play(tmp_path / "out", concepts(tmp_path))
    rows = read_rounds(tmp_path / "out").query("evaluated > 0")
    assert len(rows) > 4 and rows["accuracy_mean"].notna().all() and rows["global_accuracy"].isna().all()
    assert play(tmp_path / "two", concepts(tmp_path), workers=2) == play(tmp_path / "out", concepts(tmp_path))
    with pytest.raises(ResultsError, match="on other data"):
        play(tmp_path / "out", concepts(tmp_path, "0 0 0 0 0 0\n1 1 0 0 0 0\n"))


def test_interpolation_lies_between_the_delivered_and_the_adapted_model() -> None:
    before = {"w": torch.tensor([0.0, 2.0]), "count": torch.tensor(3)}
    after = {"w": torch.tensor([1.0, 4.0]), "count": torch.tensor(5)}
    mixed = interpolate(before, after, 0.25)
    assert mixed["w"].tolist() == [0.25, 2.5] and mixed["count"] == 5


def test_a_client_that_interpolates_uses_the_mixed_model(
    play: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With weight 0 local adaptation has no effect: the adapted score is the delivered one."""

    class Forgets(FedAvg):
        def configure_evaluate(self, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
            tasks = super().configure_evaluate(profiles)
            return {client: replace(task, options={**task.options, "blend": 0.0}) for client, task in tasks.items()}

    monkeypatch.setitem(STRATEGIES.builtin, "fedavg", Forgets)
    play(tmp_path, {"strategies": "fedavg"})
    rounds = read_rounds(tmp_path).query("evaluated > 0").set_index(["round", "method"])
    for at in rounds.index.unique("round"):
        plain, tuned = rounds.loc[(at, "fedavg")], rounds.loc[(at, "fedavg+ft")]
        assert (plain.accuracy_mean, plain.loss) == (tuned.accuracy_mean, tuned.loss)


def test_sizes_or_parameters_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """In a stack they would make the training of every client fail."""
    run = resolve(Settings.parse({"strategies": "fedavg"}))
    assert isinstance(run.workload, Classify)
    client = LocalClient.of(run.workload, ClientContext(0, 1, 1, 0, ClientStateStore(tmp_path)))
    whole, state = run.workload.architectures["dense"].sizes, run.workload.architectures["dense"].whole(0).state()
    axis = next(iter(whole))
    assert client.load(ClientTask(), state).state is state
    with pytest.raises(ValueError, match=f"a part of {whole[axis] + 1} {axis}: the dense model has"):
        client.load(ClientTask(sizes={axis: whole[axis] + 1}), state)
    with pytest.raises(ValueError, match="does not have the shapes"):
        client.load(ClientTask(), {name: value[:1] for name, value in state.items()})
