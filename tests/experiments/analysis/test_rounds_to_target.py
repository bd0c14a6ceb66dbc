"""Targets and recovery against small runs computed by hand."""

import math

import pandas as pd
import pytest

from experiments.analysis.rounds_to_target import (
    TARGET,
    after_shifts,
    cost_to_target,
    recovery,
    sweep_group,
    sweep_value,
    target_accuracies,
    with_shifts,
)
from fl.results.rows import Row


def run(accuracies: list[float], per_step: int = 3, method: str = "eclm", setting: str = "s", seed: int = 1):
    """Rounds of 10 s and 2 MB; NaN: not scored."""
    return pd.DataFrame(
        [
            Row(
                "toy", setting, method, seed, i + 1, i // per_step, devices=1, bytes_down=1_500_000, bytes_up=500_000,
                virtual_s=10.0 * (i + 1), evaluated=0 if math.isnan(a) else 5, accuracy_mean=a,
            )
            for i, a in enumerate(accuracies)
        ]
    )  # fmt: skip


def test_cost_to_target():
    """Round 4 is the first that is scored 0.8: 4 rounds, 40 s, 8 MB. Round 3 is not scored and does not count."""
    nan = math.nan
    assert cost_to_target(run([0.5, 0.7, nan, 0.8, 0.9]), 0.8) == pytest.approx(
        {"rounds_to_target": 4, "min_to_target": 40 / 60, "mb_to_target": 8}
    )
    assert all(math.isnan(value) for value in cost_to_target(run([0.5, 0.7]), 0.8).values())


def test_cost_to_target_after_a_shift():
    """0.8 in the first step does not count; after the shift, at 30 s, the second round reaches it."""
    assert cost_to_target(run([0.6, 0.7, 0.8, 0.5, 0.8, 0.9]), 0.8, after_shift=True) == pytest.approx(
        {"rounds_to_target": 2, "min_to_target": 20 / 60, "mb_to_target": 4}
    )
    still = with_shifts(run([0.6, 0.7, 0.8, 0.5]), {"s": {"drift": {"schedule": "never"}}})
    assert cost_to_target(still, 0.8, after_shift=True) == cost_to_target(still, 0.8)


def test_recovery():
    """Steps of 3 rounds. First shift: 0.8 falls to 0.5 and recovers in the second round. Second shift: 0.9 falls to
    0.6 and does not recover in its step, so all 3 rounds count."""
    found = recovery(run([0.6, 0.7, 0.8, 0.5, 0.8, 0.9, 0.6, 0.7, 0.8]))
    assert found == pytest.approx({"shift_drop": 0.3, "recovery_rounds": 2.5, "recovery_s": 25, "recovered": 0.5})


def test_a_step_without_drift_is_no_shift():
    """Data drift at every other step: only the third step begins with a shift."""
    of = with_shifts(run([0.6, 0.7, 0.8, 0.5, 0.8, 0.9, 0.6, 0.9, 0.9]), {"s": {"drift": {"schedule": "every:2"}}})
    assert of["shifts"].tolist() == [0] * 6 + [1] * 3
    assert recovery(of) == pytest.approx({"shift_drop": 0.3, "recovery_rounds": 2, "recovery_s": 20, "recovered": 1})
    still = with_shifts(of, {"s": {"drift": {"schedule": "never"}}})
    assert all(math.isnan(value) for value in recovery(still).values())


def test_accuracy_after_shifts():
    """Steps of 3 rounds: (0.5 + 0.8 + 0.9) / 3 and, with one round not scored, (0.6 + 0.8) / 2."""
    assert after_shifts(run([0.6, 0.7, 0.8, 0.5, 0.8, 0.9, 0.6, math.nan, 0.8])) == pytest.approx((2.2 / 3 + 0.7) / 2)
    assert math.isnan(after_shifts(run([0.5, 0.6, 0.7])))


def test_recovery_needs_a_shift_and_every_round_scored():
    assert all(math.isnan(value) for value in recovery(run([0.5, 0.6, 0.7])).values())
    assert all(math.isnan(value) for value in recovery(run([0.5, math.nan, 0.7, 0.5, 0.6, 0.7])).values())


def test_the_target_is_a_share_of_the_best_methods_final_accuracy():
    """eclm ends at (0.8 + 0.9) / 2 = 0.85; 0.99 of la is not its final accuracy."""
    frame = pd.concat([run([0.5, 0.8]), run([0.5, 0.9], seed=2), run([0.99, 0.6], method="la")])
    both = {("s", "eclm", 1): TARGET * 0.85, ("s", "eclm", 2): TARGET * 0.85, ("s", "la", 1): TARGET * 0.85}
    assert target_accuracies(frame) == pytest.approx(both)


def test_the_target_is_that_of_a_method_of_the_paper_that_is_scored_whenever_the_setting_is():
    """fedavg ends at 0.7. Others end higher: na-prior and fedavg+ft are not the paper's, la is scored only once."""
    frame = pd.concat(
        [
            run([0.5, 0.7], method="fedavg"),
            run([0.8, 0.9], method="fedavg+ft"),
            run([0.9, 0.9], method="na-prior"),
            run([math.nan, 0.8], method="la"),
            run([0.4, 0.6], method="na-prior", setting="t"),
        ]
    )
    targets = {(setting, method): target for (setting, method, _), target in target_accuracies(frame).items()}
    assert {target for (setting, _), target in targets.items() if setting == "s"} == {TARGET * 0.7}
    assert targets["t", "na-prior"] == TARGET * 0.6  # no method of the paper ran


def test_in_a_sweep_a_method_is_compared_with_itself():
    frame = pd.concat(
        [
            run([0.5, 0.8], setting="a cohort=5"),
            run([0.5, 0.9], setting="a cohort=10"),
            run([0.5, 0.6], setting="a cohort=10", seed=2),
            run([0.5, 0.4], setting="a cohort=5", method="la"),
            run([0.5, 0.7], setting="b cohort=5"),
        ]
    )
    assert target_accuracies(frame, sweep=True) == pytest.approx(
        {
            ("a cohort=5", "eclm", 1): 0.8,
            ("a cohort=10", "eclm", 1): 0.8,
            ("a cohort=10", "eclm", 2): 0.6,
            ("a cohort=5", "la", 1): 0.4,
            ("b cohort=5", "eclm", 1): 0.7,
        }
    )


def test_names_of_a_sweep():
    assert sweep_group("cifar10 m=2 limit=0.5") == "cifar10 m=2" and sweep_value("cifar10 m=2 limit=0.5") == 0.5
    assert sweep_group("cohort=5") == "" and math.isnan(sweep_value("iid"))
