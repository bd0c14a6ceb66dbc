"""Drifts by name. A new one is a file here and a line in ``DRIFTS``; its fields are its parameters."""

from partitions.drifts.class_swap import ClassSwap
from partitions.drifts.drift import Drift
from partitions.drifts.feature import Feature
from partitions.drifts.label_shift import LabelShift
from partitions.drifts.none import Still
from partitions.drifts.recurring import Recurring
from partitions.drifts.resample import Resample
from partitions.drifts.subject import PassOn

DRIFTS: dict[str, type[Drift]] = {
    "none": Still,
    "resample": Resample,
    "class-swap": ClassSwap,
    "label-shift": LabelShift,
    "subject": PassOn,
    "recurring": Recurring,
    "feature": Feature,
}
