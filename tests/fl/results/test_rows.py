"""The columns: each is declared once, with a type and a meaning."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from fl.results.rows import COLUMNS, DEVICE_COLUMNS, MEASURE_COLUMNS, DeviceRow, MeasureRow, Row, column_types

HEAVY = ("torch", "flwr", "pandas", "fl.config", "fl.engines", "models", "strategies")


@pytest.mark.parametrize(
    ("kind", "columns"), [(Row, COLUMNS), (DeviceRow, DEVICE_COLUMNS), (MeasureRow, MEASURE_COLUMNS)]
)
def test_every_column_is_explained(kind, columns):
    assert [field.name for field in fields(kind)] == list(columns) == list(column_types(kind))
    assert all(isinstance(meaning, str) and meaning for meaning in columns.values())
    assert set(column_types(kind).values()) <= {str, int, float}


@pytest.mark.parametrize("name", ["reader", "writer", "rows"])
def test_a_fresh_process_reads_and_writes_without_torch_and_flower(name):
    code = f"import sys, fl.results.{name}; print([name for name in {HEAVY} if name in sys.modules])"
    root = Path(__file__).parents[3]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
