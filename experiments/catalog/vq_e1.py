"""E1 of the VQ workload: how much accuracy a byte on the wire is worth."""

from experiments.catalog.experiment import SCALES, Experiment, Overrides

COMMON: Overrides = {
    "workload": "vq",
    "strategies": "fedavg",
    "partition": "iid",
    "drift": "none",
    "vq-width": 0,
    "vq-down": "float32",
}
SMOKE: Overrides = {
    "dataset": "questions",
    "proxy-fraction": 0.1,
    "tokens": 24,
    "vocabulary": 1000,
    "vq-hidden": 32,
    "vq-lr": 0.003,
    "dense-epochs": 2,
    "offline-batch": 32,
}
CPU: Overrides = {
    "dataset": "sst2",
    "proxy-fraction": 0.03,  # 2020 phrases
    "vq-preset": "minilm",
    "vq-frozen": 3,
    "dense-epochs": 3,
    "offline-batch": 32,
}
SCALE: dict[str, Overrides] = {
    "smoke": SMOKE,
    "cpu": CPU,
    "paper": {**CPU, "proxy-fraction": 0.9, "vq-frozen": 1},
}
# (K, m, residual) of codes that training knows: one vector, groups, and stages of the same rate as the groups.
CODES = {
    "smoke": ((16, 4, False), (16, 4, True)),
    "cpu": ((256, 8, False),),
    "paper": tuple(
        (K, m, residual)
        for K in (16, 256, 1024)
        for m, residual in ((1, False), (4, True), (8, False), (8, True), (12, False))
    ),
}
LATE = {"smoke": "16x4", "cpu": "256x1,256x8,1024x12", "paper": "2x1,16x1,256x1,256x2,256x8,1024x12"}
POOLS = {"smoke": (1, 4), "cpu": (1, 4), "paper": (1, 2, 4)}


def _settings(scale: str) -> dict[str, Overrides]:
    found: dict[str, Overrides] = {}
    for p in POOLS[scale]:
        own = {**SCALE[scale], "vq-pool": p}
        found[f"p={p} activations"] = {**own, "vq-codes": 0, "vq-late": LATE[scale]}
        for K, m, residual in CODES[scale]:
            kind = "residual" if residual else "product" if m > 1 else "single"
            found[f"p={p} {kind} K={K} m={m}"] = {**own, "vq-codes": K, "vq-groups": m, "vq-residual": residual}
    if scale == "cpu":
        found["p=1 device trained"] = {**found["p=1 activations"], "vq-frozen": 1, "vq-late": "256x8,1024x12"}
    return found


VQ_E1 = Experiment(
    name="vq-e1",
    reference="",
    summary="split transformer: accuracy against bytes, for codes, activations and the text itself",
    common=COMMON,
    settings={scale: _settings(scale) for scale in SCALES},
    cost={"smoke": "1 min", "cpu": "20 min", "paper": "days"},
    study="boundary",
    plot="boundary",
    table=("accuracy", "gap", "up", "down", "train_up", "train_down", "probed", "perplexity", "entropy"),
    note="The DCCT paper reports neither bytes nor accuracy against them. Bytes are payload per text; one in training "
    "goes up as codes or activations and its gradient comes down in float32. Late codes were put into the model that "
    "was trained with activations; the gap is what they lose against float32 in the same model.",
)
