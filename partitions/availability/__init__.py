"""Which devices are online in a round, by name; `partitions.components.Registry` explains how to add one."""

from partitions.availability.always import Always
from partitions.availability.availability import Availability
from partitions.availability.diurnal import Diurnal
from partitions.availability.trace import Trace
from partitions.components import Registry

AVAILABILITY: Registry[type[Availability]] = Registry("availability", "driftfed.availability", {
    "always": Always,
    "trace": Trace,
    "diurnal": Diurnal,
})  # fmt: skip
