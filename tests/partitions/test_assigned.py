"""Partitions that give devices certain samples: known clients, and partitioners of flwr_datasets."""

import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitions import DRIFTS, PARTITIONS, Dataset, UnknownName, World


@pytest.fixture(scope="module")
def toy(toy_maker: Callable[..., Dataset]) -> Dataset:
    """Half of a device's samples are of its own class."""
    data, generator = toy_maker(), np.random.default_rng(0)

    def owners(y: np.ndarray) -> np.ndarray:
        return np.where(generator.random(len(y)) < 0.5, y, generator.integers(6, size=len(y)))

    return replace(data, domain_train=owners(data.y_train), domain_test=owners(data.y_test))


KINDS = ["none", "label-shift", "class-swap", "recurring", "feature"]


def known(data: Dataset, drift: str = "none", seed: int = 1, **options) -> World:
    return World(data, PARTITIONS["none"](), DRIFTS[drift](), seed, **options)


def test_known_clients_have_all_of_their_samples(toy) -> None:
    world = known(toy, devices=6)
    draws = [world.draw(device, 0) for device in range(6)]
    assert sorted(np.concatenate([draw.train for draw in draws]).tolist()) == world.pool().tolist()
    assert sorted(np.concatenate([draw.test for draw in draws]).tolist()) == list(range(len(toy.y_test)))
    for device, draw in enumerate(draws):
        assert set(toy.domain_train[draw.train]) == set(toy.domain_test[draw.test]) == {device}
        assert world.size(device) == len(draw.train)
        assert np.array_equal(world.draw(device, 5).train, draw.train)
        assert np.array_equal(world.draw(device, 5).test, draw.test)


@settings(max_examples=25)
@given(st.sampled_from(KINDS[1:]), st.integers(0, 99), st.integers(0, 5), st.integers(1, 4), st.floats(0.1, 1))
def test_drift_keeps_sizes_and_takes_own_samples_first(toy, drift: str, seed: int, device: int, step: int, part: float):
    world = known(toy, drift=drift, seed=seed, drift_fraction=part)
    draw, own = world.draw(device, step), world.draw(device, 0)
    assert len(set(draw.train)) == len(own.train) and len(set(draw.test)) == len(own.test)
    assert set(draw.train) <= set(world.pool())
    foreign = draw.train[toy.domain_train[draw.train] != device]
    for label in set(toy.y_train[foreign]):  # a class comes from others only where all own samples are in use
        mine = own.train[toy.y_train[own.train] == label]
        assert step > 1 or set(mine) <= set(draw.train)
    again = known(toy, drift=drift, seed=seed, drift_fraction=part).draw(device, step)
    assert np.array_equal(again.train, draw.train) and np.array_equal(again.test, draw.test)


def test_known_clients_record_their_own_samples_anew(toy) -> None:
    world = known(toy, drift="feature", drift_fraction=0.5)
    before, after = world.draw(2, 0), world.draw(2, 1)
    assert set(before.train) == set(after.train) and not before.train_corruptions
    (corrupted,) = after.train_corruptions
    assert len(corrupted.rows) == round(0.5 * len(after.train))
    assert len(after.test_corruptions[0].rows) == len(after.test) == len(before.test)


def test_class_shares_follow_the_distribution(toy) -> None:
    world = known(toy, drift="label-shift", drift_fraction=1)
    shares = world.histogram(3, 2) / world.size(3)
    assert np.abs(shares - world.distribution(3, 2)).max() < 1 / world.size(3)


def test_the_cloud_may_have_samples_of_its_own(toy) -> None:
    proxy = np.flatnonzero(toy.domain_train == 5)
    world = known(replace(toy, proxy=proxy), devices=5)
    assert np.array_equal(world.proxy(), proxy)
    assert all(len(world.draw(device, 0).train) == (toy.domain_train == device).sum() for device in range(5))
    assert replace(toy, proxy=proxy).digest != toy.digest
    assert replace(toy, proxy=None).digest == toy.digest


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda toy, maker: known(toy, devices=7), "devices.count = 7, and the data are of 6 devices: set it to that"),
        (
            lambda toy, maker: known(toy, drift="resample"),
            "drift Resample only draws new samples, and devices of partition NoPartition",
        ),
        (
            lambda toy, maker: known(toy, drift="subject"),
            "changes shares of domains, and partition NoPartition chooses shares of label",
        ),
        (
            lambda toy, maker: known(replace(toy, domain_train=None)),
            "'none' needs data that say which device has which samples",
        ),
        (
            lambda toy, maker: known(maker(counts=(3,) * 6)),
            "[u-z] has no training samples, once those of the cloud are taken out",
        ),
    ],
)
def test_what_is_impossible_is_one_sentence(toy, toy_maker, make, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make(toy, toy_maker)
    assert "\n" not in str(error.value)


# Partitioners of flwr_datasets


def flower(toy: Dataset, name: str, drift: str = "none", seed: int = 1, devices: int = 5, **options) -> World:
    partition = PARTITIONS[f"flwr_datasets.partitioner:{name}"](**options)
    return World(toy, partition, DRIFTS[drift](), seed, devices=devices)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DirichletPartitioner", {"alpha": 0.3, "min_partition_size": 5}),
        ("DirichletPartitioner", {"alpha": "0.3, 1, 1, 2, 3", "seed": 7}),
        ("DirichletPartitioner", {"alpha": "0.5"}),  # as the command line gives it
        ("PathologicalPartitioner", {"num_classes_per_partition": 2}),
        ("IidPartitioner", {}),
        ("LinearPartitioner", {}),
        ("ShardPartitioner", {"num_shards_per_partition": 2}),
        ("NaturalIdPartitioner", {"partition_by": "domain"}),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_samples_are_those_of_the_partitioner(toy, name: str, options: dict) -> None:
    library = pytest.importorskip("flwr_datasets.partitioner")
    from datasets import Dataset as Table

    count = 6 if name == "NaturalIdPartitioner" else 5
    world = flower(toy, name, devices=count, **options)
    pool = world.pool()
    given = dict(options)
    if name not in ("NaturalIdPartitioner", "IidPartitioner", "LinearPartitioner"):
        given = {"partition_by": "label", "seed": 1} | given
    if name != "NaturalIdPartitioner":
        given["num_partitions"] = count
    if isinstance(given.get("alpha"), str):
        given["alpha"] = [float(part) for part in given["alpha"].split(",")]
        given["alpha"] = given["alpha"] if len(given["alpha"]) > 1 else given["alpha"][0]
    partitioner = getattr(library, name)(**given)
    domain = [toy.domains[number] for number in toy.domain_train[pool]]
    partitioner.dataset = Table.from_dict({"label": toy.y_train[pool].tolist(), "domain": domain, "at": pool.tolist()})
    for device in range(count):
        drawn = world.draw(device, 0)
        assert sorted(partitioner.load_partition(device)["at"]) == drawn.train.tolist()
        shares = np.bincount(toy.y_train[drawn.train], minlength=6) / len(drawn.train)
        assert np.allclose(world.distribution(device, 0), shares)
        assert len(drawn.test) == 100


def test_drift_goes_on_from_there_and_seeds_differ(toy) -> None:
    pytest.importorskip("flwr_datasets")
    world = flower(toy, "DirichletPartitioner", "label-shift", alpha=0.5)
    sizes = {len(world.draw(2, step).train) for step in range(4)}
    assert len(sizes) == 1 and not np.array_equal(world.draw(2, 0).train, world.draw(2, 3).train)
    other = flower(toy, "DirichletPartitioner", "label-shift", seed=2, alpha=0.5)
    assert not np.allclose(world.distribution(2, 0), other.distribution(2, 0))


def test_an_object_of_the_users(toy, monkeypatch) -> None:
    library = pytest.importorskip("flwr_datasets.partitioner")
    module = ModuleType("my_parts")
    module.parts = library.IidPartitioner(num_partitions=4)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_parts", module)
    for seed in (1, 2):  # the object itself is not given a data set
        world = World(toy, PARTITIONS["my_parts:parts"](), DRIFTS["none"](), seed, devices=4)
        assert sum(len(world.draw(device, 0).train) for device in range(4)) == len(world.pool())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "DirichletPartitioner",
            {"alpha": 1, "partition_by": "y"},
            r"DirichletPartitioner: .*\(columns: label, domain",
        ),
        ("DirichletPartitioner", {"alpha": "a b"}, "alpha = 'a b' is no list of numbers like '0.1, 0.9'"),
        ("IidPartitioner", {"num_partitions": 4}, "devices.count = 5, and the data are of 4 devices"),
        ("VerticalEvenPartitioner", {}, "it splits columns, and devices here have all columns of some samples"),
        ("IdToSizeFncPartitioner", {"partition_id_to_size_fn": "x"}, "IdToSizeFncPartitioner: "),
    ],
)
def test_what_a_partitioner_cannot_do_is_one_sentence(toy, name: str, options: dict, message: str) -> None:
    pytest.importorskip("flwr_datasets")
    with pytest.raises(ValueError, match=message) as error:
        flower(toy, name, **options)
    assert "\n" not in str(error.value)


def test_a_missing_package_says_how_to_install_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "flwr_datasets", None)
    monkeypatch.setitem(sys.modules, "flwr_datasets.partitioner", None)
    with pytest.raises(UnknownName, match=r"needs the package flwr_datasets: pip install flwr-datasets$"):
        PARTITIONS["flwr_datasets.partitioner:IidPartitioner"]
