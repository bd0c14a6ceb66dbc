"""Where a base comes from: a model of the hub is not asked for again once it is whole in the local cache."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from models.spa import bases
from partitions.errors import DataError


def test_a_whole_model_of_the_hub_is_read_from_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def snapshot(name: str, local_files_only: bool = False, **_: Any) -> str:
        asked.append(not local_files_only)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    for name in ("config.json", "tokenizer_config.json"):
        (tmp_path / name).write_text("{}")
    assert bases.find("some/model", tmp_path) == tmp_path and asked == [False, True]  # the weights are missing
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    assert bases.find("some/model", tmp_path) == tmp_path and asked[2:] == [False, True]
    (tmp_path / "model-1.safetensors").write_bytes(b"")
    assert bases.find("some/model", tmp_path) == tmp_path and asked[4:] == [False]


def test_a_missing_package_is_named_before_anything_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.serving.smollm2 import fetch_smollm2

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("subprocess.run", pytest.fail)
    with pytest.raises(DataError, match="pip install gguf==0.19.0 accelerate==1.15.0"):
        fetch_smollm2(None)
