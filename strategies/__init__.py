"""One file per method, and the names by which a run asks for them."""

from strategies.base import Strategy
from strategies.eclm import ECLM
from strategies.fedavg import FedAvg
from strategies.heterofl import HeteroFL
from strategies.local import LocalAdaptation, NoAdaptation
from strategies.static import StaticSubModel

STRATEGIES: dict[str, type[Strategy]] = {
    "na": NoAdaptation,
    "la": LocalAdaptation,
    "fedavg": FedAvg,
    "heterofl": HeteroFL,
    "eclm": ECLM,
    "eclm-static": StaticSubModel,
}
