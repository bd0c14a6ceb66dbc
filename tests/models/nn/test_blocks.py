"""Which entries of a network are never negative."""

from torch import nn

from models.nn.blocks import Norm, never_negative
from models.nn.resnet import resnet18


def test_variances_are_never_negative_whatever_they_are_called() -> None:
    """Of our norms and torch's; parameters and means may have any sign."""

    class Own(nn.Module):
        never_negative = ("counts",)

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("counts", Norm(1, 1).weight.detach())
            self.var = nn.Linear(1, 1)

    network = nn.ModuleDict(
        {
            "var": nn.Linear(2, 2), "ours": Norm(2, 3, "batch"), "group": Norm(1, 8), "theirs": nn.BatchNorm2d(2),
            "bare": nn.BatchNorm1d(2, track_running_stats=False), "own": Own(),
        }
    )  # fmt: skip
    expected = {"ours.var", "theirs.running_var", "theirs.num_batches_tracked", "own.counts"}
    assert never_negative(network) == expected
    assert never_negative(Norm(1, 2, "batch")) == {"var"} and never_negative(nn.BatchNorm1d(1)) >= {"running_var"}


def test_every_norm_of_a_network_is_found() -> None:
    body = resnet18((3, 8, 8), 2, width=8, norm="batch").whole()
    assert never_negative(body) == {name for name in body.state_dict() if name.rpartition(".")[2] == "var"} != set()
