"""The studies against numbers worked by hand, and their folder."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from experiments.launch import launch_study
from experiments.studies import STUDIES, latency, routing, spa, submodels
from experiments.studies.results import StudyResults
from experiments.studies.study import FILE, Study, read_study, summarize_study
from fl.config import Settings
from fl.results.files import ResultsError
from fl.workloads.resolve import Run, resolve
from tests.experiments.test_plots import (
    latency_rows,
    recipe_rows,
    routing_rows,
    size_rows,
    spa_rows,
    specialisation_rows,
    submodel_rows,
)


@dataclass(frozen=True)
class Toy:
    who: str
    count: int
    value: float


TOY = Study(Toy, lambda run, seed, tick: [], lambda rows: {("toy", "value"): float(rows["value"].mean())})


def runs(**changes) -> list[Run]:
    toy = {"experiment": "toy", "seeds": "1,2", **changes}
    return [resolve(Settings.parse({**toy, "setting": name})) for name in ("NA", "b")]


def test_the_folder_grows_by_setting_and_seed(tmp_path):
    with StudyResults(tmp_path, TOY, runs()) as results:
        results.add("NA", 1, [Toy("x", 1, 0.1), Toy("y", 2, float("nan"))])
    with StudyResults(tmp_path, TOY, runs()) as results:
        assert results.done("NA", 1) and not results.done("NA", 2) and not results.done("b", 1)
        results.add("NA", 2, [Toy("x", 3, 0.3)])
        with pytest.raises(ResultsError, match="another run is writing"):
            StudyResults(tmp_path, TOY, runs())
    assert (tmp_path / FILE).read_text().splitlines() == [
        "experiment,setting,seed,who,count,value", "toy,NA,1,x,1,0.1", "toy,NA,1,y,2,", "toy,NA,2,x,3,0.3",
    ]  # fmt: skip
    summary = summarize_study(read_study(tmp_path, TOY), TOY, {("NA", "toy"): {"value": 0.5}})
    (line,) = summary.to_dict("records")
    assert (line["value"], line["seeds"], line["paper_value"]) == (pytest.approx(0.2), 2, 0.5)


def test_the_folder_of_another_config_is_refused(tmp_path):
    with StudyResults(tmp_path, TOY, runs()) as results:
        results.add("NA", 1, [Toy("x", 1, 0.1)])
    with pytest.raises(ResultsError, match="holds results of another config"):
        StudyResults(tmp_path, TOY, runs(**{"eclm.modules": 8}))
    with StudyResults(tmp_path, TOY, runs(**{"eclm.modules": 8}), overwrite=True) as results:
        assert not results.done("NA", 1)


@pytest.mark.parametrize("damage", ["", "experiment,setting", "experiment,setting,seed,who,count,value\ntoy,NA,1,x"])
def test_a_damaged_file_is_one_sentence_and_stays(tmp_path, damage: str):
    with StudyResults(tmp_path, TOY, runs()) as results:
        results.add("NA", 1, [Toy("x", 1, 0.1)])
    (tmp_path / FILE).write_text(damage)
    for read in (lambda: read_study(tmp_path, TOY), lambda: StudyResults(tmp_path, TOY, runs())):
        with pytest.raises(ResultsError, match="cannot be read|is damaged|was changed"):
            read()
    assert (tmp_path / FILE).read_text() == damage


def test_a_changed_a_doubled_and_a_lost_row_are_noticed(tmp_path):
    with StudyResults(tmp_path, TOY, runs()) as results:
        results.add("NA", 1, [Toy("x", 1, 0.1), Toy("y", 2, 0.2)])
    path = tmp_path / FILE
    header, first, second = path.read_text().splitlines(keepends=True)
    for changed in ([header, first], [header, first, second, second], [header, first, second.replace("0.2", "0.3")]):
        path.write_text("".join(changed))
        for read in (lambda: read_study(tmp_path, TOY), lambda: StudyResults(tmp_path, TOY, runs())):
            with pytest.raises(ResultsError, match="was changed after the run of setting 'NA', seed 1 was finished"):
                read()
    path.unlink()
    with pytest.raises(ResultsError, match="is gone"):
        StudyResults(tmp_path, TOY, runs())


@pytest.mark.parametrize("odd", ["toy,c,1,x,1,0.1", "toy,NA,3,x,1,0.1", "other,NA,1,x,1,0.1"])
def test_a_row_of_another_run_is_named(tmp_path, odd: str):
    with StudyResults(tmp_path, TOY, runs()) as results:
        results.add("b", 1, [Toy("x", 1, 0.1)])
    with (tmp_path / FILE).open("a") as file:
        file.write(odd + "\n")
    for read in (lambda: read_study(tmp_path, TOY), lambda: StudyResults(tmp_path, TOY, runs())):
        with pytest.raises(ResultsError, match="has a row of no run of this folder"):
            read()


def test_overlap_of_routing_by_hand():
    """a and b use module 0, c and d module 1: all shared within a pair, nothing across, 2 of the 6 pairs in all."""
    assert STUDIES["routing"].metrics(routing_rows()) == pytest.approx(
        {("similar", "overlap"): 1.0, ("different", "overlap"): 0.0, ("all", "overlap"): 1 / 3}
    )


def test_a_path_is_the_share_of_samples_that_activate_both_ends():
    """Of two samples one activates 0 then 1, the other 0 then 0."""
    from torch import tensor

    found = routing._joint(tensor([[1.0, 0.0], [1.0, 0.0]]), tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert found.tolist() == [[0.5, 0.5], [0.0, 0.0]]


def test_gap_and_ability_gain_by_hand():
    """Derived is 0.1 above matched at every size but the whole; ability enhancing adds 0.2 everywhere."""
    found = STUDIES["submodels"].metrics(submodel_rows())
    assert found["derived, ability", "gap"] == pytest.approx(0.1)
    assert found["derived, ability", "ability_gain"] == pytest.approx(0.2)
    assert found["matched, ability", "ability_gain_all"] == pytest.approx(0.2)
    assert found["derived, ability", "accuracy"] == pytest.approx(0.66)  # 0.5, 0.58, 0.66, 0.74, 0.82
    assert found["random, ability", "accuracy"] == pytest.approx(0.6)  # 0.4 to 0.8, all six sizes


def test_specialisation_by_hand():
    found = STUDIES["specialisation"].metrics(specialisation_rows())
    assert found["ability", "effective_modules"] == 4.5 and found["end-to-end", "effective_modules"] == 9
    assert found["ability", "held"] == pytest.approx(2.05) and found["ability", "mass"] == pytest.approx(0.65)
    assert found["ability", "overlap"] == pytest.approx(0.55) and found["ability", "derived"] == pytest.approx(0.75)
    assert found["ability", "gap"] == pytest.approx(0.25) == found["end-to-end", "gap"]
    assert found["ability", "delivered_gain"] == pytest.approx(0.2)


def test_recipe_by_hand():
    found = STUDIES["recipe"].metrics(recipe_rows())
    assert found["ability", "above_dense"] == pytest.approx(0.1) and found["ability", "gap"] == pytest.approx(0.25)
    assert found["dense", "whole"] == 0.6 and ("ability", "delivered_gain") not in found


def test_ratios_are_estimate_over_measurement():
    """Training is estimated a tenth too slow, inference a tenth too fast, memory right."""
    found = STUDIES["latency"].metrics(latency_rows())
    assert found["modular 1/4", "train_ms"] == 1000 and found["modular 1/4", "train_ratio"] == pytest.approx(1.1)
    assert found["dense", "inference_ratio"] == pytest.approx(0.9) and found["dense", "memory_ratio"] == 1


def test_spa_means_over_devices_and_seconds_of_fifty_tokens():
    """Variants whose numbers are all 0.1 or 0.2: 50 (0.15 + 0.2) ms of any base and one's side, 0.2 s of network."""
    rows = spa_rows(spa.ModeRow)
    found = STUDIES["spa-modes"].metrics(rows[rows["seed"] == 1])
    assert found["SPA", "token_accuracy"] == pytest.approx(0.2)
    assert found["SPA", "total_lan_s"] == pytest.approx(0.0175 + 0.2)


def test_spa_gates_are_named_by_price_and_the_capped_gate_has_one_name():
    rows = spa_rows(spa.GateRow)
    found = STUDIES["spa-gate"].metrics(rows[rows["seed"] == 1])
    assert {name for name, _ in found} == {
        "mixture, price 0.3", "mixture, price 1", "oracle, price 0.3", "capped at 60 %",
    }  # fmt: skip
    assert found["capped at 60 %", "lost"] == pytest.approx(0.03)
    assert found["mixture, price 1", "M"] == pytest.approx(0.4)


def test_spa_sizes_are_named_and_averaged_over_devices():
    rows = size_rows()
    found = STUDIES["spa-size"].metrics(rows[rows["seed"] == 1])
    assert found["width 8", "token_accuracy"] == pytest.approx(0.75)
    assert found["S3 1", "token_accuracy"] == pytest.approx(0.65) and found["data 12", "parameters"] == 12000


def test_timed_sub_models_go_from_one_module_to_all(models_maker):
    models = models_maker()
    architecture, costs = models.architectures["modular"], models.costs["modular"]
    (layer,) = costs.layers
    timed = latency.sub_models(architecture, costs)
    assert {name: sizes[layer] for name, (_, sizes) in timed.items()} == {
        "modular 1/8": 1, "modular 3/8": 3, "modular 5/8": 5, "modular 6/8": 6, "modular 8/8": 8,
    }  # fmt: skip


def test_pareto():
    points = pd.DataFrame({"params": [1, 2, 2, 3, 4], "accuracy": [0.5, 0.4, 0.7, 0.7, 0.9]})
    assert submodels.pareto(points).to_numpy().tolist() == [[1, 0.5], [2, 0.7], [4, 0.9]]


def test_matched_sub_models_have_the_derived_ones_size_and_the_sizes_span_everything(models_maker):
    costs = models_maker().costs["modular"]
    (layer,) = costs.layers
    scores = {layer: np.arange(8.0)}
    limits = submodels.sizes(costs)
    assert len(submodels.derive(scores, costs, limits[0])[layer]) == 1
    assert len(submodels.derive(scores, costs, limits[-1])[layer]) == 8
    derived = submodels.derive(scores, costs, limits[1])[layer]
    assert derived.tolist() == [6, 7]  # a fifth of the seven modules beyond the first: 1.4
    (matched,) = submodels.draw_modules(np.random.default_rng(0), costs, {layer: 2}, core=False).values()
    assert len(set(matched.tolist())) == 2
    drawn = [submodels.draw_modules(np.random.default_rng(s), costs, {layer: 2}, core=True)[layer] for s in range(50)]
    assert {len(set(kept.tolist())) for kept in drawn} == {2} and {int(kept[0]) for kept in drawn} == {0}
    assert {int(kept[1]) for kept in drawn} == set(range(1, 8)), "the others are still drawn"


def test_a_folder_with_rows_of_methods_is_refused_before_anything_is_measured(tmp_path):
    (tmp_path / "rounds.csv").write_text("experiment\n")
    with pytest.raises(ResultsError, match=r"another kind of experiment \(rounds.csv\); choose another folder"):
        launch_study(TOY, [run.settings for run in runs()], tmp_path, True, Console())
    assert [path.name for path in tmp_path.iterdir()] == ["rounds.csv"]
