"""Keys of versions before 0.2, whose run-config was flat, and where each is now."""

_SECTIONS = {
    "data": {"name": "dataset", "root": "data-root"} | {k: k for k in (
        "image-size", "partition", "samples-min", "samples-max", "test-samples", "proxy-fraction")},
    "m-classes": {"m": "classes-per-device"},
    "recurring": {"contexts": "contexts"},
    "feature": {"corruption": "corruption", "severity-step": "severity-step"},
    "drift": {"kind": "drift", "fraction": "drift-fraction", "steps": "drift-steps", "schedule": "schedule"},
    "model": {"name": "model", "width": "width", "norm": "norm", "module-layers": "module-layers"},
    "pretrain": {"lr": "offline-lr", "batch-size": "offline-batch"} | {k: k for k in (
        "dense-epochs", "modular-epochs", "ability-epochs", "augment")},
    "client": {k: k for k in (
        "local-epochs", "adapt-epochs", "lr", "batch-size", "clip", "upload-change", "update-clip", "update-noise")},
    "server": {k: k for k in ("aggregation", "buffer", "deadline-s", "robust", "trim", "at-once", "timeout-s")},
    "eval": {"every": "eval-every", "devices": "eval-devices", "per-device": "per-device",
             "forgetting": "measure-forgetting", "divergence": "measure-divergence"},
    "poison": {"share": "poisoned", "attack": "poison"},
    "devices": {"count": "devices"} | {k: k for k in (
        "hardware", "limit-low", "limit-high", "background-load", "placement", "train-budget-s", "link-budget-s",
        "state-root")},
    "eclm": {k: k for k in (
        "modules", "residual", "top-k", "selector-width", "balance", "ability", "subtasks", "kappa1", "kappa2",
        "candidates", "shift-threshold", "required-accuracy", "importance-noise")},
    "vq": {"tokens": "tokens", "vocabulary": "vocabulary"} | {k: f"vq-{k}" for k in (
        "preset", "codes", "groups", "late", "late-epochs", "pretrain", "pretrain-epochs", "tasks", "gradnorm",
        "cloud-layers", "frozen", "hidden", "residual", "width", "pool", "beta", "decay", "learn", "merge", "estimator",
        "up", "down", "lr", "labels")},
    "spa": {"base": "base", "base-checksum": "base-checksum", "tiny-steps": "tiny-steps"} | {k: f"spa-{k}" for k in (
        "data", "facts", "mode", "side", "reduction", "every", "gate", "price", "policy", "personal")},
}  # fmt: skip
MOVED: dict[str, str] = {
    old: f"`{section}.{new}`" for section, keys in _SECTIONS.items() for new, old in keys.items()
} | {
    "alpha": "`dirichlet.alpha`, `label-shift.alpha` or, in workload spa, `spa.skew`",
    "shrink": "`eclm.shrink` and, of AdaptiveNet, `an.shrink`",
    "optimizer": "`client.optimizer` and, in the cloud, `pretrain.optimizer`",
    "momentum": "`client.momentum` and, in the cloud, `pretrain.momentum`",
    "weight-decay": "`client.weight-decay` and, in the cloud, `pretrain.weight-decay`",
}
