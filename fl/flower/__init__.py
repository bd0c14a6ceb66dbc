"""Our methods in the user's own Flower app: strategies for the ServerApp, and three lines for the ClientApp."""

from fl.flower.client import load_submodel, profile, reply
from fl.flower.eclm import ECLM
from fl.flower.strategies import FedAvg, FedRolex, FjORD, HeteroFL

__all__ = ["ECLM", "FedAvg", "FedRolex", "FjORD", "HeteroFL", "load_submodel", "profile", "reply"]
