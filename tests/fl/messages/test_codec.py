"""Tasks and answers as records: what a server half writes is what a client half reads."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fl.messages import records
from fl.messages.codec import OWN_KEYS, Address, packed_tensors, read_task, task_values, tensor_records
from models.nn.body import columns_coverage
from models.submodel import FULL, extract
from strategies.core.pretrained import PretrainedModels
from strategies.core.strategy import SubModel, TrainTask

ADDRESS = Address("1f", 9, "eclm", 3, 2, 7, 1)
VARIATE = {"w": torch.tensor([1.0, 2.0])}


def dense(models: PretrainedModels, **fields: object) -> TrainTask:
    model = SubModel("dense", FULL, models.state("dense"))
    return TrainTask(model, 3, models.costs["dense"].whole, **fields)  # type: ignore[arg-type]


def message(task: TrainTask, models: PretrainedModels) -> RecordDict:
    """As the server writes it."""
    values = ADDRESS.values() | task_values(task, models)
    content = RecordDict({records.TASK: ConfigRecord(values), **tensor_records(task.tensors)})
    if task.model.state is not None:
        content[records.MODEL] = records.pack(task.model.state)
    return content


@pytest.mark.parametrize("more", [{}, {"what": "importance"}, {"look_back": True}])
def test_an_address_is_read_as_it_was_written(more: dict) -> None:
    address = Address("1f", 9, "eclm", 3, 2, 7, 1, **more)
    assert Address.of(ConfigRecord(address.values())) == address


def test_a_task_reaches_the_client_whole(models_maker: Callable[..., PretrainedModels]) -> None:
    """Options and tensors pass through, whatever they are called; the address is none of the method's business."""
    models = models_maker()
    options = {"masked": "zero", "rate": 0.5, "rates": [0.5, 0.25], "shares": [1.0], "flag": True, "mu": 3, "name": "x"}
    task = dense(models, upload=False, keep=True, options=options, tensors={"variate": VARIATE, "other": VARIATE})
    got = read_task(message(task, models))
    assert (got.architecture, got.epochs, got.upload, got.keep) == ("dense", 3, False, True)
    assert got.options == options and got.sizes == {} and got.modules == {}
    assert got.state is not None and all(torch.equal(got.state[k], v) for k, v in models.state("dense").items())
    assert got.tensors.keys() == {"variate", "other"} and torch.equal(got.tensors["other"]["w"], VARIATE["w"])
    kept = read_task(message(task.without_state(), models))
    assert kept.state is None and kept.options == options


def test_a_sub_model_reaches_the_client_with_its_sizes_and_modules(models_maker) -> None:
    """Of module layers the numbers of all their modules travel, of other axes the sizes that differ."""
    models = models_maker(residual=True)
    whole = models.architectures["modular"]
    coverage = columns_coverage(whole.sizes, {"block.modules": np.array([1, 4, 8])})
    body = whole.whole(0)
    model = SubModel("modular", coverage, extract(body.state(), body.axes(), coverage))
    got = read_task(message(TrainTask(model, 1, models.costs["modular"].whole), models))
    assert got.sizes == {"block.modules": 2}  # the residual module is there
    assert got.modules["block.modules"].tolist() == [1, 4, 8]
    full = read_task(message(TrainTask(SubModel("modular", FULL, None), 1, models.costs["modular"].whole), models))
    assert full.sizes == {} and full.modules["block.modules"].tolist() == list(range(9))


@pytest.mark.parametrize("key", sorted(OWN_KEYS))
def test_an_option_with_the_name_of_a_key_of_ours_is_refused(models_maker, key: str) -> None:
    with pytest.raises(ValueError, match=f"an option of a task may not be called '{key}'"):
        task_values(dense(models_maker(), options={key: 1}), models_maker())


def test_every_key_of_an_address_and_of_a_task_is_reserved(models_maker) -> None:
    """A key that were not could be overwritten by an option, or would reach the client half as one."""
    address = Address("1f", 9, "eclm", 3, 2, 7, 1, "importance", True)
    task = TrainTask(SubModel("modular", FULL, None), 1, models_maker().costs["modular"].whole)
    written = {key for key in address.values() | task_values(task, models_maker()) if not key.startswith("held.")}
    assert written == OWN_KEYS


def test_an_answers_tensors_are_those_under_their_prefix_and_other_records_are_none() -> None:
    content = RecordDict({records.REPORT: MetricRecord({"loss": 1.0}), **tensor_records({"variate": VARIATE})})
    content[records.MODEL] = records.pack(VARIATE)
    content["tensors.text"] = ConfigRecord({"w": "x"})
    got = packed_tensors(content)
    assert got.keys() == {"variate"} and torch.equal(records.unpack(got["variate"])["w"], VARIATE["w"])
