"""ECLM+: ECLM with three changes of ours, and ECLM with each of them alone (docs/experiments.md, `ablation`).

    prior      a device corrects the logits for its own class shares, in training and in use: it knows its sub-task, and
               need not spend its few samples on learning how often each class occurs (Menon et al. 2021,
               arXiv:2007.07314); classes that it lacks leave the softmax
    tailored   the ability of modules is enhanced on sub-models as devices get them, and every layer has a core module
               that all of them hold (`models.modular.tailor`)
    blend      a device serves the mean of its sub-model as delivered and as adapted (Wortsman et al. 2022,
               arXiv:2109.01903): a hundred samples teach, but they also overwrite

'eclm' stays as the paper has it.
"""

from models.modular.model import ModularModel
from strategies.eclm import ECLM


class ECLMPrior(ECLM):
    """ECLM and prior."""

    reports = {"eclm-prior-derive": "delivered", "eclm-prior": "adapted"}
    masked = "prior"


class ECLMTailored(ECLM):
    """ECLM and tailored."""

    reports = {"eclm-tailored-derive": "delivered", "eclm-tailored": "adapted"}
    least_active = 2

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
    masked = "prior"
    blend = 0.5
