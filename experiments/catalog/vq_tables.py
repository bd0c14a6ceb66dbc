"""Tables 2 to 7 of the DCCT paper at reduced scale: the same rows on each task, as a setting of the study `boundary`.

In every setting *text* and *tokens* are the monolithic encoder of the same FLOPs, *float32* to *int8* is the split
without quantisation, and *late* and *late-plain* the split with it.
"""

from experiments.catalog import vq_e1
from experiments.catalog.experiment import Experiment, Overrides

COMMON: Overrides = {**vq_e1.COMMON, "vq-codes": 0, "offline-batch": 32}
TABLE = ("score", "gap", "up", "down", "train_up", "probed")

TINY: Overrides = {"vq-late": "256x1,256x8", "dense-epochs": 4, "vocabulary": 4000, "tokens": 48}
TINY_DATA: dict[str, dict[str, Overrides]] = {
    "smoke": {
        "questions": {
            "dataset": "questions", "proxy-fraction": 0.05, "tokens": 24, "vocabulary": 500, "vq-hidden": 32,
            "vq-late": "16x4", "dense-epochs": 1, "vq-pretrain-epochs": 1,
        }
    },
    "cpu": {
        "sst2": {**TINY, "dataset": "sst2", "proxy-fraction": 0.03, "vq-pretrain-epochs": 4},
        "agnews": {**TINY, "dataset": "agnews", "proxy-fraction": 0.15, "vq-pretrain-epochs": 4},
    },
    "paper": {
        "sst2": {**TINY, "dataset": "sst2", "proxy-fraction": 0.9, "vq-pretrain-epochs": 40},
        "agnews": {**TINY, "dataset": "agnews", "proxy-fraction": 0.9, "vq-pretrain-epochs": 40},
    },
}  # fmt: skip
GLUE: dict[str, dict[str, Overrides]] = {
    "smoke": TINY_DATA["smoke"],
    "cpu": {
        name: {
            "dataset": name, "proxy-fraction": share, "vq-preset": "minilm", "dense-epochs": 3, "tokens": 64,
            "vq-late": "256x1,256x8,1024x12",
        }
        for name, share in (("cola", 0.25), ("mrpc", 0.25), ("rte", 0.25), ("stsb", 0.25))
    },
}  # fmt: skip
GLUE["paper"] = {name: {**own, "proxy-fraction": 0.9} for name, own in GLUE["cpu"].items()}
SPANS: dict[str, dict[str, Overrides]] = {
    "smoke": {
        "find-the-span": {
            "dataset": "find-the-span", "proxy-fraction": 0.9, "tokens": 32, "vocabulary": 300, "vq-hidden": 32,
            "vq-lr": 0.003, "vq-late": "16x4", "dense-epochs": 5,
        }
    },
    "cpu": {
        "squad": {
            "dataset": "squad", "proxy-fraction": 0.4, "vq-preset": "minilm", "dense-epochs": 3, "tokens": 96,
            "vq-late": "256x8,1024x12",
        }
    },
}  # fmt: skip
SPANS["paper"] = {"squad": {**SPANS["cpu"]["squad"], "proxy-fraction": 0.9}}


def _sizes(share: float) -> dict[str, Overrides]:
    """From small to large, on the same texts."""
    common: Overrides = {"dataset": "sst2", "proxy-fraction": share, "tokens": 48, "vq-late": "256x8,1024x8"}
    pretrained: Overrides = {**common, "vq-preset": "minilm", "dense-epochs": 3}
    return {
        "from scratch": {**common, "vocabulary": 4000, "dense-epochs": 4},
        "MiniLM 2+2": {**pretrained, "vq-cloud-layers": 2},
        "MiniLM 2+4": {**pretrained, "vq-cloud-layers": 4},
    }


VQ_TABLE2 = Experiment(
    name="vq-table2",
    reference="DCCT, Tables 2, 5",
    summary="classes of sentences and news from scratch: no pretraining, masked tokens (T. 2), replaced tokens (T. 5)",
    common=COMMON,
    settings={
        scale: {
            f"{name} {objective}": {**own, "vq-pretrain": objective}
            for name, own in of.items()
            for objective in ("none", "mlm", "electra")
        }
        for scale, of in TINY_DATA.items()
    },
    cost={"smoke": "1 min", "cpu": "15 min", "paper": "days"},
    seeds=(1, 2),
    study="boundary",
    plot="boundary",
    table=TABLE,
    note="Bytes are payload per text. The paper pretrains on far more text than it fine-tunes on, here the same.",
)
VQ_TABLE3 = Experiment(
    name="vq-table3",
    reference="DCCT, Tables 3, 4",
    summary="small GLUE tasks with MiniLM's layers: acceptability, paraphrase, entailment, similarity",
    common=COMMON,
    settings=GLUE,
    cost={"smoke": "30 s", "cpu": "30 min", "paper": "days"},
    seeds=(1, 2),
    study="boundary",
    plot="boundary",
    table=TABLE,
    note="score: Matthews' correlation (cola), Pearson's (stsb), accuracy (mrpc, rte). The paper's encoders are "
    "pretrained by masked (Table 3) or replaced tokens (Table 4) on its own text; MiniLM comes as it is. Bytes are "
    "payload per text.",
)
VQ_TABLE6 = Experiment(
    name="vq-table6",
    reference="DCCT, Table 6",
    summary="sentences by the size of the whole: from scratch, then MiniLM's first four and all six layers",
    common=COMMON,
    settings={
        "smoke": {
            name: {**TINY_DATA["smoke"]["questions"], "vq-hidden": hidden, "vq-cloud-layers": layers}
            for name, hidden, layers in (("small", 16, 1), ("large", 32, 2))
        },
        "cpu": _sizes(0.03),
        "paper": _sizes(0.9),
    },
    cost={"smoke": "20 s", "cpu": "20 min", "paper": "days"},
    seeds=(1, 2),
    study="boundary",
    plot="boundary",
    table=(*TABLE, "device", "cloud"),
    note="device, cloud: parameters trained on each side. Bytes are payload per text. The paper compares large models.",
)
VQ_TABLE7 = Experiment(
    name="vq-table7",
    reference="DCCT, Table 7",
    summary="spans that answer a question about a passage, with MiniLM's layers; a made-up task in smoke",
    common=COMMON,
    settings=SPANS,
    cost={"smoke": "1 min", "cpu": "70 min", "paper": "days"},
    seeds=(1, 2),
    study="boundary",
    plot="boundary",
    table=("accuracy", *TABLE),
    note="accuracy: exact matches (EM); score: F1 of words; both as SQuAD defines them, against one reference answer. "
    "Passages are of about 50 words, not whole paragraphs, which is easier. Bytes are payload per text; every "
    "token's logits come down.",
)
