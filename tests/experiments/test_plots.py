"""The figures: what is on the axes, and files that are small and the same every time."""

import math

import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from experiments.plots import PLOTS
from experiments.plots.overview import draw
from experiments.plots.style import FAMILIES, looks
from fl.results import Row

METHODS = {"na": 0.5, "fedavg": 0.6, "fedavg+ft": 0.7, "eclm-derive": 0.75, "eclm": 0.8}


def rounds(settings=("subject", "m=2"), seeds=(1, 2), steps: int = 3, methods=METHODS) -> pd.DataFrame:
    """Two rounds a step, scored at its end; seeds 0.02 apart."""
    made = []
    for setting in settings:
        for seed in seeds:
            for method, level in methods.items():
                for round in range(1, 2 * steps + 1):
                    scored = round % 2 == 0
                    accuracy = level + 0.02 * (seed - 1) if scored else math.nan
                    traffic = 0 if method == "na" else 5_000_000
                    made.append(
                        Row(
                            "toy",
                            setting,
                            method,
                            seed,
                            round,
                            (round - 1) // 2,
                            devices=10 if traffic else 0,
                            bytes_down=traffic,
                            bytes_up=traffic,
                            evaluated=8 if scored else 0,
                            accuracy_mean=accuracy,
                            accuracy_p10=accuracy - 0.1,
                        )
                    )
    return pd.DataFrame(made)


def lines(axes) -> dict[str, object]:
    return {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}


@pytest.fixture(scope="module")
def figure() -> Figure:
    return draw(rounds())


def test_a_row_of_panels_per_setting(figure):
    titles = [axes.get_title("left") for axes in figure.axes]
    assert titles[0::3] == ["subject: over the rounds", "m=2: over the rounds"]
    assert titles[1:3] == ["after the last step", "against traffic"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(METHODS)


def test_left_has_a_line_per_method_and_one_per_drift(figure):
    left = figure.axes[0]
    drawn = lines(left)
    assert list(drawn) == list(METHODS)
    assert list(drawn["fedavg"].get_xdata()) == [2, 4, 6]
    assert list(drawn["fedavg"].get_ydata()) == pytest.approx([0.61] * 3)
    drifts = [line.get_xdata()[0] for line in left.get_lines() if line.get_label() == "_drift"]
    assert drifts == [2.5, 4.5]
    assert len(left.collections) == len(METHODS)  # bands over seeds
    assert left.get_ylabel() == "accuracy on own data" and "drift" in left.get_xlabel()


def test_middle_has_a_bar_per_method(figure):
    middle = figure.axes[1]
    assert [label.get_text() for label in middle.get_yticklabels()] == list(METHODS)
    assert [bar.get_width() for bar in middle.patches] == pytest.approx([v + 0.01 for v in METHODS.values()])
    p10 = [line.get_xdata()[0] for line in middle.get_lines() if line.get_label() == "_p10"]
    assert p10 == pytest.approx([v - 0.09 for v in METHODS.values()])
    assert [text.get_text() for text in middle.texts] == ["51.0", "61.0", "71.0", "76.0", "81.0"]


def test_right_shows_traffic_on_a_log_axis_and_none_beside_it(figure):
    right = figure.axes[2]
    points = {c.get_label(): c.lines[0].get_xydata()[0] for c in right.containers}
    assert right.get_xscale() == "log" and list(points) == list(METHODS)
    assert points["eclm"].tolist() == pytest.approx([1.0, 0.81])  # 10 MB for 10 devices
    ticks = dict(zip(right.get_xticks(), [t.get_text() for t in right.get_xticklabels()], strict=True))
    assert ticks[points["na"][0]] == "none" and ticks[1.0] == "1"


def test_one_seed_one_setting_no_drift():
    figure = draw(rounds(settings=["iid"], seeds=[1], steps=1))
    left = figure.axes[0]
    assert len(figure.axes) == 3 and not left.collections and left.get_xlabel() == "round"


def test_only_methods_without_traffic():
    figure = draw(rounds(settings=["iid"], methods={"na": 0.5}))
    figure.canvas.draw()
    assert [t.get_text() for t in figure.axes[2].get_xticklabels()].count("none") == 1


def test_nothing_to_draw_is_still_a_figure():
    draw(pd.DataFrame(columns=list(Row.__dataclass_fields__))).canvas.draw()


def test_a_family_has_one_colour_and_variants_their_own_stroke():
    found = looks(["fedavg", "fedavg+ft", "eclm", "eclm-derive", "mine", "mine+ft", "yours"])
    assert found["fedavg"].color == found["fedavg+ft"].color == FAMILIES["fedavg"]
    assert (found["fedavg"].line, found["fedavg+ft"].line, found["eclm-derive"].line) == ("-", "--", ":")
    assert found["mine"].color == found["mine+ft"].color != found["yours"].color
    assert len({(look.color, look.line) for look in found.values()}) == len(found)
    assert len(set(map(to_hex, FAMILIES.values()))) == len(FAMILIES)


@pytest.mark.parametrize("name", PLOTS)
def test_files_are_small_and_the_same_every_time(name, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        PLOTS[name](rounds(settings=["m=2"]), tmp_path / folder)
    for file, head in {"figure.png": b"\x89PNG", "figure.svg": b"<?xml"}.items():
        content = (tmp_path / "one" / file).read_bytes()
        assert content.startswith(head) and content == (tmp_path / "two" / file).read_bytes()
    assert (tmp_path / "one" / "figure.png").stat().st_size < 300_000
