"""Domains and classes that the server has never seen, and the drift that brings them to devices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitions import DRIFTS, PARTITIONS, Schedule, World, load

seeds = st.integers(0, 9999)
several = settings(max_examples=20)


def world(data, drift="none", partition="iid", seed=1, **options):
    return World(data, PARTITIONS[partition](), DRIFTS[drift](), seed, **options)


@several
@given(seed=seeds, groups=st.booleans())
def test_the_proxy_has_the_given_domains_alone_and_as_much_of_them_as_without_the_others(toy_maker, seed, groups):
    data = toy_maker(groups=groups)
    whole, w = world(data, seed=seed), world(data, seed=seed, proxy_domains="v,y")
    expected = [index for index in whole.proxy().tolist() if data.domain_train[index] in (1, 4)]
    assert w.proxy().tolist() == expected and len(expected) > 100
    assert len(w.proxy()) + len(w.pool()) == len(data.y_train)


@several
@given(seed=seeds)
def test_unseen_classes_are_on_devices_and_not_in_the_proxy(toy, seed):
    w = world(toy, seed=seed, unseen_classes="b, [ef]")
    assert set(toy.y_train[w.proxy()].tolist()) == {0, 2, 3}
    assert np.bincount(toy.y_train[w.pool()])[[1, 4, 5]].tolist() == [300, 300, 300]
    assert w.frame.unseen == (1, 4, 5)


def test_a_recording_with_samples_of_an_unseen_class_is_not_shared():
    """Recordings of the embedded data hold most activities. Devices get no window of a recording of the proxy."""
    data = load("har-embedded")
    w = world(data, unseen_classes="turning")
    proxy, pool = w.proxy(), w.pool()
    assert "turning" not in {data.classes[y] for y in data.y_train[proxy]} and len(proxy) > 1500
    assert not set(data.group_train[proxy]) & set(data.group_train[pool])
    whole = world(data)
    assert set(data.group_train[proxy]) <= set(data.group_train[whole.proxy()])


@several
@given(seed=seeds, device=st.integers(0, 99), partition=st.sampled_from(["iid", "m-classes", "dirichlet"]))
def test_unseen_classes_appear_one_after_another_and_on_some_devices_first(toy, seed, device, partition):
    """Drift steps 2 and 4, the second group one step later; a new class gets 0.3 of the data."""
    schedule = Schedule("2,4", groups=2, stagger=1)
    w = world(toy, "unseen", partition, seed, schedule=schedule, unseen_classes="b,e", drift_fraction=1.0)
    (p,), _ = w.history([device], 7)
    late = device % 2
    expected = [0] * late + [0, 0, 0.3, 0.3, 0.21, 0.21, 0.21]
    assert p[:, 1].tolist() == pytest.approx(expected[:7])
    appears = [int(np.flatnonzero(p[:, k])[0]) for k in (1, 4)]
    assert appears == [2 + late, 4 + late] and p[-1, 4] == pytest.approx(0.3)
    assert [step for step in range(7) if w.encounters(device, step)] == appears
    assert set(toy.y_train[w.draw(device, 1).train].tolist()) <= {0, 2, 3, 5}
    assert set(toy.y_train[w.draw(device, 6).train].tolist()) >= {4}


def test_unseen_domains_appear_on_devices_too(toy):
    w = world(toy, "unseen", "subject", proxy_domains="u,v", drift_fraction=1.0)
    assert [w.distribution(device, 0).argmax() for device in range(4)] == [0, 1, 0, 1]
    (p,), _ = w.history([0], 7)
    assert [int(np.flatnonzero(p[:, k])[0]) for k in (2, 3, 4, 5)] == [1, 2, 3, 4]


@pytest.mark.parametrize("partition", ["iid", "subject"])
def test_clients_may_have_other_domains_than_the_cloud(toy, partition):
    """Devices train and are tested on domain v alone, the cloud has u; nothing of u is left for devices."""
    w = world(toy, "none", partition, proxy_domains="u", client_domains="v")
    assert set(toy.domain_train[w.proxy()].tolist()) == {toy.domains.index("u")}
    for device in range(4):
        draw = w.draw(device, 0)
        assert set(toy.domain_train[draw.train].tolist()) == {toy.domains.index("v")}
        assert set(toy.domain_test[draw.test].tolist()) == {toy.domains.index("v")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"client_domains": "q"}, "^data.client-domains = 'q': 'q' matches none of the domains; known: u, v"),
        (
            {"unseen_classes": "b,g"},
            "^data.unseen-classes = 'b,g': 'g' matches none of the classes; known: a, b, c, d, e, f",
        ),
        ({"proxy_domains": "q*"}, "^data.proxy-domains = 'q.': 'q.' matches none of the domains; known: u, v"),
        ({}, "needs classes or domains that the cloud does not hold: set data.unseen-classes"),
        ({"unseen_classes": "*"}, "needs classes or domains that the cloud holds: leave it some"),
    ],
)
def test_patterns_that_do_not_fit_are_one_sentence(toy, options, message):
    with pytest.raises(ValueError, match=message):
        world(toy, "unseen", **options)
