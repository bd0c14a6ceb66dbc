"""The run-config: each mistake is one sentence that says what is allowed, and no key is accepted without effect."""

import math
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.common.config import fuse_dicts, get_fused_config_from_dir, parse_config_args, validate_config

from fl.config import NOT_COMPUTED, Settings, SettingsError, flatten, nest
from fl.config.moved import MOVED
from fl.config.sections import SECTIONS
from fl.workloads import WORKLOADS
from fl.workloads.resolve import (
    GENERAL_MODEL_OPTIONS,
    REGISTRIES,
    Run,
    component_sections,
    default_tables,
    from_flower,
    resolve,
    section_options,
)
from fl.workloads.tables import toml_tables
from models.nn.registry import MODELS
from partitions import DataError
from partitions.components import Section, options_of
from strategies import STRATEGIES
from strategies.fedavg import FedAvg

ROOT = Path(__file__).resolve().parents[3]
VQ = {
    "workload": "vq", "strategies": "fedavg", "data.name": "questions", "data.partition": "m-classes",
    "drift.kind": "class-swap",
}  # fmt: skip
SPA = {"workload": "spa", "strategies": "fedavg"}
NO_MODULE = r"cannot be imported \(No module named 'no_such'\); write 'package.module:Class'"


def start(values: dict[str, Any]) -> Run:
    """Check a run-config as far as a run does before it asks any client for anything."""
    run = resolve(Settings.parse(values))
    run.workload.prepare(seed=1)
    return run


def refusal(values: dict[str, Any]) -> str:
    """Return why a run-config is refused: one sentence."""
    with pytest.raises((SettingsError, DataError)) as error:
        start(values)
    said = str(error.value)
    assert "\n" not in said and not re.search(r"\.\s+[A-Z]", said) and not said.endswith("."), said
    return said


WRONG: list[tuple[dict[str, Any], str]] = [
    # keys that do not exist
    ({"roundz": 3}, r"^unknown run-config key 'roundz'; known: .*cohort, .*\(did you mean 'rounds'\?\); `python -m"),
    ({"client.lrr": 1}, r"^unknown run-config key 'client.lrr'; known: client\.adapt.* \(did you mean 'client.lr'\?\)"),
    ({"client": 1}, "^unknown run-config key 'client'"),
    ({"client.lr.peak": 1}, "^unknown run-config key 'client.lr.peak'.*did you mean 'client.lr'"),
    ({"eclm.kapa2": 1}, r"^unknown run-config key 'eclm.kapa2'; known: eclm\..* \(did you mean 'eclm.kappa2'\?\)"),
    ({**VQ, "vq.bits": 4}, "^unknown run-config key 'vq.bits'; known: vq.beta, .*`python -m experiments settings vq`"),
    ({"strategies": "ditto", "ditto.lambda_": 1}, "^unknown run-config key 'ditto.lambda-'.*you mean 'ditto.lambda'"),
    ({"dirichlett.alpha": 1}, "^unknown run-config section 'dirichlett' in 'dirichlett.alpha'; known: .*dirichlet, "),
    ({"options.alpha": 1}, "^unknown run-config section 'options' in 'options.alpha'; known: adabn, .*an, client"),
    # keys of versions before 0.2
    ({"alpha": 1}, "^`alpha` is now `dirichlet.alpha`, `label-shift.alpha` or, in workload spa, `spa.skew`$"),
    ({"optimizer": "adam"}, "^`optimizer` is now `client.optimizer` and, in the cloud, `pretrain.optimizer`$"),
    ({"shrink": 4}, "^`shrink` is now `eclm.shrink` and, of AdaptiveNet, `an.shrink`$"),
    ({"model": "cnn"}, "^`model` is now `model.name`$"),
    ({"devices": 6}, "^`devices` is now `devices.count`$"),
    ({"vq-lr": 0.1}, "^`vq-lr` is now `vq.lr`$"),
    # values of a wrong type
    ({"rounds": "abc"}, "^rounds = 'abc': .*integer.*communication rounds"),
    ({"rounds": 2.5}, "^rounds = 2.5: .*integer"),
    ({"rounds": True}, "^rounds = True: input should be a number, not true or false"),
    ({"rounds": None}, "^rounds = None: .*integer"),
    ({"rounds": "9" * 5000}, "^rounds = '9{79}: .*integer"),
    ({"data.samples-max": 10**23}, "^data.samples-max = 10{23}: input should be a whole number from -10{12} to 10{12}"),
    ({"strategies": ["la"]}, r"^strategies = \['la'\]: .*string"),
    ({"seeds": 1}, "^seeds = 1: .*string"),
    ({"client.lr": "fast"}, r"^client.lr = 'fast': .*number.*\(learning rate\)"),
    ({"eval.per-device": "perhaps"}, "^eval.per-device = 'perhaps': .*boolean"),
    ({"eclm.top-k": "six"}, r"^eclm.top-k = 'six': .*integer.*\(modules active per sample"),
    ({"eclm.modules": False}, "^eclm.modules = False: input should be a number"),
    # values out of range
    ({"rounds": 0}, "^rounds = 0: .*greater than or equal to 1"),
    ({"client.lr": 0}, "^client.lr = 0: .*greater than 0"),
    ({"data.proxy-fraction": 1.0}, "^data.proxy-fraction = 1.0: .*less than 1"),
    ({"client.lr": "inf"}, r"^client.lr = 'inf': .*finite number.*\(learning rate\)"),
    ({"client.lr": math.nan}, "^client.lr = nan: .*finite number"),
    ({"eclm.balance": math.inf}, "^eclm.balance = inf: .*finite number"),
    ({"strategies": "ditto", "ditto.lambda": -1}, "^ditto.lambda = -1: .*greater than or equal to 0.*personal model"),
    ({**VQ, "vq.hidden": 130}, "^vq.hidden = 130: .*multiple of 4"),
    ({"client.optimizer": "sgdd"}, "^client.optimizer = 'sgdd': .*'sgd' or 'adam'"),
    ({"devices.hardware": "tablets"}, "^devices.hardware = 'tablets': .*'phones', 'boards', 'testbed' or 'all'"),
    ({"precision": "float16"}, "^precision = 'float16': .*'float32' or 'bfloat16'"),
    ({"drift.kind": "feature", "feature.corruption": "blurr"}, "^feature.corruption = 'blurr': .*did you mean 'blur'"),
    ({"seeds": "1,x"}, "^seeds = '1,x' is not a list of integers"),
    ({"seeds": "-1"}, "^seeds = '-1' holds a negative number"),
    ({"seeds": " "}, "^seeds names no seed"),
    ({"seeds": "1,,2"}, "^seeds = '1,,2' is not a list of integers"),
    ({"seeds": "1,1"}, "^seeds = '1,1' holds a number twice"),
    ({"seeds": str(2**63)}, f"holds a number above {2**63 - 1}$"),
    ({"drift.schedule": "sometimes"}, "^drift.schedule: schedule 'sometimes' is not 'every'"),
    ({"drift.schedule": "table:/none.csv"}, r"^/none.csv cannot be read \(No such file or directory\): name a file"),
    ({"drift.kind": "concept", "concept.swaps": "00"}, "^concept.swaps = 0: concepts do not differ; set concept.cont"),
    ({"data.samples-skew": -1}, "^data.samples-skew = -1: .*greater than or equal to 0"),
    ({"drift.groups": 2}, "^drift.groups = 2 needs groups that drift at different steps: set drift.stagger"),
    ({"drift.stagger": 2}, "^drift.schedule: drift.stagger = 2 needs groups of devices: set drift.groups to 2"),
    ({"drift.kind": "concept", "concept.swaps": "0+1"}, "^concept.swaps = '0.1': give a number of random pairs"),
    # names of components
    ({"strategies": ""}, "^strategies names no method, e.g. strategies = 'fedavg,eclm'"),
    ({"strategies": "fedavg,heterfl"}, r"^unknown strategy 'heterfl'; known: adabn, .*\(did you mean 'heterofl'\?\)$"),
    ({"strategies": "no_such:FedHello"}, f"^strategy 'no_such:FedHello' {NO_MODULE}"),
    ({"strategies": "strategies.fedavg:FedAverage"}, "^strategy .* cannot be imported .*no attribute 'FedAverage'"),
    ({"strategies": "os.path:join"}, r"^strategies = 'os.path:join' is no strategy: give .*\.Strategy, wit"),
    ({"strategies": "strategies.core.strategy:Strategy"}, "is no strategy: .*without abstract methods"),
    ({"strategies": "la, fedavg,la"}, "^strategies = 'la, fedavg,la' names 'la' twice"),
    ({"data.name": "cifar"}, "^unknown data set 'cifar'; known: .*cifar10"),
    ({"data.name": "no_such:Mine"}, f"^data set 'no_such:Mine' {NO_MODULE}"),
    ({"data.partition": "subjct"}, r"^unknown partition 'subjct'; known: .* \(did you mean 'subject'\?\)"),
    ({"data.partition": "no_such:Mine"}, f"^partition 'no_such:Mine' {NO_MODULE}"),
    ({"data.partition": "os.path:join"}, "^data.partition = 'os.path:join' is no partition"),
    ({"drift.kind": "swap"}, "^unknown drift 'swap'; known: class-swap"),
    ({"drift.kind": "no_such:Mine"}, f"^drift 'no_such:Mine' {NO_MODULE}"),
    ({"drift.kind": "partitions.partitioners.iid:Iid"}, "is no drift: give a subclass of .*drift.Drift, without"),
    ({"model.name": "vgg"}, r"^unknown model 'vgg'; known: .* \(did you mean 'vgg16'\?\)"),
    ({"model.name": "no_such:mine"}, f"^model 'no_such:mine' {NO_MODULE}"),
    ({"model.name": "os:sep"}, "^model.name = 'os:sep' is no model: give a function"),
    ({"workload": "clasify"}, r"^unknown workload 'clasify'; known: classify, spa, vq \(did you mean 'classify'\?\)"),
    ({"workload": "no_such:Mine"}, f"^workload 'no_such:Mine' {NO_MODULE}"),
    ({"workload": "strategies.fedavg:FedAvg"}, "is no workload: give a subclass of fl.workloads.workload.Workload"),
    # options of components that the run does not use, or that have none
    (
        {"dirichlet.alpha": 0.1},
        r"^dirichlet.alpha is an option of partition 'dirichlet', which this run does not use \(data.partition = 'subj",
    ),
    ({"recurring.contexts": 3}, r"^recurring.contexts is an option of drift 'recurring'.*\(drift.kind = 'subject'\)"),
    ({"resnet18.groups": 4}, r"^resnet18.groups is an option of model 'resnet18'.*\(model.name = 'mlp'\)"),
    ({"strategies": "la", "eclm.kappa2": 3}, r"^eclm.kappa2 is an option of strategy 'eclm'.*\(strategies = 'la'\)"),
    ({"vq.codes": 32}, r"^vq.codes is an option of workload 'vq'.*\(workload = 'classify'\)"),
    ({"spa.facts": 3}, "^spa.facts is an option of workload 'spa'"),
    ({"iid.alpha": 1, "data.partition": "iid"}, "^'iid' has no options, so 'iid.alpha' cannot be set"),
    ({"iid.alpha": 1}, "^partition 'iid' has no options, so 'iid.alpha' cannot be set"),
    ({"mlp.depth": 2}, "^'mlp' has no options, so 'mlp.depth' cannot be set"),
    ({"classify.lr": 1}, "^'classify' has no options"),
    ({"eclm-plus.blend": 0.3}, "^the options of strategy 'eclm-plus' are in section 'eclm': write eclm.<option>"),
    ({"strategies": "eclm-plus", "eclm.blend": 0.3}, "^eclm.blend = 0.3: strategy 'eclm-plus' fixes it at 0.5"),
    # keys that the workload or the model does not read
    ({**VQ, "client.lr": 0.1}, "^client.lr is not read by workload 'vq': leave it out$"),
    ({**VQ, "model.name": "mlp"}, "^model.name is not read by workload 'vq'"),
    ({**VQ, "accelerator": "cuda"}, "^accelerator is not read by workload 'vq'"),
    ({**VQ, "pretrain.augment": False}, "^pretrain.augment is not read by workload 'vq'"),
    ({**VQ, "data.image-size": 8}, "^data.image-size is not read by workload 'vq'"),
    ({**VQ, "devices.limit-low": 0.1}, "^devices.limit-low is not read by workload 'vq'"),
    ({**SPA, "data.name": "questions"}, "^data.name is not read by workload 'spa'"),
    ({**SPA, "model.width": 8}, "^model.width is not read by workload 'spa'"),
    ({**SPA, "precision": "bfloat16"}, "^precision is not read by workload 'spa'"),
    ({**SPA, "pretrain.dense-epochs": 3}, "^pretrain.dense-epochs is not read by workload 'spa'"),
    ({**SPA, "client.upload-change": 0.1}, "^client.upload-change is not read by workload 'spa'"),
    ({"model.norm": "batch"}, "^model.norm = 'batch' is not an option of model.name = 'mlp': leave it out"),
    ({"model.module-layers": 2}, "^model.module-layers = 2 is not an option of model.name = 'mlp'"),
    # names that would lead out of the results folder
    *(({key: name}, rf"^{key} = .* becomes part of a file name") for key in ("experiment", "setting")
      for name in ("", ".", "..", "../x", "a/b", "a\\b", "a\nb", "x" * 101)),
    # impossible combinations
    ({"cohort": 99}, r"^cohort = 99 is more than there are clients \(devices.count = 46\)"),
    ({"eval.devices": 99}, r"^eval.devices = 99 is more than there are clients \(devices.count = 46\)"),
    ({"data.samples-min": 200}, "^data.samples-min = 200 is above data.samples-max = 150"),
    ({"devices.limit-low": 0.9}, "^devices.limit-low = 0.9 is above devices.limit-high = 0.6"),
    (
        {"server.aggregation": "buffered", "server.buffer": 11},
        r"^server.buffer = 11 can never fill: only 10 clients train at a time \(cohort\)",
    ),
    ({"client.update-noise": 1.0}, "^client.update-noise needs updates of bounded norm; set client.update-clip"),
    (
        {"client.update-noise": 1.0, "client.update-clip": 1.0, "client.upload-change": 0.1},
        "^client.upload-change reveals how much an update changed, client.update-noise hides it",
    ),
    ({"engine": "local", "devices.placement": "own"}, "^engine = 'local' simulates clients.*set engine = 'flower'"),
    ({"split": "messages"}, "^workload = 'classify' has no cut: use split = 'simulated'"),
    ({"eclm.top-k": 17}, r"^eclm.top-k = 17 is more than there are modules per layer \(eclm.modules = 16\)"),
    ({"strategies": "eclm,eclm-plus", "eclm.top-k": 1}, "^eclm.top-k = 1: .*need 2 active modules per layer"),
    ({"eclm.candidates": 0.5}, "^eclm.candidates = 0.5 is less than .*use 0 or at least 1"),
    ({"strategies": "fedrep", "fedrep.head-epochs": 3}, "^fedrep.head-epochs = 3 leaves none of client.local-epochs"),
    ({"strategies": "scaffold", "server.robust": "median"}, "^server.robust = 'median': scaffold has no robust aggreg"),
    ({**VQ, "strategies": "feddrift"}, "^strategy 'feddrift' needs .*which workload 'vq' does not offer"),
    ({"devices.availability": "trace"}, "^trace.file is empty: name a file with a line of 0 and 1 for each round"),
    ({"devices.availability": "night"}, "^unknown availability 'night'; known: always, diurnal, trace"),
    ({"diurnal.share": 0.3}, "^diurnal.share is an option of availability 'diurnal', which this run does not use"),
    ({"data.unseen-classes": "running"}, "^data.unseen-classes = 'running': .* none of the classes; known: seated"),
    ({"data.proxy-domains": "person-9*"}, "^data.proxy-domains = 'person-9.': .* none of the domains; known: person"),
    ({"data.unseen-classes": "*"}, "leaves the cloud none of the .* or fewer data.unseen-classes"),
    ({"drift.kind": "unseen"}, "^drift.kind 'unseen' needs classes or domains that the cloud does not hold: set da"),
    ({"data.proxy-fraction": 1e-4}, "^data.proxy-fraction = 0.0001 leaves the cloud none of the .*: choose"),
    ({"strategies": "os:path"}, "^strategies = 'os:path' is no strategy"),
    ({"model.name": "resnet18"}, r"^model.name = 'resnet18' needs images, har-embedded has samples of shape \(166,\)"),
    ({"data.name": "questions", "data.partition": "iid", "drift.kind": "none"}, "^model.name = 'mlp' needs numbers"),
    ({"data.partition": "iid", "drift.kind": "recurring"}, "^drift.kind 'recurring' needs contexts that differ"),
    ({"data.partition": "m-classes", "m-classes.m": 9, "drift.kind": "none"}, "^m-classes.m must be 1 to 5"),
    ({"data.image-size": 8}, "^har-embedded holds no images, so data.image-size must be 0, not 8"),
    ({**VQ, "strategies": "fedavg,eclm"}, "^strategy 'eclm' needs a modular model, which workload 'vq' does not offer"),
    ({**SPA, "strategies": "fedavg-prior"}, "^strategy 'fedavg-prior' needs clients that know their class shares"),
    ({**SPA, "strategies": "scaffold"}, "^strategy 'scaffold' needs local training by SGD"),
    ({"strategies": "scaffold", "client.optimizer": "adam"}, "^strategy 'scaffold' needs local training by SGD"),
    ({**SPA, "strategies": "fedprox", "split": "messages"}, "^strategy 'fedprox' corrects gradients of the whole"),
    ({**VQ, "strategies": "fedprox", "split": "messages"}, "^strategy 'fedprox' corrects gradients of the whole"),
    ({**SPA, "strategies": "heterofl"}, "^strategy 'heterofl' needs .*nested.*: use fedadam, fedavg, fedprox, la, na$"),
    ({**SPA, "split": "messages", "client.update-clip": 1.0}, "^client.update-clip looks at whole models"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "said"), WRONG, ids=[str(list(values.items())[-1]) for values, _ in WRONG])
def test_a_mistake_is_one_sentence(values: dict[str, Any], said: str) -> None:
    assert re.search(said, found := refusal(values)), found


def test_the_table_has_many_mistakes() -> None:
    assert len(WRONG) >= 45 and len({str(values) for values, _ in WRONG}) == len(WRONG)


# no key is accepted in silence


def used(section: str) -> dict[str, Any]:
    """Return a run-config that uses the component of a section."""
    for where, _, name, own in component_sections():
        if own == section:
            return {where: name} | ({"strategies": "fedavg"} if where == "workload" else {})
    return {}


def keys(model: type[Section], section: str = "") -> Iterator[tuple[str, Any]]:
    """Yield key and field of a section."""
    for info in model.model_fields.values():
        yield f"{section}{info.alias}", info


def every_key() -> dict[str, Any]:
    """Return the fields of all keys by name."""
    general = {key: info for key, info in keys(Settings) if key not in SECTIONS and key != "options"}
    fields = general | {key: info for name, model in SECTIONS.items() for key, info in keys(model, f"{name}.")}
    for where, _, name, section in component_sections():
        fields |= dict(keys(section_options(REGISTRIES[where][1], name), f"{section}."))
    return fields


@pytest.mark.parametrize("key", default_tables())
def test_every_key_refuses_what_is_no_value_of_its_type(key: str) -> None:
    """``key`` is a general key or a section. Numbers also refuse true, text, nan and infinity."""
    fields = {name: info for name, info in every_key().items() if name == key or name.startswith(f"{key}.")}
    assert fields
    for name, info in fields.items():
        wrong: list[Any] = [["a", "b"]]
        if info.annotation in (int, float):
            wrong += [True, "many", math.nan, math.inf, -math.inf]
        if info.annotation is int:  # numpy and torch count in 64 bits
            wrong += [10**23, -(10**23), 10**12 + 1, str(2**63)]
        for value in wrong:
            assert refusal({**used(key), name: value}).startswith(f"{name} = {value!r}: "), name


@pytest.mark.parametrize("section", sorted({section for *_, section in component_sections()}))
def test_every_option_of_an_unused_component_is_refused(section: str) -> None:
    owner = next(name for *_, name, own in component_sections() if own == section)
    kind = next(kind for _, kind, _, own in component_sections() if own == section)
    other = {"strategies": "la", "workload": "classify"}
    for key, value in default_tables()[section].items():
        wanted = rf"^{section}\.{key} is an option of {kind} '{owner}', which this run does not use \("
        assert re.search(wanted, refusal({**other, f"{section}.{key}": value}))


@pytest.mark.parametrize("workload", ["vq", "spa"])
def test_every_key_that_a_workload_does_not_read_is_refused(workload: str) -> None:
    """Also with its default: whoever writes it expects an effect."""
    general, ignores = Settings().complete(), WORKLOADS[workload].ignores
    ignored = [key for key in flatten(general) if key in ignores or key.partition(".")[0] in ignores]
    assert len(ignored) > 15
    base = VQ if workload == "vq" else SPA
    for key in ignored:
        said = refusal({**base, key: flatten(general)[key]})
        assert said.endswith(f" is not read by workload '{workload}': leave it out"), (key, said)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_key_that_a_workload_ignores_exists(workload: str) -> None:
    general = Settings().complete()
    assert set(WORKLOADS[workload].ignores) <= {*general, *flatten(general)}


def test_config_toml_has_no_key_that_the_workload_ignores() -> None:
    recorded, ignores = flatten(resolve(Settings.parse(SPA)).config()), WORKLOADS["spa"].ignores
    assert not any(key in ignores or key.partition(".")[0] in ignores for key in recorded)
    assert "spa.facts" in recorded and "client.lr" in recorded


def test_every_description_is_one_phrase() -> None:
    for key, info in every_key().items():
        assert info.description and "\n" not in info.description, key
        assert not re.search(r"\.\s+[A-Z]", info.description) and not info.description.endswith("."), key


@pytest.mark.parametrize("old", MOVED)
def test_a_key_of_an_older_version_names_keys_that_exist(old: str) -> None:
    said = refusal({old: 1})
    assert said == f"`{old}` is now {MOVED[old]}"
    named = re.findall(r"`([^`]+)`", MOVED[old])
    assert named and set(named) <= set(every_key())


def test_two_methods_do_not_write_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(STRATEGIES["la"]):  # type: ignore[misc]
        reports = {"other": "delivered", "na": "adapted"}

    monkeypatch.setitem(STRATEGIES.builtin, "other", Other)
    assert list(resolve(Settings.parse({"strategies": "la,other"})).methods) == ["la", "other"]
    assert refusal({"strategies": "na,other"}) == "strategies 'na' and 'other' both report 'na'; run them apart"


def test_methods_of_one_run_agree_on_the_cloud_model_that_they_share(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(STRATEGIES["eclm"]):  # type: ignore[misc]
        reports = {"mine": "adapted"}

        class Options(STRATEGIES["eclm"].Options):  # type: ignore[misc, name-defined]
            pass

    monkeypatch.setitem(STRATEGIES.builtin, "mine", Mine)
    alone = resolve(Settings.parse({"strategies": "mine", "mine.modules": 8}))
    assert alone.workload.modular.modules == 8  # type: ignore[attr-defined]
    both = {"strategies": "eclm,mine", "mine.modules": 8, "mine.kappa2": 2}
    assert refusal(both).startswith("mine.modules differs from eclm.modules: methods of one run share the cloud model")
    agreed = resolve(Settings.parse({**both, "eclm.modules": 8, "eclm.kappa2": 2, "mine.blend": 0.5}))
    assert agreed.workload.modular.kappa2 == 2  # type: ignore[attr-defined]


def test_a_component_of_the_user_has_options_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partition, a method, a model and its options, named by their paths."""
    (tmp_path / "mine.py").write_text(
        "from models.nn.mlp import mlp\n"
        "from partitions.partitioners.dirichlet import Dirichlet\n"
        "from strategies.fedavg import FedAvg, Prior\n\n"
        "class Neighbours(Dirichlet):\n    near: int = 2\n\n"
        "class FedHello(FedAvg):\n    reports = {'hello': 'delivered'}\n\n"
        "    class Options(Prior):\n        warmth: float = 1.0\n\n"
        "def narrow(input_shape, classes, width: int = 0, depth: int = 1):\n"
        "    return mlp(input_shape, classes, width=8)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    named = {
        "data.partition": "mine:Neighbours", "drift.kind": "class-swap", "strategies": "la,mine:FedHello",
        "model.name": "mine:narrow",
    }  # fmt: skip
    run = start({**named, "neighbours.near": 3, "fed-hello.warmth": 0.5, "narrow.depth": 2})
    assert run.worlds.partition.near == 3 and run.methods["fed-hello"].options.warmth == 0.5  # type: ignore[attr-defined]
    assert run.options["narrow"].depth == 2 and run.reports == ["la", "hello"]  # type: ignore[attr-defined]
    assert "unknown run-config key 'neighbours.far'" in refusal({**named, "neighbours.far": 3})
    assert "unknown run-config section 'fed-hello'" in refusal({"fed-hello.warmth": 1})


# settings as flat keys, as nested tables, and as Flower carries them

GIVEN = {
    "rounds": 7, "strategies": "fedavg, eclm", "seeds": "3,4", "drift.fraction": 0.25, "eclm.kappa2": 2,
    "data.partition": "m-classes", "m-classes.m": 3, "drift.kind": "class-swap", "eval.per-device": True,
}  # fmt: skip


def test_flat_and_nested_keys_give_the_same_settings_again() -> None:
    settings = Settings.parse(GIVEN)
    assert settings.flat() == GIVEN and settings.nested() == nest(GIVEN)
    assert flatten(nest(GIVEN)) == GIVEN and nest(GIVEN)["eclm"] == {"kappa2": 2}
    mixed = {**nest({key: value for key, value in GIVEN.items() if key > "e"}), "drift": {"fraction": 0.25}}
    mixed |= {key: value for key, value in GIVEN.items() if key <= "e" and key != "drift.fraction"}
    complete = settings.complete() | {"eclm": {"kappa2": 2}, "m_classes": {"m": 3}}
    for values in (settings.flat(), settings.nested(), mixed, complete):
        assert Settings.parse(values) == settings
    assert settings.methods == ["fedavg", "eclm"] and settings.seed_list == [3, 4]


def test_numbers_may_come_as_flower_writes_them() -> None:
    """An integer where a float is declared, text from a command line, underscores for hyphens."""
    values = {"client.lr": 1, "rounds": "7", "drift": {"fraction": 0}, "eval.per_device": "true", "eclm.top_k": "3"}
    settings = Settings.parse(values)
    got = (settings.client.lr, settings.rounds, settings.drift.fraction, settings.eval.per_device)
    assert got == (1.0, 7, 0.0, True) and list(map(type, got)) == [float, int, float, bool]
    assert resolve(settings).options["eclm"].top_k == 3  # type: ignore[attr-defined]


def test_changed_settings_keep_the_other_keys() -> None:
    settings = Settings.parse(GIVEN).changed({"rounds": 9, "eclm.modules": 8, "client": {"lr": 0.5}})
    assert settings.flat() == {**GIVEN, "rounds": 9, "eclm.modules": 8, "client.lr": 0.5}
    with pytest.raises(SettingsError, match="^unknown run-config key 'roundz'"):
        settings.changed({"roundz": 9})


def test_default_tables_have_every_key_of_sections_and_built_in_components() -> None:
    tables, general = default_tables(), Settings().complete()
    assert {key: tables[key] for key in general} == general
    components = {key: table for key, table in tables.items() if key not in general}
    expected: dict[str, set[str]] = {}
    for kind, registry in REGISTRIES.values():
        for name in registry.builtin:
            component = registry[name]
            options = options_of(component, GENERAL_MODEL_OPTIONS if registry is MODELS else ())
            section = (getattr(component, "section", "") if kind == "strategy" else "") or name
            if options.model_fields:
                expected.setdefault(section, set()).update(str(info.alias) for info in options.model_fields.values())
    assert {section: set(table) for section, table in components.items()} == expected
    assert {"m-classes", "dirichlet", "label-shift", "feature", "resnet18", "eclm", "fedprox", "vq", "spa"} <= (
        expected.keys()
    )
    for key, value in flatten(tables).items():
        assert value is not None and isinstance(value, bool | int | float | str), key


def test_defaults_are_no_choice() -> None:
    """Flower hands over all keys of pyproject.toml; those with their default count as not set."""
    defaults = flatten(default_tables())
    assert from_flower(defaults) == Settings() and from_flower(defaults).flat() == {}
    changes = {"eclm.kappa2": 2, "rounds": 3, "eval.divergence": False}
    settings = from_flower(defaults | changes)
    assert settings.flat() == changes and resolve(settings).options["eclm"].kappa2 == 2  # type: ignore[attr-defined]
    with pytest.raises(SettingsError, match="^vq.codes is an option of workload 'vq'"):
        resolve(from_flower(defaults | {"vq.codes": 32}))
    for workload in (VQ, SPA):
        assert resolve(from_flower(defaults | workload)).settings.flat() == workload


def test_a_client_app_reads_all_keys_of_the_run_config() -> None:
    """It gets Flower's full run-config; the ServerApp has refused what the run does not use."""
    full = Settings.parse({**flatten(default_tables()), **VQ})
    with pytest.raises(SettingsError, match="is not read by workload 'vq'"):
        resolve(full)
    assert resolve(full, check=False).config() == resolve(Settings.parse(VQ)).config()


def test_pyproject_declares_every_key_with_its_default() -> None:
    """Flower refuses a key that pyproject.toml lacks. ``python -m experiments settings --toml`` prints the tables."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = tomllib.loads(text)["tool"]["flwr"]["app"]["config"]
    assert declared == default_tables()
    types = {key: type(value) for key, value in flatten(declared).items()}
    assert types == {key: type(value) for key, value in flatten(default_tables()).items()}
    assert toml_tables() in text, "put what `python -m experiments settings --toml` prints into pyproject.toml"


def test_flower_accepts_pyproject_and_overrides_keys_of_sections() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert validate_config(config, check_module=True, project_dir=ROOT) == (True, [], [])
    given = parse_config_args(["m-classes.m=3 data.partition='m-classes' drift.kind=\"class-swap\" client.lr=1e-3"])
    fused = get_fused_config_from_dir(ROOT, given)
    assert fused == flatten(default_tables()) | given
    assert from_flower(fused).flat() == {
        "m-classes.m": 3, "data.partition": "m-classes", "drift.kind": "class-swap", "client.lr": 0.001,
    }  # fmt: skip
    with pytest.raises(ValueError, match="Key 'm-classes.n' is not present"):
        fuse_dicts(fused, {"m-classes.n": 3})


def test_paths_and_names_do_not_make_another_experiment() -> None:
    plain = resolve(Settings.parse({"strategies": "la"})).config()
    elsewhere = {"out": "/a", "data.root": "/b", "seeds": "2", "devices.state-root": "/c", "server.timeout-s": 5.0}
    assert resolve(Settings.parse({"strategies": "la", **elsewhere})).config() == plain
    assert resolve(Settings.parse({"strategies": "la", "client.lr": 0.5})).config() != plain
    assert set(every_key()) >= NOT_COMPUTED and not NOT_COMPUTED & set(flatten(plain))


def test_a_variant_fixes_options_of_its_method() -> None:
    run = resolve(Settings.parse({"strategies": "eclm,eclm-plus,fedavg-prior", "eclm.blend": 0.7}))
    assert [run.methods[name].options.blend for name in ("eclm", "eclm-plus")] == [0.7, 0.5]  # type: ignore[attr-defined]
    assert run.methods["fedavg-prior"].options.prior and not run.options["fedavg"].prior  # type: ignore[attr-defined]
    assert issubclass(run.methods["fedavg-prior"].strategy, FedAvg)
