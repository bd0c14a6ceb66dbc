"""Entrants do the same work, and the table contains what was measured."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from experiments.bench import BENCHMARKS, EntrantFailed, about, derive, growth, merge, w1
from experiments.bench.contest import Entrant, Runner, _same_work, contest, processor_seconds
from experiments.bench.entrants.work import Work
from experiments.bench.exam import SEED, Exam
from experiments.bench.table import Line, Options, Table, interleave
from experiments.bench.w1 import fedavg
from experiments.bench.w2 import generate_data
from experiments.cli.main import app
from fl.workloads.classify import Classify
from fl.workloads.world import tensors
from partitions.datasets.images.arrays import save


def options(scratch: Path) -> Options:
    return Options(blocks=1, rounds=1, workers=1, scratch=scratch)


def exam_of(scratch: Path, kind: str = "mlp", **own: object) -> Exam:
    """Six devices, three a round."""
    generate_data(scratch)
    keys = {"data.name": "har-uci", "data.root": str(scratch), "devices.count": 6, "cohort": 3} | own
    return Exam.write(scratch / "exam", kind, fedavg(options(scratch), keys, samples=20, epochs=2, batch=16, lr=0.05))


def test_the_bare_loop_and_this_project_end_at_the_same_weights(tmp_path: Path) -> None:
    """Two programs do two rounds; their weights differ only by rounding of float32."""
    exam = exam_of(tmp_path)
    entrants = [Entrant("bare", "bare", ["1"]), Entrant("ours", "ours", ["1", "processes"])]
    entrants += [Entrant("absent", "absent", missing="It is not installed.")]
    table = contest("Two rounds.", "bare", exam, entrants, options(tmp_path))
    with np.load(tmp_path / "bare.npz") as bare, np.load(tmp_path / "ours.npz") as ours:
        for i, start in enumerate(Work(exam.folder).start):
            moved = np.abs(bare[f"{i:03d}"] - start.numpy()).max()
            assert moved > 1e-4 and np.abs(bare[f"{i:03d}"] - ours[f"{i:03d}"]).max() < 1e-3 * moved
    assert table.checks == ["All did the same work: accuracy within 3%, distance moved within 2% of 'bare'."]
    assert [len(line.wall) for line in table.lines] == [1, 1, 0]
    assert "- absent: It is not installed." in table.markdown()


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_the_plain_network_computes_what_this_project_does(tmp_path: Path, kind: str) -> None:
    if kind == "cnn":
        x, y = np.random.default_rng(0).integers(0, 256, (300, 3, 32, 32), np.uint8), np.arange(300) % 10
        save(tmp_path, "cifar10", {"x_train": x, "y_train": y, "x_test": x, "y_test": y}, [str(k) for k in range(10)])
        exam = exam_of(tmp_path, kind, **{"data.name": "cifar10", "model.name": "cnn"})
    else:
        exam = exam_of(tmp_path, kind)
    work, about_ = Work(exam.folder), json.loads((exam.folder / "about.json").read_text())
    assert isinstance(exam.run.workload, Classify)
    body = exam.run.workload.architectures["dense"].part({})
    body.load_state_dict(
        {
            name: start.reshape(body.state_dict()[name].shape)
            for name, start in zip(about_["names"], work.start, strict=True)
        }
    )
    here = exam.run.worlds(SEED)
    x, _ = tensors(here.data, "test", np.arange(8))
    torch.testing.assert_close(work.network()(x), body(x), rtol=1e-4, atol=1e-4)
    device = int(np.unique(np.sort(work.cohorts))[-1])
    assert work.samples(device)[0].shape == (20, *here.data.input_shape)


def test_the_check_finds_entrants_that_did_other_work() -> None:
    found = {"bare": (0.80, 2.0), "same": (0.82, 2.03), "lazy": (0.80, 1.0), "wrong": (0.5, 2.0)}
    assert _same_work(found, "bare").startswith("NOT the same work: lazy, wrong ended elsewhere")


def test_an_entrant_that_ends_is_quoted(tmp_path: Path) -> None:
    runner = Runner(Entrant("lost", "lost"), Exam(tmp_path, exam_of(tmp_path).run), tmp_path)
    try:
        with pytest.raises(EntrantFailed, match=r"(?s)'lost' does not answer.*entrants\.lost"):
            runner.receive()
    finally:
        runner.kill()


def test_the_table_by_hand() -> None:
    lines = [
        Line("a", [1.0, 2.0, 4.0], [2.0, 2.0], 9.0),
        Line("b", [1.0], facts={"accuracy": "0.5"}),
        Line("c", missing="No."),
    ]
    table = Table("Title.", "a", lines, ["Checked."])
    first, second, third = table.rows()
    assert (first["seconds"], first["low"], first["high"], first["ratio"], first["first"]) == (
        "2",
        "1",
        "4",
        "1.00",
        "9",
    )
    assert (second["ratio"], second["cpu ratio"], second["found"]) == ("0.50", "", "accuracy 0.5")
    assert third["seconds"] == "" and table.markdown().splitlines()[-4:] == [
        "", "- Ratios are to 'a'.", "- Checked.", "- c: No."
    ]  # fmt: skip


def test_the_csv_holds_what_the_page_shows(tmp_path: Path) -> None:
    Table("Title.", "a", [Line("a", [1.0])]).write(tmp_path / "new", "name")
    head, row = (tmp_path / "new" / "name.csv").read_text().splitlines()
    assert head.startswith("what,seconds,low,high,repeats") and row.startswith("a,1,1,1,1")
    assert (tmp_path / "new" / "name.md").read_text().startswith("Title.")


def test_cpu_seconds_do_not_count_waiting() -> None:
    before, end = processor_seconds(os.getpid()), time.process_time() + 0.3
    while time.process_time() < end:
        pass
    time.sleep(0.2)
    assert 0.25 < processor_seconds(os.getpid()) - before < 0.45


def test_functions_take_turns(tmp_path: Path) -> None:
    seen: list[str] = []
    interleave({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, Options(2, 2, 1, tmp_path))
    assert "".join(seen) == "ab" + "aabb" * 2


def test_derivation_of_a_cohort_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derive, "DEVICES", 40)
    monkeypatch.setattr(derive, "FEW", 5)
    (check,) = derive.bench(options(tmp_path)).checks
    assert abs(float(check.split(": ")[1].split()[0])) < 1e-9


def test_aggregation_and_copying_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "UPDATES", 2)
    table = merge.bench(options(tmp_path))
    assert [line.what for line in table.lines] == ["copy", "merge", "merge of sub-models"]
    assert "bandwidth of copying" in table.checks[0]


def test_growth_fits_the_exponent_of_each_axis(tmp_path: Path) -> None:
    """Seconds grow as the clients of a round to the power of 1.5, and not with the clients that exist."""
    lines = [
        Line(f"{axis}: {n:,}", [9.0, 9.0], [seconds, 3 * seconds], facts={"MB": "700"})
        for axis, power in zip(growth.AXES, (1.5, 0, 1), strict=True)
        for n in (100, 10_000)
        for seconds in [n**power]
    ]
    assert [growth.exponent(lines, axis) for axis in growth.AXES] == pytest.approx([1.5, 0, 1])
    growth.Growth("One.", lines[0].what, lines).write(tmp_path, "growth")
    assert {path.name for path in tmp_path.iterdir()} == {"growth.csv", "growth.md", "growth.png"}


def test_growth_measures_a_process_for_each_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"clients in a round": ({"devices.count": 6, "cohort": 2}, {"devices.count": 6, "cohort": 4})}
    monkeypatch.setattr(growth, "AXES", few)
    table = growth.bench(options(tmp_path))
    assert [line.what for line in table.lines] == ["clients in a round: 2", "clients in a round: 4"]
    assert all(float(line.facts["MB"]) > 100 and len(line.wall) == 1 for line in table.lines)
    assert "with n clients in a round" in table.checks[0]


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["bench", *arguments])


def test_the_command_lists_and_refuses() -> None:
    listed = command().output
    assert all(name in listed and about(name).split(",")[0] in listed for name in BENCHMARKS)
    refused = command("w3")
    assert refused.exit_code and "w3" in str(refused.exception) and "w2" in str(refused.exception)


def test_the_command_writes_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(w1, "bench", lambda o: Table("One.", "x", [Line("x", [float(o.blocks * o.rounds)])]))
    done = command("w1", "--blocks", "2", "--rounds", "3", "--out", str(tmp_path))
    assert (
        done.exit_code == 0
        and "One." in done.output
        and (tmp_path / "w1.csv").read_text().splitlines()[1][:4] == "x,6,"
    )
