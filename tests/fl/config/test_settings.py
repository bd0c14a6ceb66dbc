"""Every mistake in a run-config is one sentence that says what is allowed."""

import tomllib
from pathlib import Path

import pytest

from fl.config.settings import Settings, SettingsError
from strategies import STRATEGIES

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"roundz": 3}, "unknown run-config key 'roundz'; known: .*(did you mean 'rounds'?)"),
        ({"rounds": "abc"}, "rounds = 'abc': .*integer.*communication rounds"),
        ({"rounds": 0}, "rounds = 0: .*greater than or equal to 1"),
        ({"rounds": 2.5}, "rounds = 2.5: .*integer"),
        ({"lr": "inf"}, "lr = 'inf': .*finite number.*learning rate on devices"),
        ({"strategies": "fedavg,heterfl"}, "unknown strategy 'heterfl'; known: .*(did you mean 'heterofl'?)"),
        ({"engine": "local", "placement": "own"}, "engine = 'local' stands in for devices"),
        ({"strategies": ""}, "strategies names no method; known: an, .*eclm"),
        ({"dataset": "cifar"}, "unknown data set 'cifar'; known: .*cifar10"),
        ({"partition": "subjct"}, "unknown partition 'subjct'"),
        ({"drift": "swap"}, "unknown drift 'swap'; known: class-swap"),
        ({"schedule": "sometimes"}, "schedule 'sometimes' is not 'every'"),
        ({"seeds": "1,x"}, "seeds = '1,x' is not a list of integers"),
        ({"seeds": "-1"}, "negative"),
        ({"seeds": " , "}, "names no seed"),
        ({"cohort": 99}, r"cohort = 99 is more than there are devices \(46\)"),
        ({"samples-min": 200}, "samples-min = 200 is above samples-max = 150"),
        ({"limit-low": 0.9}, "limit-low = 0.9 is above limit-high"),
        ({"top-k": 17}, r"top-k = 17 is more than there are modules per layer \(16\)"),
        ({"top-k": 1, "strategies": "eclm,eclm-plus"}, "top-k = 1: 'eclm-plus' needs 2 active modules per layer"),
        ({"optimizer": "sgdd"}, "optimizer = 'sgdd': .*'sgd' or 'adam'"),
        ({"hardware": "tablets"}, "unknown hardware 'tablets'; known: all, boards, phones"),
    ],
)
def test_a_mistake_is_one_sentence(values: dict, said: str) -> None:
    with pytest.raises(SettingsError, match=said.replace("(did", r"\(did").replace("?)", r"\?\)")) as error:
        Settings.parse(values)
    assert "\n" not in str(error.value)


def test_two_methods_do_not_write_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(STRATEGIES["la"]):  # type: ignore[misc, name-defined]
        reports = {"other": "delivered", "na": "adapted"}

    monkeypatch.setitem(STRATEGIES, "other", Other)
    assert Settings.parse({"strategies": "la,other"}).methods == ["la", "other"]
    with pytest.raises(SettingsError, match="strategies 'na' and 'other' both report 'na'; run them apart"):
        Settings.parse({"strategies": "na,other"})


def test_numbers_may_come_as_flower_writes_them() -> None:
    """An int where a float is declared, text from a command line, underscores for hyphens."""
    settings = Settings.parse({"lr": 1, "rounds": "7", "drift_fraction": 0, "per-device": "true"})
    assert (settings.lr, settings.rounds, settings.drift_fraction, settings.per_device) == (1.0, 7, 0.0, True)


def test_flat_gives_the_same_settings_again() -> None:
    settings = Settings.parse({"rounds": 7, "strategies": "fedavg, la", "seeds": "3,4"})
    assert Settings.parse(settings.flat()) == settings
    assert settings.methods == ["fedavg", "la"] and settings.seed_list == [3, 4]


def test_pyproject_declares_every_key_with_its_default() -> None:
    """Flower refuses a key that pyproject does not declare, so the two lists must be one."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    assert declared == Settings().flat()
    assert {key: type(value) for key, value in declared.items()} == {k: type(v) for k, v in Settings().flat().items()}


def test_paths_and_names_do_not_make_another_experiment() -> None:
    a = Settings.parse({"out": "/a", "data-root": "/b", "seeds": "1", "strategies": "la"})
    assert a.resolved() == Settings().resolved()
    assert Settings.parse({"lr": 0.5}).resolved() != Settings().resolved()
