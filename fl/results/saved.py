"""The final models of a run as files: safetensors that say what they are, each with a card for people."""

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fl.results.files import MODELS, atomic_write
from fl.results.versions import versions
from models.submodel import State
from partitions.errors import DataError

KEY = "driftfed"  # of what a file says of itself
UNSAFE = re.compile(r"[^\w.=+-]+")  # characters that a shell would not take as they are
METRICS = ("accuracy_mean", "balanced_accuracy_mean", "global_accuracy", "loss", "bytes_down", "bytes_up")
LICENCE = (
    "The code that trained it is under Apache-2.0. The licences of the data, and of a pretrained model that it "
    "contains or needs, apply to the weights."
)


@dataclass(frozen=True)
class Saved:
    """A saved model. Args: about: what `save_model` wrote of it; extra: what its workload added, by name."""

    state: State
    about: Mapping[str, Any]
    extra: Mapping[str, Any]


def save_model(out: Path, name: str, state: State, about: Mapping[str, Any], extra: Mapping[str, Any]) -> Path:
    """Write ``final-models/NAME.safetensors`` and its card ``NAME.md``; return the former.

    Args:
        out: folder of the results, whose rounds.csv has the scores; name: may have any characters.
        state: the model.
        about: what it is: workload, method, model (of several), setting, seed, rounds, reports, digests, settings.
        extra: see `Saved`.
    """
    about = {**about, "metrics": _metrics(out, about), "licence": LICENCE, "versions": versions()}
    path = out / MODELS / f"{UNSAFE.sub('-', name)}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    metadata = {KEY: json.dumps(about)} | {key: json.dumps(value) for key, value in extra.items()}
    save_file({key: value.contiguous() for key, value in state.items()}, unfinished, metadata)
    unfinished.replace(path)
    atomic_write(path.with_suffix(".md"), _card(path.name, about, state))
    return path


def read_model(path: Path) -> Saved:
    """Read a file of `save_model`.

    Raises:
        DataError: the file is missing, or is another one.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = {key: json.loads(value) for key, value in file.metadata().items()}
        return Saved(load_file(path), metadata.pop(KEY), metadata)
    except Exception as error:  # safetensors, json and missing keys raise different errors
        raise DataError(f"{path} is no saved model ({error}): save one with `run ... --set save=true`") from error


def _metrics(out: Path, about: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the last scores of each report, from rounds.csv."""
    found: dict[str, dict[str, float]] = {}
    with (out / "rounds.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            ours = (row["setting"], row["seed"]) == (about["setting"], str(about["seed"]))
            if ours and row["method"] in about["reports"] and row["evaluated"] != "0":
                scores = {key: float(row[key]) for key in METRICS if row[key] not in ("", "nan")}
                found[row["method"]] = {"round": int(row["round"])} | scores
    return found


def _card(name: str, about: Mapping[str, Any], state: State) -> str:
    """Return the card in Markdown."""
    what = f"{about['workload']}, {about['method']}{' ' + about['model'] if about['model'] else ''}"
    lines = [
        f"# {name}",
        "",
        f"{what}: {sum(v.numel() for v in state.values()):,} numbers in {len(state)} tensors.",
        "",
    ]
    lines += [f"After {about['rounds']} rounds of setting '{about['setting']}', seed {about['seed']}.", ""]
    columns = ["row", *dict.fromkeys(key for scores in about["metrics"].values() for key in scores)]
    lines += ["## Scores", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for report, scores in about["metrics"].items():
        lines.append(f"| {report} | " + " | ".join(f"{scores[key]:.6g}" for key in columns[1:] if key in scores) + " |")
    lines += [
        "",
        "## Data",
        "",
        *(f"- digest `{digest}`" for digest in about["digests"] or ["unknown: on devices"]),
    ]
    lines += ["", "## Licence", "", about["licence"], "", "## Settings", "", "```"]
    lines += [f"{key} = {value!r}" for key, value in about["settings"].items()]
    lines += ["```", "", "Versions: " + ", ".join(f"{key} {value}" for key, value in about["versions"].items())]
    return "\n".join(lines) + "\n"
