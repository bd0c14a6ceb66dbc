"""The results folder of an experiment: its CSV files and its config, written and read without torch or Flower."""

from fl.results.files import (
    CHECKPOINTS,
    ResultsError,
    as_results_error,
    atomic_write,
    cell,
    config_text,
    csv_text,
    lock,
    refuse_beside,
    whole_lines,
)
from fl.results.merge import merge_configs
from fl.results.reader import finished, read_config, read_devices, read_measures, read_rounds
from fl.results.rows import COLUMNS, DEVICE_COLUMNS, MEASURE_COLUMNS, DeviceRow, MeasureRow, Row, RowKey, Run
from fl.results.versions import versions
from fl.results.writer import ResultsWriter

__all__ = [
    "CHECKPOINTS",
    "COLUMNS",
    "DEVICE_COLUMNS",
    "MEASURE_COLUMNS",
    "DeviceRow",
    "MeasureRow",
    "ResultsError",
    "ResultsWriter",
    "Row",
    "RowKey",
    "Run",
    "as_results_error",
    "atomic_write",
    "cell",
    "config_text",
    "csv_text",
    "finished",
    "lock",
    "merge_configs",
    "read_config",
    "read_devices",
    "read_measures",
    "read_rounds",
    "refuse_beside",
    "versions",
    "whole_lines",
]
