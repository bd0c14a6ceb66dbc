"""Experiments of the VQ workload (split transformer): federated text, E1 to E4, and the DCCT paper's Tables 2 to 7."""

from functools import partial

from experiments.catalog.experiment import SCALES, Experiment, Overrides, at_every_scale

# The smallest texts, transformer and rounds.
SMOKE: Overrides = {"vq.vocabulary": 500, "vq.tokens": 24, "vq.hidden": 32, "pretrain.dense-epochs": 1}
SMOKE_CODES: Overrides = {"vq.width": 16, "vq.groups": 4, "vq.codes": 16}
SMOKE_ROUNDS: Overrides = {
    **SMOKE, "rounds-per-step": 1, "eval.every": 1, "data.samples-min": 20, "data.samples-max": 24,
    "data.test-samples": 20,
}  # fmt: skip

# text: questions whose topics drift; codes, pooled codes or float16 cross the cut.

TEXT = Experiment(
    name="text",
    summary="a split transformer on questions, 2 topics per device: codes, pooled codes or float16 cross the cut",
    common={
        "workload": "vq", "data.name": "questions", "data.partition": "m-classes", "m-classes.m": 2,
        "drift.kind": "class-swap", "devices.count": 20, "cohort": 5, "rounds": 10, "rounds-per-step": 5,
        "eval.every": 5, "client.local-epochs": 1, "client.adapt-epochs": 2, "pretrain.dense-epochs": 10,
        "strategies": "na,la,fedavg",
    },
    settings=at_every_scale(
        {"codes": {}, "pooled": {"vq.pool": 4}, "float16": {"vq.codes": 0, "vq.up": "float16"}},
        smoke={
            **SMOKE_ROUNDS, **SMOKE_CODES, "devices.count": 4, "cohort": 2, "rounds": 2, "client.adapt-epochs": 1,
        },
    ),
    cost={"smoke": "30 s", "cpu": "15 min", "paper": "15 min"},
    seeds=(1,),
)  # fmt: skip

# E1: accuracy against bytes.

CENTRAL: Overrides = {
    "workload": "vq", "strategies": "fedavg", "data.partition": "iid", "drift.kind": "none", "vq.width": 0,
    "vq.down": "float32",
}  # fmt: skip
CENTRAL_SMOKE: Overrides = {
    "data.name": "questions", "data.proxy-fraction": 0.1, "vq.tokens": 24, "vq.vocabulary": 1000, "vq.hidden": 32,
    "vq.lr": 0.003, "pretrain.dense-epochs": 2, "pretrain.batch-size": 32,
}  # fmt: skip
E1_CPU: Overrides = {
    "data.name": "sst2",
    "data.proxy-fraction": 0.03,  # 2020 phrases
    "vq.preset": "minilm", "vq.frozen": 3, "pretrain.dense-epochs": 3, "pretrain.batch-size": 32,
}  # fmt: skip
E1_SCALE: dict[str, Overrides] = {
    "smoke": CENTRAL_SMOKE,
    "cpu": E1_CPU,
    "paper": {**E1_CPU, "data.proxy-fraction": 0.9, "vq.frozen": 1},
}
# (K, m, residual) of the codes used in training: one vector, m groups, or m residual stages at the rate of m groups.
E1_CODES = {
    "smoke": ((16, 4, False), (16, 4, True)),
    "cpu": ((256, 8, False),),
    "paper": tuple(
        (K, m, residual)
        for K in (16, 256, 1024)
        for m, residual in ((1, False), (4, True), (8, False), (8, True), (12, False))
    ),
}
E1_LATE = {"smoke": "16x4", "cpu": "256x1,256x8,1024x12", "paper": "2x1,16x1,256x1,256x2,256x8,1024x12"}
E1_POOLS = {"smoke": (1, 4), "cpu": (1, 4), "paper": (1, 2, 4)}


def _e1(scale: str) -> dict[str, Overrides]:
    found: dict[str, Overrides] = {}
    for p in E1_POOLS[scale]:
        keys = {**E1_SCALE[scale], "vq.pool": p}
        found[f"p={p} activations"] = {**keys, "vq.codes": 0, "vq.late": E1_LATE[scale]}
        for K, m, residual in E1_CODES[scale]:
            kind = "residual" if residual else "product" if m > 1 else "single"
            found[f"p={p} {kind} K={K} m={m}"] = {**keys, "vq.codes": K, "vq.groups": m, "vq.residual": residual}
    if scale == "cpu":
        found["p=1 device trained"] = {**found["p=1 activations"], "vq.frozen": 1, "vq.late": "256x8,1024x12"}
    return found


VQ_E1 = Experiment(
    name="vq-e1",
    summary="split transformer: accuracy against bytes, for codes, activations and the text itself",
    common=CENTRAL,
    settings={scale: _e1(scale) for scale in SCALES},
    cost={"smoke": "1 min", "cpu": "20 min", "paper": "days"},
    study="boundary",
    plot="boundary",
    table=("accuracy", "gap", "up", "down", "train_up", "train_down", "probed", "perplexity", "entropy"),
    note="The DCCT paper does not report bytes. Bytes are payload per text. In training, a text is sent up as codes or "
    "activations, and its gradient comes down in float32. Late codes are added to the model that was trained with "
    "activations; their gap is the loss against float32 in the same model.",
)

# E2: the parts of the quantiser's training, and the federated codebook.

E2_CPU: Overrides = {
    "data.proxy-fraction": 0.2, "vq.tokens": 48, "vq.vocabulary": 4000, "vq.hidden": 128, "pretrain.dense-epochs": 6,
}  # fmt: skip

VQ_E2 = Experiment(
    name="vq-e2",
    summary="training with codes from a fifth of the steps on: commitment, gradient estimator, codebook updates",
    common={**CENTRAL, **CENTRAL_SMOKE, "vq.codes": 64, "vq.groups": 8},
    settings=at_every_scale(
        {
            "as it is": {},
            "no commitment": {"vq.beta": 0.0},
            "commitment x 16": {"vq.beta": 4.0},
            "rotation trick": {"vq.estimator": "rotation"},
            "codebook of the last steps": {"vq.decay": 0.0},
            "codebook of many steps": {"vq.decay": 0.99},
            "codebook by gradient": {"vq.learn": "gradient"},
            "dead vectors stay": {"vq.learn": "mean"},
            "codebook as it began": {"vq.learn": "frozen"},
        },
        cpu=E2_CPU,
        paper={**E2_CPU, "data.proxy-fraction": 0.9, "pretrain.dense-epochs": 20},
    ),
    cost={"smoke": "1 min", "cpu": "8 min", "paper": "1 h"},
    seeds=(1, 2),
    study="boundary",
    plot="boundary",
    table=("accuracy", "perplexity", "entropy", "up", "probed"),
    note="Bytes are payload per text.",
)

TEN: Overrides = {
    "workload": "vq", "data.name": "questions", "data.proxy-fraction": 0.1, "drift.kind": "none",
    "devices.count": 10, "cohort": 10, "rounds": 6, "rounds-per-step": 6, "eval.every": 2, "client.local-epochs": 1,
    "client.adapt-epochs": 1, "pretrain.dense-epochs": 6, "vq.vocabulary": 4000, "strategies": "na,fedavg",
}  # fmt: skip
TEN_SKEWS: dict[str, Overrides] = {
    "alpha=0.1": {"data.partition": "dirichlet", "dirichlet.alpha": 0.1},
    "alpha=1": {"data.partition": "dirichlet", "dirichlet.alpha": 1.0},
    "iid": {"data.partition": "iid"},
}
TEN_SCALE: dict[str, Overrides] = {
    "smoke": {**SMOKE_ROUNDS, **SMOKE_CODES, "devices.count": 3, "cohort": 2, "rounds": 1},
    "cpu": {},
    "paper": {"rounds": 30, "rounds-per-step": 30, "eval.every": 5, "pretrain.dense-epochs": 20},
}
E2_MERGES: dict[str, Overrides] = {
    "statistics": {},
    "vectors": {"vq.merge": "vectors"},
    "its own": {"vq.merge": "nothing"},
}

VQ_E2_MERGE = Experiment(
    name="vq-e2-merge",
    summary="the codebook of ten devices: from the sum of their statistics, the mean of their codebooks, or not shared",
    common={**TEN, "strategies": "fedavg"},
    settings={
        scale: {
            f"{skew} {name}": {**sizes, **TEN_SKEWS[skew], **merge}
            for skew in ("alpha=0.1", "iid")
            for name, merge in E2_MERGES.items()
        }
        for scale, sizes in TEN_SCALE.items()
    },
    cost={"smoke": "1 min", "cpu": "15 min", "paper": "2 h"},
    seeds=(1, 2, 3),
    plot="accuracy",
)

# E3: devices with more or less similar topics, through codes or through float16.

E3_CUTS: dict[str, Overrides] = {"codes": {}, "float16": {"vq.codes": 0, "vq.up": "float16"}}

VQ_E3 = Experiment(
    name="vq-e3",
    summary="the split transformer on ten devices with skewed, less skewed and IID topics; codes or float16",
    common=TEN,
    settings={
        scale: {
            f"{skew} {name}": {**sizes, **partition, **cut}
            for skew, partition in TEN_SKEWS.items()
            for name, cut in E3_CUTS.items()
        }
        for scale, sizes in TEN_SCALE.items()
    },
    cost={"smoke": "1 min", "cpu": "10 min", "paper": "2 h"},
    seeds=(1, 2),
)

# Codes that come late, in rounds: pooled, and no larger than the text's token ids.

ROUNDS_CPU: Overrides = {
    "workload": "vq", "data.name": "questions", "data.proxy-fraction": 0.15, "data.partition": "iid",
    "drift.kind": "none", "data.samples-min": 100, "data.samples-max": 100, "devices.count": 10, "cohort": 5,
    "rounds": 4, "rounds-per-step": 4, "eval.every": 4, "client.local-epochs": 1, "client.adapt-epochs": 0,
    "pretrain.dense-epochs": 3, "pretrain.batch-size": 32, "vq.preset": "minilm", "vq.frozen": 3, "vq.tokens": 32,
    "vq.width": 384, "strategies": "fedavg",
}  # fmt: skip
ROUNDS_SMOKE: Overrides = {
    **SMOKE_ROUNDS, "rounds": 1, "vq.preset": "tiny", "vq.frozen": 1, "vq.width": 16, "devices.count": 2, "cohort": 2,
}  # fmt: skip
ROUNDS_CUTS: dict[str, Overrides] = {
    "p=2 float32": {"vq.pool": 2, "vq.codes": 0},
    "p=2 codes": {"vq.pool": 2, "vq.codes": 128, "vq.groups": 4},
    "p=4 float32": {"vq.pool": 4, "vq.codes": 0},
    "p=4 codes": {"vq.pool": 4, "vq.codes": 64, "vq.groups": 8},
}

VQ_ROUNDS = Experiment(
    name="vq-rounds",
    summary="federated rounds of a pooled split transformer: float32 or late codes, no larger than token ids",
    common=ROUNDS_CPU,
    settings=at_every_scale(
        ROUNDS_CUTS,
        smoke=ROUNDS_SMOKE,
        paper={"data.proxy-fraction": 0.3, "rounds": 30, "rounds-per-step": 30, "eval.every": 5},
    ),
    cost={"smoke": "1 min", "cpu": "20 min", "paper": "3 h"},
    seeds=(11, 12, 13),
    plot="accuracy",
    table=("final_global_accuracy", "accuracy_mean", "infer_up", "tokens_up", "train_up", "train_down"),
    note="Token ids: what the packed ids of the same text would take. In training, the gradient of the logits goes up "
    "with codes or activations.",
)

# E4: several tasks share the server's half of the model.

E4_CPU: Overrides = {
    "vq.tasks": "cola,mrpc,rte,stsb", "data.proxy-fraction": 0.25, "vq.preset": "minilm",
    "pretrain.dense-epochs": 3, "vq.tokens": 64,
}  # fmt: skip

VQ_E4 = Experiment(
    name="vq-e4",
    summary="several tasks on one cloud stack: each alone, together with equal weights, together with GradNorm",
    common={**CENTRAL, "vq.codes": 0, "pretrain.batch-size": 32},
    settings={
        "smoke": {
            "questions": {
                **SMOKE, "vq.tasks": "questions,question-articles", "data.proxy-fraction": 0.03,
                "pretrain.dense-epochs": 2,
            }
        },
        "cpu": {"glue": E4_CPU},
        "paper": {"glue": {**E4_CPU, "data.proxy-fraction": 0.9}},
    },
    cost={"smoke": "1 min", "cpu": "90 min", "paper": "days"},
    seeds=(1, 2),
    study="tasks",
    plot="tasks",
    table=("score", "change", "loss", "weight", "mean_weight"),
    note="score: Matthews' correlation (cola), Pearson's correlation (stsb), accuracy (others). change: score minus "
    "the score of the task trained alone on the same batches. weight: final weight of the task's loss; the mean over "
    "tasks is 1.",
)  # fmt: skip

E4_TOGETHER: Overrides = {"vq.tasks": "questions,agnews", "devices.count": 8, "cohort": 8}
E4_SMOKE: Overrides = {**SMOKE_ROUNDS, "rounds": 1}
E4_TWO: Overrides = {**E4_SMOKE, "vq.tasks": "questions,question-articles", "devices.count": 4, "cohort": 4}
E4_SMALL: Overrides = {"data.proxy-fraction": 0.1, "data.samples-min": 150, "data.samples-max": 150, "vq.tokens": 48}
E4_WHOLE: dict[str, Overrides] = {
    "questions alone": {**E4_SMALL, "data.name": "questions"},
    "agnews alone": {**E4_SMALL, "data.name": "agnews"},
    "together": {**E4_SMALL, **E4_TOGETHER},
    "together, GradNorm": {**E4_SMALL, **E4_TOGETHER, "vq.gradnorm": True},
}

VQ_E4_ROUNDS = Experiment(
    name="vq-e4-rounds",
    summary="devices of two tasks average one cloud half, with and without GradNorm, or each task trains its own model",
    common={
        **TEN, "data.partition": "iid", "devices.count": 4, "cohort": 4, "vq.codes": 0, "vq.width": 0,
        "vq.up": "float16", "strategies": "na,la,fedavg",
    },
    settings={
        "smoke": {
            "questions alone": {**E4_SMOKE, "data.name": "questions", "devices.count": 2, "cohort": 2},
            "together": E4_TWO,
            "together, GradNorm": {**E4_TWO, "vq.gradnorm": True},
        },
        "cpu": E4_WHOLE,
        "paper": E4_WHOLE,
    },
    cost={"smoke": "1 min", "cpu": "15 min", "paper": "15 min"},
    seeds=(1, 2),
    plot="accuracy",
    note="Where tasks train together, the score is the mean over the devices of both tasks. For each task, see task_0 "
    "and task_1 in measures.csv, in the order of vq-tasks.",
)  # fmt: skip

# Tables 2 to 7 of the DCCT paper at reduced scale. In every setting, *text* and *tokens* are the unsplit encoder of the
# same FLOPs, *float32* to *int8* the split without quantisation, *late* and *late-plain* the split with quantisation.

DCCT: Overrides = {**CENTRAL, "vq.codes": 0, "pretrain.batch-size": 32}
DCCT_TABLE = ("score", "gap", "up", "down", "train_up", "probed")
dcct = partial(Experiment, common=DCCT, seeds=(1, 2), study="boundary", plot="boundary", table=DCCT_TABLE)

TINY: Overrides = {"vq.late": "256x1,256x8", "pretrain.dense-epochs": 4, "vq.vocabulary": 4000, "vq.tokens": 48}
TINY_DATA: dict[str, dict[str, Overrides]] = {
    "smoke": {
        "questions": {
            **SMOKE, "data.name": "questions", "data.proxy-fraction": 0.05, "vq.late": "16x4", "vq.pretrain-epochs": 1,
        }
    },
    "cpu": {
        name: {**TINY, "data.name": name, "data.proxy-fraction": share, "vq.pretrain-epochs": 4}
        for name, share in (("sst2", 0.03), ("agnews", 0.15))
    },
    "paper": {
        name: {**TINY, "data.name": name, "data.proxy-fraction": 0.9, "vq.pretrain-epochs": 40}
        for name in ("sst2", "agnews")
    },
}  # fmt: skip
GLUE: dict[str, dict[str, Overrides]] = {
    "smoke": TINY_DATA["smoke"],
    "cpu": {
        name: {
            "data.name": name, "data.proxy-fraction": 0.25, "vq.preset": "minilm", "pretrain.dense-epochs": 3,
            "vq.tokens": 64, "vq.late": "256x1,256x8,1024x12",
        }
        for name in ("cola", "mrpc", "rte", "stsb")
    },
}  # fmt: skip
GLUE["paper"] = {name: {**keys, "data.proxy-fraction": 0.9} for name, keys in GLUE["cpu"].items()}
SQUAD: Overrides = {
    "data.name": "squad", "data.proxy-fraction": 0.4, "vq.preset": "minilm", "pretrain.dense-epochs": 3,
    "vq.tokens": 96, "vq.late": "256x8,1024x12",
}  # fmt: skip


def _sizes(share: float) -> dict[str, Overrides]:
    """Return models from small to large on the same share of the texts."""
    common: Overrides = {"data.name": "sst2", "data.proxy-fraction": share, "vq.tokens": 48, "vq.late": "256x8,1024x8"}
    pretrained: Overrides = {**common, "vq.preset": "minilm", "pretrain.dense-epochs": 3}
    return {
        "from scratch": {**common, "vq.vocabulary": 4000, "pretrain.dense-epochs": 4},
        "MiniLM 2+2": {**pretrained, "vq.cloud-layers": 2},
        "MiniLM 2+4": {**pretrained, "vq.cloud-layers": 4},
    }


VQ_TABLE2 = dcct(
    name="vq-table2",
    reference="DCCT, Tables 2, 5",
    summary="classes of sentences and news from scratch: no pretraining, masked tokens (T. 2), replaced tokens (T. 5)",
    settings={
        scale: {
            f"{name} {objective}": {**keys, "vq.pretrain": objective}
            for name, keys in of_scale.items()
            for objective in ("none", "mlm", "electra")
        }
        for scale, of_scale in TINY_DATA.items()
    },
    cost={"smoke": "1 min", "cpu": "15 min", "paper": "days"},
    note="Bytes are payload per text. We pretrain and fine-tune on the same text; the paper pretrains on far more.",
)
VQ_TABLE3 = dcct(
    name="vq-table3",
    reference="DCCT, Tables 3, 4",
    summary="small GLUE tasks with MiniLM's layers: acceptability, paraphrase, entailment, similarity",
    settings=GLUE,
    cost={"smoke": "30 s", "cpu": "30 min", "paper": "days"},
    note="score: Matthews' correlation (cola), Pearson's correlation (stsb), accuracy (mrpc, rte). The paper pretrains "
    "its encoders on masked tokens (Table 3) or replaced tokens (Table 4) of its own text; we use MiniLM unchanged. "
    "Bytes are payload per text.",
)
VQ_TABLE6 = dcct(
    name="vq-table6",
    reference="DCCT, Table 6",
    summary="sentence classes by model size: from scratch, then MiniLM's first four and all six layers",
    settings={
        "smoke": {
            name: {**TINY_DATA["smoke"]["questions"], "vq.hidden": hidden, "vq.cloud-layers": layers}
            for name, hidden, layers in (("small", 16, 1), ("large", 32, 2))
        },
        "cpu": _sizes(0.03),
        "paper": _sizes(0.9),
    },
    cost={"smoke": "20 s", "cpu": "20 min", "paper": "days"},
    table=(*DCCT_TABLE, "device", "cloud"),
    note="device, cloud: trained parameters on each side. Bytes are payload per text. The paper compares large models.",
)
VQ_TABLE7 = dcct(
    name="vq-table7",
    reference="DCCT, Table 7",
    summary="the span of a passage that answers a question, with MiniLM's layers; a synthetic task in smoke",
    settings={
        "smoke": {
            "find-the-span": {
                "data.name": "find-the-span", "data.proxy-fraction": 0.9, "vq.tokens": 32, "vq.vocabulary": 300,
                "vq.hidden": 32, "vq.lr": 0.003, "vq.late": "16x4", "pretrain.dense-epochs": 5,
            }
        },
        "cpu": {"squad": SQUAD},
        "paper": {"squad": {**SQUAD, "data.proxy-fraction": 0.9}},
    },
    cost={"smoke": "1 min", "cpu": "70 min", "paper": "days"},
    table=("accuracy", *DCCT_TABLE),
    note="accuracy: exact matches (EM). score: F1 of words. Both follow SQuAD's definition, against one reference "
    "answer. Passages have about 50 words, which is easier than whole paragraphs. Bytes are payload per text; the "
    "logits of all tokens come down.",
)  # fmt: skip
