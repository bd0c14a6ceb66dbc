"""The general sections of the run-config. Options of a component (a method, a partition, ...) stand beside its code."""

from typing import Literal

from pydantic import Field

from partitions.components import Section

Optimizer = Literal["sgd", "adam"]


class Data(Section):
    """What clients hold."""

    name: str = Field("har-embedded", description="data set, or 'package.module:Class'")
    root: str = Field("", description="folder of the data sets; empty: see `python -m experiments data where`")
    image_size: int = Field(0, ge=0, description="shrink images to this many rows of pixels; 0: original size")
    partition: str = Field("subject", description="how the data set is split over clients")
    samples_min: int = Field(50, ge=1, description="fewest training samples of a client")
    samples_max: int = Field(150, ge=1, description="most training samples of a client")
    samples_skew: float = Field(
        0.0, ge=0, description="how unequal the numbers of training samples are; 0: uniform between min and max"
    )
    labelled: int = Field(0, ge=0, description="training samples of a client that have a label at a step; 0: all")
    test_samples: int = Field(100, ge=1, description="test samples that score a client")
    proxy_fraction: float = Field(0.3, gt=0, lt=1, description="share of the training data that the cloud holds")
    proxy_domains: str = Field(
        "", description="the cloud holds data of these domains alone, e.g. 'person-0*,person-12-watch'; empty: of all"
    )
    client_domains: str = Field(
        "", description="clients have data of these domains alone, e.g. '*-watch'; empty: of all"
    )
    unseen_classes: str = Field("", description="the cloud holds no data of these classes, e.g. 'turning,sitting-*'")


class Drift(Section):
    """How the clients' data change."""

    kind: str = Field("subject", description="how data drift; 'none' for a world that stands still")
    fraction: float = Field(0.5, ge=0, le=1, description="share of a client's samples replaced at a drift")
    steps: int = Field(1, ge=1, description="steps over which a drift is spread; 1: abrupt")
    schedule: str = Field(
        "every", description="steps at which data drift: every, never, every:N, 2,5,9, or table:FILE, by device"
    )
    groups: int = Field(1, ge=1, description="groups of clients that drift together: client d is in group d mod groups")
    stagger: int = Field(0, ge=0, description="steps by which each group drifts after the group before")


class Model(Section):
    """The dense cloud model. A model that does not take one of these options refuses it."""

    name: str = Field("mlp", description="architecture, or 'package.module:function'")
    width: int = Field(0, ge=0, description="width of its first block; 0: the model's default")
    norm: Literal["group", "batch"] = Field("group", description="normalisation, of convolutional models")
    module_layers: int = Field(
        0,
        ge=0,
        description="stages cut into modules, counted from the last, of convolutional models; 0: as in the paper",
    )
    module_names: str = Field(
        "", description="layers cut into modules, of a network of your own: names or patterns, e.g. 'features.*,head'"
    )


class Pretrain(Section):
    """Training in the cloud before the first round."""

    dense_epochs: int = Field(20, ge=0, description="epochs of the dense model before it is cut into modules")
    modular_epochs: int = Field(10, ge=0, description="epochs of end-to-end training of modules and selector")
    ability_epochs: int = Field(10, ge=0, description="epochs of module ability-enhancing training")
    lr: float = Field(0.05, gt=0, description="learning rate (cosine to 0)")
    batch_size: int = Field(64, ge=1, description="batch size")
    optimizer: Optimizer = Field("sgd", description="optimizer")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty")
    augment: bool = Field(True, description="mirror and shift images; not for speech")


class Client(Section):
    """Local training, and what a client sends back."""

    local_epochs: int = Field(3, ge=1, description="local epochs in a round")
    adapt_epochs: int = Field(10, ge=0, description="epochs of local adaptation and of fine-tuning before scoring")
    lr: float = Field(0.01, gt=0, description="learning rate")
    batch_size: int = Field(16, ge=1, description="batch size")
    optimizer: Optimizer = Field("sgd", description="optimizer")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty")
    clip: float = Field(1.0, ge=0, description="largest gradient norm; 0: no clipping")
    frozen_statistics: bool = Field(
        False, description="batch norm normalises by its running statistics, also in training, and keeps them"
    )
    upload_change: float = Field(
        0.0, ge=0, description="smallest relative change of the trained parameters that a client uploads"
    )
    update_clip: float = Field(
        0.0, ge=0, description="largest norm of an update, longer ones are shortened; 0: no limit"
    )
    update_noise: float = Field(
        0.0, ge=0, description="Gaussian noise on updates, standard deviation over 2 update-clip (docs/faults.md)"
    )


class Server(Section):
    """How the server aggregates, and how long it waits."""

    aggregation: Literal["synchronous", "buffered"] = Field(
        "synchronous", description="synchronous: a round waits for all; buffered: until the buffer is full (FedBuff)"
    )
    buffer: int = Field(5, ge=1, description="buffered: updates that fill the buffer")
    deadline_s: float = Field(
        0.0,
        ge=0,
        description="longest round, virtual seconds; 0: no limit; later updates are dropped (buffered: kept)",
    )
    patience: int = Field(
        0,
        ge=0,
        description="stop training after so many evaluations without a better mean accuracy; then clients are only "
        "scored at the end of each step; 0: never",
    )
    robust: Literal["none", "norm-bound", "trimmed-mean", "median"] = Field(
        "none", description="aggregation that poisoned updates cannot steer, module by module"
    )
    trim: float = Field(
        0.2, ge=0, lt=0.5, description="trimmed-mean: share of the values left out at either end, rounded up"
    )
    at_once: int = Field(
        0, ge=0, description="most messages under way at a time, for SuperNodes that share a machine; 0: all of a round"
    )
    timeout_s: float = Field(600.0, gt=0, description="longest wait for the replies of a round, seconds")


class Eval(Section):
    """When clients are scored, and what else is measured."""

    every: int = Field(5, ge=1, description="score clients every so many rounds, and at the end of each step")
    devices: int = Field(0, ge=0, description="clients that are scored, the same ones each time; 0: all")
    per_device: bool = Field(False, description="also write devices.csv, one row per scored client")
    forgetting: bool = Field(
        False, description="at the end of a step also score clients on their test draw of the step before"
    )
    divergence: bool = Field(
        True, description="measure how far the updates of a round disagree; takes two more sums of the model's size"
    )


class Poison(Section):
    """Clients that send poisoned updates, for experiments on robust aggregation."""

    share: float = Field(0.0, ge=0, le=1, description="share of the clients that send poison")
    attack: Literal["flip", "noise"] = Field("flip", description="what they send: the reversed update, or noise")


class Devices(Section):
    """The devices that clients run on."""

    count: int = Field(46, ge=1, le=10**7, description="clients that exist")
    availability: str = Field("always", description="when clients are online, so that a round may choose them")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="share of a round's clients that receive the model and send no update"
    )
    hardware: Literal["phones", "boards", "testbed", "all"] = Field("phones", description="device classes")
    limit_low: float = Field(
        0.2, gt=0, description="budget of the weakest device, as a share of the large model's cost"
    )
    limit_high: float = Field(
        0.6, gt=0, description="budget of the strongest device, as a share of the large model's cost"
    )
    background_load: float = Field(0.2, ge=0, lt=1, description="most that other programs take of compute and memory")
    placement: Literal["shared", "own"] = Field(
        "shared",
        description="shared: any SuperNode simulates any client; own: a SuperNode is the client of its partition-id",
    )
    train_budget_s: float = Field(
        60.0, gt=0, description="placement own: longest local training on a device, which limits its MACs"
    )
    link_budget_s: float = Field(
        60.0, gt=0, description="placement own: longest transfer of a sub-model to a device, which limits its bytes"
    )
    state_root: str = Field("", description="folder where clients keep their models; empty: the cache folder")


SECTIONS: dict[str, type[Section]] = {
    "data": Data, "drift": Drift, "model": Model, "pretrain": Pretrain, "client": Client, "server": Server,
    "eval": Eval, "poison": Poison, "devices": Devices,
}  # fmt: skip
