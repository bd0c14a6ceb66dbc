"""Concept drift: which labels devices give to their samples, by hand and by laws."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitions import DRIFTS, PARTITIONS, DataError, Dataset, Schedule, World
from partitions.corruptions import Corruption
from partitions.drifts.concepts import table

MATRIX = "0 0 0\n1 0 0\n1 2 0\n0 2 0\n"  # device 0 returns to concept 0, device 1 enters concept 2, device 2 stays
SWAPS = "0-1;2-3,4-5"
SWAPPED = np.array([[0, 1, 2, 3, 4, 5], [1, 0, 2, 3, 4, 5], [0, 1, 3, 2, 5, 4]])
several = settings(max_examples=30)


def world(data, drift, partition="iid", seed=1, **options):
    return World(data, PARTITIONS[partition](), drift, seed, samples=(60, 60), test_samples=60, **options)


@pytest.fixture
def file(tmp_path):
    (tmp_path / "concepts.cp").write_text(MATRIX)
    return str(tmp_path / "concepts.cp")


@pytest.mark.parametrize("partition", ["iid", "subject"])
def test_the_matrix_of_a_file_decides_the_labels(toy, file, partition):
    w = world(toy, DRIFTS["concept-matrix"](file=file, swaps=SWAPS), partition)
    for step, line in enumerate(MATRIX.splitlines()):
        for device, concept in enumerate(map(int, line.split())):
            draw = w.draw(device, step)
            assert draw.train_labels.tolist() == SWAPPED[concept][toy.y_train[draw.train]].tolist()
            assert draw.test_labels.tolist() == SWAPPED[concept][toy.y_test[draw.test]].tolist()


def test_a_concept_changes_labels_and_not_samples(toy, file):
    still = world(toy, DRIFTS["resample"]())
    drifting = world(toy, DRIFTS["concept-matrix"](file=file, swaps=SWAPS))
    for device, step in np.ndindex(3, 4):
        a, b = still.draw(device, step), drifting.draw(device, step)
        assert np.array_equal(a.train, b.train) and np.array_equal(a.test, b.test)
        assert np.array_equal(still.distribution(device, step), drifting.distribution(device, step))


@several
@given(
    seed=st.integers(0, 9999),
    count=st.integers(2, 5),
    swaps=st.sampled_from(["1", "2", "3"]),
    groups=st.integers(1, 4),
    recurring=st.booleans(),
    pace=st.sampled_from([("every", 0, 1), ("every:2", 1, 1), ("2,3", 3, 1), ("every:2", 1, 3)]),
    transition=st.sampled_from(["gradual", "incremental"]),
    calls=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), min_size=1, max_size=6),
)
def test_labels_do_not_depend_on_earlier_calls(toy, seed, count, swaps, groups, recurring, pace, transition, calls):
    schedule, stagger, steps = pace
    options = {"schedule": Schedule(schedule, groups, stagger if groups > 1 else 0), "drift_steps": steps}
    made = {"count": count, "swaps": swaps, "recurring": recurring, **({"transition": transition} if steps > 1 else {})}
    used = world(toy, DRIFTS["concept"](**made), seed=seed, **options)
    known = {tuple(row) for row in used.drift.labels(used.frame).tolist()}
    assert len(known) == count  # all devices share these concepts, and no two of them are equal
    for device, step in calls:
        fresh = world(toy, DRIFTS["concept"](**made), seed=seed, **options).draw(device, step)
        draw = used.draw(device, step)
        assert np.array_equal(draw.train_labels, fresh.train_labels)
        assert np.array_equal(draw.test_labels, fresh.test_labels)
        if steps == 1:
            label = {int(y): int(t) for y, t in zip(toy.y_train[draw.train], draw.train_labels, strict=True)}
            assert any(all(row[y] == t for y, t in label.items()) for row in known)


def test_groups_visit_concepts_by_hand(toy):
    """Drift steps 2 and 4; group 1 one step later. Of 3 concepts, group 0 visits 1 then 2, group 1 visits 2 then 1."""

    def concepts(device, **options):
        w = world(toy, DRIFTS["concept"](count=3, **options), schedule=Schedule("2,4,6", groups=2, stagger=1))
        return [w.drift.concept(device, step, w.frame) for step in range(8)]

    assert concepts(0) == concepts(2) == [0, 0, 1, 1, 2, 2, 2, 2]
    assert concepts(1) == [0, 0, 0, 2, 2, 1, 1, 1]
    assert concepts(0, recurring=True) == [0, 0, 1, 1, 2, 2, 0, 0]


def test_a_gradual_transition_moves_samples_one_after_another(toy):
    """Concept 1 swaps all classes. The share of swapped labels grows by a quarter at each of 4 steps."""
    drift = DRIFTS["concept"](swaps="0-1,2-3,4-5")
    w = World(
        toy,
        PARTITIONS["iid"](),
        drift,
        3,
        samples=(600, 600),
        drift_fraction=0.0,
        schedule=Schedule("2"),
        drift_steps=4,
    )
    new = [w.draw(0, step).train_labels != toy.y_train[w.draw(0, step).train] for step in range(8)]
    assert [row.mean() for row in new] == pytest.approx([0, 0, 0.25, 0.5, 0.75, 1, 1, 1], abs=0.06)
    assert all((after >= before).all() for before, after in pairwise(new))  # no sample goes back


def test_an_incremental_transition_moves_classes_one_after_another(toy):
    w = world(
        toy, DRIFTS["concept"](swaps="0-1,2-3,4-5", transition="incremental"), schedule=Schedule("2"), drift_steps=3
    )
    for step, moved in enumerate([0, 0, 2, 4, 6, 6]):
        draw = w.draw(0, step)
        assert len(set(toy.y_train[draw.train][draw.train_labels != toy.y_train[draw.train]])) == moved


@pytest.mark.parametrize(
    ("options", "steps", "message"),
    [
        ({"swaps": "16"}, 1, "^concept.swaps = 16: 6 classes have 0 different ways to swap 16 pairs"),
        (
            {"swaps": "3", "count": 17},
            1,
            "^concept.swaps = 3: 6 classes have 15 different ways .* 16 concepts need one",
        ),
        ({"swaps": "0-6"}, 1, "^concept.swaps = '0-6' names class 6, and the classes are 0 to 5"),
        (
            {"swaps": "0-1;2-3"},
            1,
            "^concept.swaps = '0-1;2-3' describes concepts 1 to 2, and devices have concepts 0 to 1",
        ),
        ({"transition": "incremental"}, 1, "^concept.transition = 'incremental' needs several steps: set drift.steps"),
    ],
)
def test_impossible_concepts_are_one_sentence(toy, options, steps, message):
    with pytest.raises(ValueError, match=message):
        world(toy, DRIFTS["concept"](**options), drift_steps=steps)


@pytest.mark.parametrize("swaps", ["", "x", "0-1-2", "0-1,1-2", "0-0", "0-1;", "-1-2"])
def test_swaps_that_cannot_be_read_say_how_to_write_them(swaps):
    with pytest.raises(
        ValueError, match="give a number of random pairs, or pairs of class numbers.*like '0-1;2-3,4-5'"
    ):
        DRIFTS["concept"](swaps=swaps)


@pytest.mark.parametrize("swaps", ["0", SWAPS])
def test_contexts_corrupt_the_samples_of_their_concept_alone(toy, file, swaps):
    """Concept 1 is brighter, concept 2 looks as the data set."""
    w = world(toy, DRIFTS["concept-matrix"](file=file, swaps=swaps, contexts="brightness:0.5;"))
    assert w.drift.relabels == (swaps != "0")
    for step, line in enumerate(MATRIX.splitlines()):
        for device, concept in enumerate(map(int, line.split())):
            draw = w.draw(device, step)
            for indices, parts in ((draw.train, draw.train_corruptions), (draw.test, draw.test_corruptions)):
                if concept != 1:
                    assert parts == ()
                    continue
                (part,) = parts
                assert part.rows.tolist() == list(range(len(indices)))
                assert part.corruption == Corruption("brightness", 0.5) and len(set(part.addresses)) == len(indices)
            assert (draw.train_labels == toy.y_train[draw.train]).all() or swaps != "0"


@pytest.mark.parametrize(
    ("contexts", "message"),
    [
        ("fog:0.3", "unknown corruption 'fog'; known: blur, brightness, contrast, elastic"),
        ("noise", "give 'noise' a severity above 0 and at most 1, like 'noise:0.5', not 'noise'"),
        ("noise:3", "give 'noise' a severity above 0 and at most 1"),
    ],
)
def test_contexts_that_cannot_be_read_say_how_to_write_them(contexts, message):
    with pytest.raises(ValueError, match=message):
        DRIFTS["concept"](contexts=contexts)


def test_contexts_need_images_and_one_entry_for_each_concept(toy):
    flat = Dataset("flat", toy.x_train[:, 0, 0], toy.y_train, toy.x_test, toy.y_test, toy.classes)
    with pytest.raises(ValueError, match=r"^concept.contexts are of images, and samples of flat have shape \(8,\)"):
        world(flat, DRIFTS["concept"](contexts="noise:1"))
    with pytest.raises(ValueError, match="^concept.contexts = 'noise:1;' describes concepts 1 to 2, and .* 0 to 1"):
        world(toy, DRIFTS["concept"](contexts="noise:1;"))
    with pytest.raises(ValueError, match="^concept.swaps = 0: concepts do not differ; set concept.contexts, or swap"):
        world(toy, DRIFTS["concept"](swaps="0"))


def test_a_file_that_does_not_fit_is_refused_before_anything_is_drawn(toy, file, tmp_path):
    with pytest.raises(ValueError, match="concept-matrix.file is empty: name a file"):
        world(toy, DRIFTS["concept-matrix"]())
    with pytest.raises(DataError, match="has 3 columns.*device 3 needs column 4"):
        world(toy, DRIFTS["concept-matrix"](file=file), devices=4, steps=4)
    with pytest.raises(DataError, match="has 4 lines, and line 5 is needed"):
        world(toy, DRIFTS["concept-matrix"](file=file), devices=3, steps=5)
    with pytest.raises(ValueError, match="^concept-matrix.swaps = '0-1' describes concepts 1 to 1, and .* 0 to 2"):
        world(toy, DRIFTS["concept-matrix"](file=file, swaps="0-1"))


def test_every_random_concept_is_drawn_if_there_are_just_enough():
    assert len(np.unique(table("3", 16, 6, 5), axis=0)) == 16
    assert len(np.unique(table("1", 4, 3, 5), axis=0)) == 4


def test_a_device_drifts_when_labels_of_its_samples_change(toy, file):
    w = world(toy, DRIFTS["concept-matrix"](file=file, swaps=SWAPS), schedule=Schedule("never"))
    assert [[w.drifts(device, step) for step in range(4)] for device in range(3)] == [
        [False, True, False, True], [False, False, True, False], [False] * 4,
    ]  # fmt: skip
    seen = w.stream(1, 2, 60)
    assert seen.train_labels.tolist() == SWAPPED[2][toy.y_train[seen.train]].tolist()


def test_a_device_meets_a_concept_for_the_first_time_once(toy, file):
    """By hand: concepts of the devices at steps 0 to 3, and whether each is new to the device; 0 is the cloud's."""
    w = world(toy, DRIFTS["concept-matrix"](file=file, swaps=SWAPS), schedule=Schedule("never"))
    table = [[w.drift.concept(device, step, w.frame) for step in range(4)] for device in range(3)]
    for device, concepts in enumerate(table):
        new = [c not in (concepts[:step] or [0]) for step, c in enumerate(concepts)]
        assert [w.encounters(device, step) for step in range(4)] == new
    assert any(w.encounters(device, step) for device in range(3) for step in range(4))


def test_a_device_drifts_when_the_looks_of_its_samples_change(toy, file):
    drift = DRIFTS["concept-matrix"](file=file, swaps="0", contexts="noise:0.5;blur:0.5")
    w = world(toy, drift, schedule=Schedule("never"))
    assert [w.drifts(0, step) for step in range(4)] == [False, True, False, True]
    assert w.stream(0, 1, 60).train_corruptions and not w.stream(0, 0, 60).train_corruptions
