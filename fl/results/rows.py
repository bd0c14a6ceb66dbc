"""The rows of an experiment's CSV files. Each column is declared once: name, type, meaning and default."""

import math
from dataclasses import dataclass, fields
from typing import Annotated, TypeVar, get_args

Run = tuple[str, str, int]  # (setting, method, seed)
RowKey = tuple[str, str, int, int]  # (setting, method, seed, round): one row each
NAN = math.nan  # an empty cell


@dataclass(frozen=True)
class TableRow:
    """The columns that every table begins with."""

    experiment: Annotated[str, "name of the experiment"]
    setting: Annotated[str, "name of the setting: a [settings] table of config.toml"]
    method: Annotated[str, "name of the method; '+ft' means fine-tuned on the device before the evaluation"]
    seed: Annotated[int, "seed of all random numbers of the run"]
    round: Annotated[int, "round of the run, counted over all steps"]
    step: Annotated[int, "step of the world; the data drifts from one step to the next"]


@dataclass(frozen=True)
class Row(TableRow):
    """One line of ``rounds.csv``: one method, seed and round."""

    devices: Annotated[int, "devices that took part in the round"] = 0
    failures: Annotated[int, "devices of the round without a usable reply"] = 0
    refused: Annotated[int, "replies refused: not finite, wrong shape, too large, unasked, wrong device or round"] = 0
    withheld: Annotated[int, "devices that trained but did not upload, because their model changed too little"] = 0
    late: Annotated[int, "updates dropped after the deadline; buffered: updates of earlier rounds that were merged"] = 0
    bytes_down: Annotated[int, "bytes of the messages to devices: training and queries, also of evaluated devices"] = 0
    bytes_up: Annotated[int, "bytes of the messages from devices: training and queries, also of evaluated devices"] = 0
    virtual_s: Annotated[float, "virtual seconds since the start of the run, cumulative"] = 0.0
    train_macs: Annotated[int, "multiply-accumulates of local training in the round, sum over devices"] = 0
    memory_bytes: Annotated[int, "largest training memory of a device, also in local adaptation before evaluation"] = 0
    divergence: Annotated[float, "disagreement of updates: 0 equal, 1 unrelated, 2 opposed; empty: fewer than 2"] = NAN
    module_divergence: Annotated[float, "the same over the blocks that can be cut into modules"] = NAN
    variance: Annotated[float, "variance over devices of the update of a parameter, mean over the parameters"] = NAN
    module_variance: Annotated[float, "the same over the blocks that can be cut into modules"] = NAN
    load_cv: Annotated[float, "coefficient of variation of the devices that trained a module; empty: no modules"] = NAN
    evaluated: Annotated[int, "devices evaluated after the round; if 0, the columns up to forgetting are empty"] = 0
    unserved: Annotated[int, "devices not evaluated because the method has no model within their limits"] = 0
    accuracy_mean: Annotated[float, "mean accuracy of evaluated devices on their current distribution, 0 to 1"] = NAN
    accuracy_std: Annotated[float, "standard deviation of that accuracy over the evaluated devices"] = NAN
    accuracy_p10: Annotated[float, "10th percentile of that accuracy over the evaluated devices"] = NAN
    encounter_accuracy: Annotated[float, "the same over those with a class, domain or concept new to them"] = NAN
    balanced_accuracy_mean: Annotated[float, "mean over devices of the mean recall of their own classes, 0 to 1"] = NAN
    loss: Annotated[float, "mean cross-entropy of evaluated devices on their current distribution, in nats"] = NAN
    global_accuracy: Annotated[
        float, "accuracy on the global test set, 0 to 1; empty if no global model or labels differ"
    ] = NAN
    deliver_bytes: Annotated[float, "mean bytes that bring the evaluated model to one device"] = NAN
    asked: Annotated[int, "evaluated devices that got a model from the server; the others use the one they keep"] = 0
    adapt_s: Annotated[float, "mean virtual seconds of query, delivery and local training of the evaluated model"] = NAN
    forgetting: Annotated[float, "mean accuracy lost on the previous step's test samples; empty if not measured"] = NAN
    train_up: Annotated[float, "split models: bytes per example that cross the cut up in training; empty: none"] = NAN
    train_down: Annotated[float, "split models: bytes per example that cross the cut down in training"] = NAN
    infer_up: Annotated[float, "split models: bytes per example that cross the cut up in use; empty: not scored"] = NAN
    infer_down: Annotated[float, "split models: bytes per example that cross the cut down in use"] = NAN
    wall_s: Annotated[float, "real seconds of the round; the only column that may differ between runs of a seed"] = 0.0


@dataclass(frozen=True)
class DeviceRow(TableRow):
    """One line of ``devices.csv``: one evaluated device."""

    device: Annotated[int, "index of the device"]
    device_class: Annotated[str, "hardware profile of the device"]
    samples: Annotated[int, "test samples of the evaluation"]
    accuracy: Annotated[float, "accuracy on its current distribution, 0 to 1"]
    balanced_accuracy: Annotated[float, "mean recall of the classes that it has, 0 to 1"]
    deliver_bytes: Annotated[float, "bytes that bring the evaluated model to it"]
    share: Annotated[float, "fraction of the server model's parameters that it uses, 0 to 1"]
    macs: Annotated[float, "multiply-accumulates of one forward pass of one sample"]
    adapt_s: Annotated[float, "virtual seconds of query, delivery and local training of the evaluated model"]


@dataclass(frozen=True)
class MeasureRow(TableRow):
    """One line of ``measures.csv``: one measure of the workload in one round."""

    measure: Annotated[str, "name of the measure, see `MEASURES` in the workload's module"]
    value: Annotated[float, "mean over devices: those that trained, weighted by examples, or those evaluated"]


AnyRow = TypeVar("AnyRow", bound=TableRow)


def column_types(kind: type[TableRow]) -> dict[str, type]:
    """Return the columns of a row class in file order, each with its type."""
    return {field.name: get_args(field.type)[0] for field in fields(kind)}


def column_meanings(kind: type[TableRow]) -> dict[str, str]:
    """Return the columns of a row class in file order, each with its meaning."""
    return {field.name: get_args(field.type)[1] for field in fields(kind)}


def columns_of(header: list[str], kind: type[TableRow]) -> dict[str, type]:
    """Return the columns of a file, each with its type, given its header; empty if no version has them.

    Files of earlier versions lack some of the columns `LATER`.
    """
    types = column_types(kind)
    lacking = [{name for names in LATER[at:] for name in names} for at in range(len(LATER) + 1)]
    versions = [{name: of for name, of in types.items() if name not in lacks} for lacks in lacking]
    return next((columns for columns in versions if list(columns) == header), {})


CUT = ("train_up", "train_down", "infer_up", "infer_down")  # columns that are also measures of a split workload
LATER = (("variance", "module_variance"), ("encounter_accuracy",), CUT, ("unserved",))  # by version
COLUMNS = column_meanings(Row)
DEVICE_COLUMNS = column_meanings(DeviceRow)
MEASURE_COLUMNS = column_meanings(MeasureRow)
