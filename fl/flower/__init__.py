"""Our methods in the user's own Flower app: strategies for the ServerApp, and three lines for the ClientApp."""

from fl.flower.averaging import FedAvg
from fl.flower.client import load_submodel, profile, reply
from fl.flower.cutting import FedRolex, FjORD, HeteroFL
from fl.flower.eclm import ECLM

__all__ = ["ECLM", "FedAvg", "FedRolex", "FjORD", "HeteroFL", "load_submodel", "profile", "reply"]
