"""Drifts by name; `partitions.components.Registry` explains how to add one."""

from partitions.components import Registry
from partitions.drifts.class_swap import ClassSwap
from partitions.drifts.concept import Concept
from partitions.drifts.concept_matrix import ConceptMatrix
from partitions.drifts.drift import Drift
from partitions.drifts.feature import Feature
from partitions.drifts.label_shift import LabelShift
from partitions.drifts.none import NoDrift
from partitions.drifts.recurring import Recurring
from partitions.drifts.resample import Resample
from partitions.drifts.subject import SubjectChange
from partitions.drifts.unseen import Unseen
from partitions.drifts.window import Window

DRIFTS: Registry[type[Drift]] = Registry("drift", "driftfed.drifts", {
    "none": NoDrift,
    "resample": Resample,
    "class-swap": ClassSwap,
    "label-shift": LabelShift,
    "subject": SubjectChange,
    "recurring": Recurring,
    "feature": Feature,
    "concept": Concept,
    "concept-matrix": ConceptMatrix,
    "unseen": Unseen,
    "window": Window,
})  # fmt: skip
