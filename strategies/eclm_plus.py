"""ECLM+: ECLM with three changes of ours, and ECLM with each of them alone (docs/experiments.md, `ablation`).

    restrict   a device leaves the classes that it does not hold out of the softmax, in training and in use: it knows
               its sub-task, and need not spend its few samples on unlearning the others (cf. FedRS, Li and Zhan 2021)
    tailored   the ability of modules is enhanced on sub-models as devices get them (`models.tailor`)
    blend      a device serves the mean of its sub-model as delivered and as adapted (Wortsman et al. 2022,
               arXiv:2109.01903): a hundred samples teach, but they also overwrite

'eclm' stays as the paper has it.
"""

from models.cloud import ModularModel
from strategies.eclm import ECLM


class ECLMRestricted(ECLM):
    """ECLM and restrict."""

    reports = {"eclm-restrict-derive": "delivered", "eclm-restrict": "adapted"}
    masked = "restrict"


class ECLMTailored(ECLM):
    """ECLM and tailored."""

    reports = {"eclm-tailored-derive": "delivered", "eclm-tailored": "adapted"}

    @property
    def modular_model(self) -> ModularModel:
        return self.cloud.tailored_model


class ECLMBlended(ECLM):
    """ECLM and blend."""

    reports = {"eclm-blend": "adapted"}
    blend = 0.5


class ECLMPlus(ECLMTailored):
    """All three."""

    reports = {"eclm-plus-derive": "delivered", "eclm-plus": "adapted"}
    masked = "restrict"
    blend = 0.5
