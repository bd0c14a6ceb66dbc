"""The summary against numbers computed by hand, and its tables."""

import io
import math
from collections.abc import Iterator

import pandas as pd
import pytest
from rich.console import Console

from experiments.analysis.metrics import METRICS, ROUND_METRICS, short
from experiments.analysis.summary import COLUMNS, gaps, in_order, summarize, unfinished, unserved, write_summary
from experiments.catalog import EXPERIMENTS, VIEWS
from experiments.catalog.experiment import OVERVIEW, SPLIT_OVERVIEW, columns
from experiments.report import markdown, show
from fl.results.rows import Row

# {seed: {round: accuracy}}. Round 1 is the best one and must not count; round 3 is not scored.
SCORED = {0: {1: 0.9, 2: 0.5, 4: 0.7}, 1: {1: 0.9, 2: 0.6, 4: 1.0}}


def rows(
    method: str = "fedavg", shift: float = 0.0, seeds=(0, 1), last: int = 4, setting: str = "m=2"
) -> Iterator[Row]:
    for seed in seeds:
        for round in range(1, last + 1):
            accuracy = SCORED[seed].get(round, math.nan) + shift
            scored = not math.isnan(accuracy)
            yield Row(
                "toy", setting, method, seed, round, step=(round - 1) // 2, devices=2, failures=seed, refused=1,
                bytes_down=3_000_000, bytes_up=1_000_000, virtual_s=30.0 * round, train_macs=4_000_000_000,
                memory_bytes=1_000_000 * round, evaluated=5 if scored else 0, accuracy_mean=accuracy,
                accuracy_std=0.1 if scored else math.nan, accuracy_p10=accuracy - 0.2, balanced_accuracy_mean=accuracy,
                loss=1.0 if scored else math.nan, deliver_bytes=2e6 if scored else math.nan,
            )  # fmt: skip


def lines(frame: pd.DataFrame, method: str = "fedavg") -> dict[str, pd.Series]:
    return {line["metric"]: line for _, line in frame[frame["method"] == method].iterrows()}


def test_rows_are_sorted_by_setting_and_method():
    came = [("m=5", "na"), ("m=2", "eclm"), ("m=5", "eclm"), ("m=2", "na"), ("m=5", "other")]
    frame = pd.DataFrame([row for setting, method in came for row in rows(method, setting=setting, seeds=[0])])
    by_setting = {
        "m=5": [("m=5", "na"), ("m=5", "eclm"), ("m=5", "other")],
        "m=2": [("m=2", "na"), ("m=2", "eclm")],
    }
    for known, expected in ([], ["m=5", "m=2"]), (["m=1", "m=2", "m=5"], ["m=2", "m=5"]):
        ordered = in_order(frame, known, ["na", "eclm"])
        found = list(dict.fromkeys(zip(ordered["setting"], ordered["method"], strict=True)))
        assert found == [pair for setting in expected for pair in by_setting[setting]]
        assert ordered["round"].tolist() == [1, 2, 3, 4] * 5


def test_by_hand():
    """Seed 0: (0.5 + 0.7) / 2 = 0.6; seed 1: (0.6 + 1.0) / 2 = 0.8. Mean 0.7, std sqrt(2 * 0.1^2 / 1) = 0.141421;
    t(0.975, 1) = 12.7062, so ci95 = 12.7062 * 0.141421 / sqrt(2) = 1.27062."""
    of = lines(summarize(pd.DataFrame(rows())))
    accuracy = of["accuracy_mean"]
    assert (accuracy["experiment"], accuracy["setting"], accuracy["seeds"]) == ("toy", "m=2", 2)
    assert accuracy["value"] == pytest.approx(0.7)
    assert accuracy["std"] == pytest.approx(0.1414213562)
    assert accuracy["ci95"] == pytest.approx(1.270620474)
    expected = {
        "accuracy_std": 0.1,
        "accuracy_p10": 0.5,
        "balanced_accuracy_mean": 0.7,
        "final_accuracy_mean": 0.85,  # (0.7 + 1.0) / 2
        "final_accuracy_p10": 0.65,
        "up_mb_per_round": 1.0,
        "down_mb_per_round": 3.0,
        "up_mb_total": 4.0,
        "down_mb_total": 12.0,
        "mb_per_device_round": 2.0,  # 4 MB for 2 devices
        "deliver_mb": 2.0,
        "virtual_min": 2.0,  # 120 s
        "gmac_per_device_round": 2.0,
        "memory_mb": 4.0,
        "failures": 2.0,  # 0 for seed 0, 4 for seed 1
        "refused": 4.0,
    }
    assert {name: of[name]["value"] for name in expected} == pytest.approx(expected)
    assert "global_accuracy" not in of  # not measured: no line
    assert list(of) == [name for name in ROUND_METRICS if name in of]


def test_three_seeds_by_hand():
    """0.5, 0.6 and 0.7: std 0.1, t(0.975, 2) = 4.302653, ci95 = 4.302653 * 0.1 / sqrt(3) = 0.248413."""
    frame = pd.DataFrame(
        [Row("toy", "s", "la", seed, 1, 0, evaluated=1, accuracy_mean=0.5 + seed / 10) for seed in range(3)]
    )
    of = lines(summarize(frame), "la")
    assert of["accuracy_mean"]["ci95"] == pytest.approx(0.248413, abs=1e-6)
    assert "mb_per_device_round" not in of and of["up_mb_per_round"]["value"] == 0  # no device-rounds, no traffic


def test_one_seed_has_no_interval():
    accuracy = lines(summarize(pd.DataFrame(rows(seeds=[0]))))["accuracy_mean"]
    assert accuracy["value"] == pytest.approx(0.6) and accuracy["seeds"] == 1
    assert math.isnan(accuracy["std"]) and math.isnan(accuracy["ci95"])


def test_unfinished_runs_are_left_out():
    frame = pd.DataFrame([*rows(), *rows("eclm", seeds=[0]), *rows("eclm", seeds=[1], last=3), *rows("la", last=2)])
    assert unfinished(frame) == [("m=2", "eclm", 1), ("m=2", "la", 0), ("m=2", "la", 1)]
    summary = summarize(frame)
    assert lines(summary, "eclm")["accuracy_mean"]["seeds"] == 1
    assert list(dict.fromkeys(summary["method"])) == ["fedavg", "eclm"]


def test_runs_that_serve_nobody_are_finished_without_a_score():
    """Nine devices have no model at each evaluation of 'eclm'; 'la' has a model for them, but not at the first."""
    frame = pd.DataFrame([*rows(), *rows("eclm"), *rows("la")])
    nobody = (frame["method"] == "eclm") & (frame["evaluated"] > 0)
    nobody |= (frame["method"] == "la") & (frame["round"] == frame["round"].min())
    frame.loc[nobody, ["evaluated", "unserved"]] = 0, 9
    assert unfinished(frame) == [] and unserved(frame) == [("m=2", "eclm", seed) for seed in frame["seed"].unique()]
    assert list(dict.fromkeys(summarize(frame)["method"])) == ["fedavg", "la"]
    seeds = ", ".join(f"m=2 eclm seed {seed}" for seed in frame["seed"].unique())
    assert f"runs in which no device has a model within its limits, left out: {seeds}" in gaps(frame)
    assert summarize(frame[frame["method"] == "eclm"]).empty


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (12345.6, "12,346"), (0.0123, "0.0123"), (-0.00856, "-0.00856"), (0.001, "0.00100"),
     (0.00099, "<0.001"), (-0.00099, ">-0.001")],
)  # fmt: skip
def test_small_numbers_keep_three_digits_and_their_sign(value: float, text: str):
    assert short(value) == text


def test_every_metric_of_a_table_is_described_and_fits_a_terminal():
    shown = {metric for of in (*EXPERIMENTS.values(), *VIEWS.values()) for metric in of.table}
    assert shown <= METRICS.keys()
    heads = [line for name in shown for line in METRICS[name].head.split("\n")]
    assert all(METRICS[name].meaning for name in shown) and max(map(len, heads)) <= 10


def test_missing_data_are_reported():
    whole = pd.DataFrame([*rows(seeds=[0]), *rows("eclm", seeds=[0])])
    assert gaps(whole) == []
    whole.loc[[4, 6], "failures"] = 2
    whole.loc[7, "evaluated"] -= 3
    whole.loc[3, ["evaluated", "unserved"]] = 4, 1
    assert gaps(pd.concat([whole, pd.DataFrame(rows("la", seeds=[0], last=3))])) == [
        "unfinished runs, left out: m=2 la seed 0",
        "devices that did not answer in training: m=2 eclm 4",
        "devices that did not answer in scoring: m=2 eclm 3",
        "devices without a model within their limits, not scored: m=2 fedavg 1",
    ]


def both() -> pd.DataFrame:
    return pd.DataFrame(
        [
            row
            for setting in ("m=5", "m=2")
            for method, shift in {"na": -0.4, "fedavg": 0.0, "eclm": 0.1}.items()
            for row in rows(method, shift, setting=setting)
        ]
    )


PAPER = {("m=2", "eclm"): {"accuracy_mean": 0.9086}}


def test_the_file_holds_ten_digits_and_empty_cells(tmp_path):
    write_summary(tmp_path, summarize(both(), PAPER))
    read = pd.read_csv(tmp_path / "summary.csv")
    assert tuple(read.columns) == COLUMNS
    assert list(dict.fromkeys(read["setting"])) == ["m=5", "m=2"]
    assert list(dict.fromkeys(read["method"])) == ["na", "fedavg", "eclm"]
    first = (tmp_path / "summary.csv").read_text().splitlines()[1]
    assert first == "toy,m=5,na,accuracy_mean,0.3,0.1414213562,1.270620474,2,"
    assert read["paper_value"].dropna().tolist() == [0.9086]


def test_markdown_has_the_numbers():
    text = markdown(summarize(both(), PAPER), OVERVIEW, note="A note.")
    assert text.startswith("# toy\n\nA note.\n")
    assert text.index("## m=5") < text.index("## m=2") and text.index("| **na** |") < text.index("| **fedavg** |")
    # Two seeds that differ by 0.2 have an interval of 127 points: all methods overlap, so all are bold.
    numbers = "10.0 | 60.0 | 1.00 | 3.00 | 2.00 | 4.00"
    assert f"| **eclm** | **80.0 ± 127.1** | {numbers} | 90.9 |" in text
    assert f"| **eclm** | **80.0 ± 127.1** | {numbers} |\n" in text  # m=5: no paper column
    assert "2 seeds" in text
    assert "| accuracy, % ↑ | std over devices, % ↓ |" in text and text.count("| paper's accuracy, % |") == 1


def test_a_metric_without_values_has_no_column_and_a_missing_cell_is_a_dash():
    text = markdown(summarize(both()), ["mb_to_target", "global_accuracy", "accuracy_mean"])
    assert "global accuracy" not in text and "'-': not reached" in text
    # The target is 95 % of 0.95 (eclm's final accuracies 0.8 and 1.1): na never reaches it.
    assert "| na | - | 30.0 ± 127.1 |" in text


def test_bold_is_best_within_its_interval():
    values = {"na": (0.50, 0.01), "la": (0.69, 0.02), "fedavg": (0.72, 0.02), "eclm": (0.70, 0.001)}
    summary = pd.DataFrame(
        [["toy", "s", m, "accuracy_mean", value, 0.01, ci, 3, math.nan] for m, (value, ci) in values.items()],
        columns=list(COLUMNS),
    )
    text = markdown(summary, OVERVIEW)
    assert [m for m in values if f"**{m}**" in text] == ["la", "fedavg", "eclm"]  # 0.69 + 0.02 meets 0.72 - 0.02
    single = markdown(summary.assign(ci95=math.nan, seeds=1), OVERVIEW)
    assert [m for m in values if f"**{m}**" in single] == ["fedavg"] and "Only one seed" in single


def test_terminal_table_fits_80_columns():
    frame = pd.DataFrame([*rows("heterofl+ft"), *rows("eclm-derive+ft", 0.1)])
    summary = summarize(frame, {("m=2", "heterofl+ft"): {"accuracy_mean": 0.7019}})
    summary.loc[summary["metric"].isin(["up_mb_per_round", "down_mb_per_round", "virtual_min"]), "value"] = 12345.6
    console = Console(width=80, record=True, file=io.StringIO())
    show(summary, OVERVIEW, console=console)
    printed = console.export_text().splitlines()
    (line,) = [text for text in printed if "eclm-derive+ft" in text]
    assert line.split() == "eclm-derive+ft 80.0 ± 127.1 10.0 60.0 12,346 12,346 12,346 4.00 -".split()
    assert all(len(text) <= 80 for text in printed) and not any("…" in text for text in printed)


def test_nothing_complete():
    empty = summarize(pd.DataFrame(columns=[*Row.__dataclass_fields__]))
    assert empty.empty and "No run" in markdown(empty, OVERVIEW)
    console = Console(record=True, file=io.StringIO())
    show(empty, OVERVIEW, console=console)
    assert "No run" in console.export_text()


def test_bytes_across_the_cut_are_in_the_summary_and_the_table() -> None:
    one = pd.DataFrame(rows(seeds=[0, 1]))
    who = one[["experiment", "setting", "method", "seed", "round", "step"]].iloc[0].to_dict()
    measures = pd.DataFrame(
        {**who, "seed": seed, "round": round_, "measure": name, "value": value}
        for seed, round_, name, value in [(0, 1, "infer_up", 30.0), (0, 2, "infer_up", 40.0), (1, 1, "infer_up", 45.0),
                                          (0, 1, "train_up", 98.0), (1, 1, "train_up", 98.0), (0, 1, "perplexity", 9.0)]
    )  # fmt: skip
    summary = summarize(one, measures=measures)
    of = summary[summary["method"] == who["method"]].set_index("metric")["value"]
    assert of["infer_up"] == pytest.approx(40.0) and of["train_up"] == 98.0 and "perplexity" not in of
    assert columns(OVERVIEW, summary["metric"]) == SPLIT_OVERVIEW and columns(("loss",), summary["metric"]) == ("loss",)
    text = markdown(summary, SPLIT_OVERVIEW)
    assert "in use, up, B" in text and "| 98.0 |" in text and "bytes of one text across the cut" in text
    with_columns = one.assign(infer_up=one["seed"].map({0: 11.0, 1: 13.0}))  # the columns of rounds.csv come first
    now = summarize(with_columns, measures=measures)
    of = now[now["method"] == who["method"]].set_index("metric")["value"]
    assert of["infer_up"] == 12.0 and of["train_up"] == 98.0
    assert columns(OVERVIEW, summarize(one)["metric"]) == OVERVIEW
    plain = markdown(summarize(one), SPLIT_OVERVIEW)
    assert "in use" not in plain and "across the cut" not in plain
