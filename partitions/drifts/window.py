"""Time series: a device has the latest stretch of its own recording, and forgets what came before."""

from typing import ClassVar

from pydantic import Field

from partitions.drifts.drift import Drift


class Window(Drift):
    """Move a window along the samples of a device's own, in their order; at the end of the recording it stays."""

    ordered: ClassVar[bool] = True
    ignores: ClassVar[tuple[str, ...]] = ("drift.fraction", "drift.steps")

    samples: int = Field(100, ge=1, description="training samples in the window; fewer if a client has fewer")
    stride: int = Field(50, ge=1, description="training samples by which the window moves at a drift step")

    def stretch(self, rows: int, number: int) -> slice:
        first = min(number * self.stride, max(rows - self.samples, 0))
        return slice(first, min(first + self.samples, rows))
