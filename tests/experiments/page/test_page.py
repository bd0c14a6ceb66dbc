"""The page: its numbers worked out by hand, and that it is complete, alone and live."""

import csv
import json
import re
import shutil
import subprocess
import threading
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from experiments.analysis.recorded import Recorded
from experiments.page import page, payload, server
from experiments.page.columns import columns_page
from experiments.page.markup import MARKUP
from experiments.page.script import SCRIPT
from partitions.errors import UserError
from tests.experiments.page.conftest import record, writer_of


def test_numbers_by_hand(results: Path) -> None:
    """Round 2: (0.5 + 0.7) / 2 = 0.6; std 0.1414; t(0.975, 1) = 12.706; 12.706 * 0.1414 / sqrt(2) = 1.2706."""
    numbers = payload([Recorded.read(results)])
    (group,) = numbers["groups"]
    curve = group["curves"]["fedavg"]
    assert curve["round"] == [1, 2, 3, 4]
    assert curve["mb"] == [1.5, 3.0, 4.5, 6.0]
    assert curve["min"] == [1.0, 2.0, 3.0, 4.0]
    assert curve["metrics"]["accuracy_mean"] == [[2, 4], [0.6, 0.8], [1.2706, 1.2706]]
    assert group["drifts"] == [3]
    assert group["devices"]["fedavg"] == {"devices": [0, 1], "steps": [0, 1], "accuracy": [[0.5, 0.7], [0.7, 0.9]]}
    assert group["summary"]["fedavg"]["accuracy_mean"] == [0.7, 1.2706, None, 2]
    assert group["settings"] == {"rounds": 4, "drift.kind": "class-swap", "drift.schedule": "every"}
    assert numbers["versions"]["toy"][0]["driftfed"]
    assert all(of["scale"] == 1 or "0 to 1" not in of["meaning"] for of in numbers["metrics"].values())


def test_without_a_choice_by_the_experiment_eight_methods_at_most_are_shown(tmp_path: Path) -> None:
    """Variants and models with a fine-tuned twin go first, so that no family is missing."""
    kept = ["na+ft", "la", "fedavg+ft", "heterofl+ft", "eclm", "eclm-plus"]
    methods = ["na", *kept, "fedavg", "heterofl", "eclm-derive", "eclm-plus-derive"]
    with writer_of(tmp_path / "toy", methods) as writer:
        for method in methods:
            record(writer, method)
    numbers = payload([Recorded.read(tmp_path / "toy")])["methods"]
    assert [method for method in methods if numbers[method]["shown"]] == kept


def test_folders_of_the_same_name_are_told_apart(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path / "again" / "toy")
    numbers = payload([Recorded.read(results), Recorded.read(tmp_path / "again" / "toy")])
    assert [group["folder"] for group in numbers["groups"]] == [f"{tmp_path.name}/toy", "again/toy"]


def test_the_page_is_one_file_with_these_numbers(results: Path) -> None:
    numbers = payload([Recorded.read(results)])
    text = page(numbers)
    (inside,) = re.findall(r'<script id="numbers" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert json.loads(inside) == json.loads(json.dumps(numbers))  # although a method is called '</script>'
    assert not re.search(r"src=|href=(?!\"data:,\")|https?://|@import", MARKUP + SCRIPT)
    assert len(text) < 3e6


def test_the_script_is_javascript(tmp_path: Path) -> None:
    if not (node := shutil.which("node")):
        pytest.skip("node is not installed")
    (tmp_path / "script.js").write_text(SCRIPT)
    done = subprocess.run([node, "--check", "script.js"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_column_is_explained(results: Path) -> None:
    text = columns_page(results)
    for file in ("rounds.csv", "devices.csv"):
        with (results / file).open() as lines:
            assert all(f"| `{column}` |" in text for column in next(csv.reader(lines)))
    assert "measures.csv" not in text


def test_a_run_is_watched_before_and_after_its_first_row(results: Path, tmp_path: Path) -> None:
    later = tmp_path / "later"
    with server(later, 0) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{web.server_port}"
        with pytest.raises(HTTPError, match="503") as error:
            urlopen(f"{address}/numbers.json")
        with error.value as answer:
            assert "run the experiment first" in json.load(answer)["error"]
        with urlopen(address) as answer:  # an empty page, which asks again
            assert '"live":true' in answer.read().decode()
        results.rename(later)
        with urlopen(f"{address}/numbers.json") as answer:
            assert json.load(answer)["groups"][0]["setting"] == "still"
        with pytest.raises(HTTPError, match="404"), urlopen(f"{address}/rounds.csv"):
            pass
        with pytest.raises(UserError, match=r"port \d+ cannot be opened .*: choose another one with --port"):
            server(later, web.server_port)
        web.shutdown()
