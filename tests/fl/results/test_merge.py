"""A new run in an old folder: it extends the config, or it is refused and the changed key is named."""

import pytest

from fl.results.files import ResultsError
from fl.results.merge import merge_configs, plain
from fl.results.reader import read_config, read_rounds
from fl.results.writer import ResultsWriter
from tests.fl.results.examples import SETTINGS, changed, open_, row


def test_another_config_is_refused_and_named(tmp_path):
    with open_(tmp_path) as results:
        results.append([row(1)])
    before = (tmp_path / "rounds.csv").read_bytes(), (tmp_path / "config.toml").read_bytes()
    other = changed(lr=0.2)
    with pytest.raises(ResultsError, match=r"settings\.m=2\.lr was 0\.1, is 0\.2"):
        open_(tmp_path, other)
    with pytest.raises(ResultsError, match="experiment was 'toy', is 'other'"):
        ResultsWriter(tmp_path, "other", SETTINGS, [0])
    assert before == ((tmp_path / "rounds.csv").read_bytes(), (tmp_path / "config.toml").read_bytes())
    (tmp_path / "figure.png").write_bytes(b"of the old rows")
    open_(tmp_path, other, overwrite=True).close()
    assert read_rounds(tmp_path).empty and not (tmp_path / "figure.png").exists()
    assert read_config(tmp_path)["settings"]["m=2"]["lr"] == 0.2


def test_a_changed_key_of_a_nested_table_is_named_with_dots(tmp_path):
    with open_(tmp_path) as results:
        results.append([row(1)])
    with pytest.raises(ResultsError, match=r"settings\.m=2\.drift\.fraction was 0\.5, is 0\.3\)"):
        open_(tmp_path, changed(drift={"kind": "class-swap", "fraction": 0.3}))
    with pytest.raises(ResultsError, match=r"settings\.m=2\.drift\.fraction was 0\.5, is not set\)"):
        open_(tmp_path, changed(drift={"kind": "class-swap"}), defaults={"drift.fraction": 0.5})


@pytest.mark.parametrize(
    ("key", "usual", "other"),
    [
        ("clip", {"clip": 1.0}, {"clip": 2.0}),
        ("data.name", {"data": {"name": "har"}}, {"data": {"name": "vision"}}),
        ("feature.sizes", {"feature": {"sizes": (1, 2)}}, {"feature": {"sizes": (1, 3)}}),
    ],
)
def test_a_key_that_is_newer_than_the_folder_had_its_default(tmp_path, key, usual, other):
    defaults = {"clip": 1.0, "data.name": "har", "feature.sizes": (1, 2), "lr": 0.5, "unused": 1}
    with open_(tmp_path, defaults=defaults) as results:
        results.append([row(1)])
    with pytest.raises(
        ResultsError, match=rf"settings\.m=2\.{key} was (1\.0|'har'|\[1, 2\]), is (2\.0|'vision'|\[1, 3\])"
    ):
        open_(tmp_path, changed(**other), defaults=defaults)
    with pytest.raises(ResultsError, match=rf"settings\.m=2\.{key} was not set, is "):
        open_(tmp_path, changed(**usual))
    open_(tmp_path, changed(**usual), defaults=defaults).close()
    assert read_config(tmp_path)["settings"] == plain(changed(**usual))


def test_a_default_never_replaces_a_recorded_value(tmp_path):
    with open_(tmp_path) as results:
        results.append([row(1)])
    new = {**read_config(tmp_path), "settings": changed(lr=0.2)}
    with pytest.raises(ResultsError, match=r"settings\.m=2\.lr was 0\.1, is 0\.2"):
        merge_configs(tmp_path, new, {"lr": 0.2})


def test_a_config_without_rows_protects_nothing(tmp_path):
    open_(tmp_path).close()
    other = changed(lr=0.2)
    open_(tmp_path, other).close()
    assert read_config(tmp_path)["settings"] == other


def test_settings_and_seeds_extend_a_folder(tmp_path):
    """As when all settings are announced at once and each Flower run then opens the folder with its own."""
    open_(tmp_path).close()
    for setting in SETTINGS:
        with open_(tmp_path, {setting: SETTINGS[setting]}) as results:
            results.append([row(1, setting=setting)])
    with open_(tmp_path, {"m=2": SETTINGS["m=2"]}, seeds=[1]):
        pass
    config = read_config(tmp_path)
    assert config["settings"] == SETTINGS and config["seeds"] == [0, 1] and len(config["versions"]) == 1
    assert list(read_rounds(tmp_path)["setting"]) == ["m=2", "m=5"]
