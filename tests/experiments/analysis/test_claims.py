"""The page of ECLM's results: its tables are those of the committed results, and its links exist."""

import math
import re
from pathlib import Path

import pytest

from experiments.analysis.claims import BLOCK, TABLES, Results, holds, lined_up, renew, saturation, smaller
from experiments.analysis.paired import Estimate

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "results" / "eclm.md"


def test_the_page_has_the_numbers_of_the_committed_results():
    """If it fails: python -m experiments claims --page docs/results/eclm.md"""
    page = PAGE.read_text(encoding="utf-8")
    assert [name for _, name, _ in BLOCK.findall(page)] == list(TABLES)
    assert renew(page, Results(ROOT / "results")) == page


def test_the_links_of_the_page_lead_to_files():
    links = re.findall(r"\]\(([^)#]+)", PAGE.read_text(encoding="utf-8"))
    assert len(links) > 40 and not [link for link in links if not (PAGE.parent / link).is_file()]


def test_a_claim_holds_where_the_whole_interval_is_above_0():
    above, level, below = Estimate(0.02, 0.001, 2, 3), Estimate(0.002, 0.001, 2, 3), Estimate(-0.02, 0.001, 2, 3)
    assert holds(above, above) == "confirmed" and holds(level) == holds(below) == "not confirmed"
    assert holds(above, level, below) == "confirmed in 1 of 3 rows"
    assert holds(Estimate(0.02, math.nan, 0, 1)) == "not confirmed"  # one seed has no interval


def test_a_factor_is_compared_with_1_and_with_the_papers():
    assert smaller([1.2, 3.0], 2.5) == "confirmed" and smaller([1.2, 2.0], 2.5) == "confirmed, with a smaller factor"
    assert smaller([1.0, 2.0], 2.5) == "confirmed in 1 of 2 rows, with a smaller factor"


def test_a_rival_that_never_reaches_the_target_needs_infinitely_more(tmp_path):
    (tmp_path / "toy").mkdir()
    lines = [("eclm", 2.0), ("heterofl", 5.0), ("eclm", 3.0)]
    rows = [f"toy,s{i // 2},{method},mb_to_target,{value},,,1," for i, (method, value) in enumerate(lines)]
    head = "experiment,setting,method,metric,value,std,ci95,seeds,paper_value"
    (tmp_path / "toy" / "summary.csv").write_text("\n".join([head, *rows]) + "\n")
    ratios = [
        Results(tmp_path).ratio("toy", setting, "mb_to_target", rival="heterofl") for setting in ("s0", "s1", "s2")
    ]
    assert ratios[:2] == [2.5, math.inf] and math.isnan(ratios[2])


def test_saturation_by_hand():
    """95 % of 0.8 is 0.76, which the second size has."""
    import pandas as pd

    rows = [("s", "ability", "derived", level, share, accuracy) for level, share, accuracy in
            ((0, 0.1, 0.5), (1, 0.4, 0.77), (2, 1.0, 0.8))]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["setting", "training", "kind", "level", "share", "accuracy"])
    assert saturation(frame, "s") == pytest.approx(0.4)


def test_a_table_by_hand():
    assert lined_up("row", ["a", "b"], {"x": ["1", "2"]}) == "| row | a | b |\n|:--|--:|--:|\n| x | 1 | 2 |"
