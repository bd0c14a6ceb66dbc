"""One file per method, and the names by which a run asks for them."""

from strategies.adaptivenet import AdaptiveNet
from strategies.base import Strategy
from strategies.eclm import ECLM, ECLMLocal
from strategies.eclm_plus import ECLMBlended, ECLMPlus, ECLMPrior, ECLMTailored
from strategies.fedavg import FedAvg, FedAvgPrior
from strategies.fedrolex import FedRolex
from strategies.fjord import FjORD, FjORDPrior
from strategies.heterofl import HeteroFL
from strategies.local import LocalAdaptation, NoAdaptation, NoAdaptationPrior
from strategies.static import StaticSubModel

STRATEGIES: dict[str, type[Strategy]] = {
    "na": NoAdaptation,
    "na-prior": NoAdaptationPrior,
    "la": LocalAdaptation,
    "an": AdaptiveNet,
    "fedavg": FedAvg,
    "fedavg-prior": FedAvgPrior,
    "heterofl": HeteroFL,
    "fjord": FjORD,
    "fjord-prior": FjORDPrior,
    "fedrolex": FedRolex,
    "eclm": ECLM,
    "eclm-local": ECLMLocal,
    "eclm-static": StaticSubModel,
    "eclm-prior": ECLMPrior,
    "eclm-tailored": ECLMTailored,
    "eclm-blend": ECLMBlended,
    "eclm-plus": ECLMPlus,
}

FULL_MODEL = {
    name: of for name, of in sorted(STRATEGIES.items()) if of.asks == "nothing" and of.architecture == "dense"
}
"""Methods that send devices the dense model whole, for workloads whose model cannot be cut."""
