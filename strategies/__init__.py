"""Methods: one file each, with both halves. A new one is a file and a line in ``STRATEGIES``, or a path to a class."""

from partitions.components import Registry
from strategies.adaptivenet import AdaptiveNet
from strategies.core.strategy import Strategy
from strategies.ditto import Ditto
from strategies.drift.adabn import AdaBN
from strategies.drift.adaptive_fedavg import AdaptiveFedAvg
from strategies.drift.feddrift import FedDrift, FedDriftEager
from strategies.drift.flash import Flash
from strategies.drift.ifca import IFCA
from strategies.drift.tent import Tent
from strategies.eclm import ECLM, ECLMAdam, ECLMBlended, ECLMPlus, ECLMPrior, ECLMSmooth, ECLMTailored
from strategies.eclm_ablations import ECLMLocal, ECLMStatic
from strategies.fedavg import FedAdam, FedAvg, FedAvgPrior
from strategies.fedbn import FedBN
from strategies.fedprox import FedProx
from strategies.fedrep import FedRep
from strategies.fedrolex import FedRolex, FedRolexAdam
from strategies.fjord import FjORD, FjORDPrior
from strategies.heterofl import HeteroFL
from strategies.local import LocalAdaptation, NoAdaptation, NoAdaptationPrior
from strategies.scaffold import Scaffold

STRATEGIES: Registry[type[Strategy]] = Registry(
    "strategy",
    "driftfed.strategies",
    {
        "na": NoAdaptation,
        "na-prior": NoAdaptationPrior,
        "la": LocalAdaptation,
        "an": AdaptiveNet,
        "fedavg": FedAvg,
        "fedavg-prior": FedAvgPrior,
        "fedadam": FedAdam,
        "fedprox": FedProx,
        "scaffold": Scaffold,
        "fedbn": FedBN,
        "fedrep": FedRep,
        "ditto": Ditto,
        "ifca": IFCA,
        "feddrift": FedDrift,
        "feddrift-eager": FedDriftEager,
        "adaptive-fedavg": AdaptiveFedAvg,
        "flash": Flash,
        "adabn": AdaBN,
        "tent": Tent,
        "heterofl": HeteroFL,
        "fjord": FjORD,
        "fjord-prior": FjORDPrior,
        "fedrolex": FedRolex,
        "fedrolex-adam": FedRolexAdam,
        "eclm": ECLM,
        "eclm-local": ECLMLocal,
        "eclm-static": ECLMStatic,
        "eclm-prior": ECLMPrior,
        "eclm-tailored": ECLMTailored,
        "eclm-blend": ECLMBlended,
        "eclm-smooth": ECLMSmooth,
        "eclm-adam": ECLMAdam,
        "eclm-plus": ECLMPlus,
    },
)
