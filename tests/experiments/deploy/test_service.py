"""Processes that are found again, and end with all that they started."""

import json
import os
import time

import pytest

from experiments.deploy.identity import DeployError
from experiments.deploy.service import Service, services
from experiments.hermetic import lives

WORK = "print('at work', flush=True); time.sleep(600)"
CHILD = f"import subprocess, time; subprocess.Popen(['sleep', '600']); {WORK}"
APART = f"import subprocess, time; print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid); {WORK}"
STUBBORN = f"import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); {WORK}"
GRAB = """
import time
try:
    bytearray(400_000_000)
    print("granted: at work", flush=True)
except MemoryError:
    print("refused: at work", flush=True)
time.sleep(600)
"""


def at_work(log: str) -> bool:
    return "at work" in log


def test_a_service_is_started_once_found_again_and_ends_with_its_children(tmp_path) -> None:
    service = Service(tmp_path / "supernodes" / "pi0")
    assert service.start(["python", "-c", CHILD], at_work)
    try:
        pid = service.pid()
        assert pid and pid != os.getpid()
        again = Service(tmp_path / "supernodes" / "pi0")
        assert again.pid() == pid
        assert not again.start(["python", "-c", CHILD], at_work)
        assert [s.name for s in services(tmp_path)] == ["pi0"]
    finally:
        assert service.stop()
    assert not lives(pid)
    assert service.pid() is None
    assert not service.stop()


def test_a_child_in_a_session_of_its_own_ends_too(tmp_path) -> None:
    service = Service(tmp_path / "superlink")
    assert service.start(["python", "-c", APART], at_work)
    child = int((service.folder / "log").read_text().split()[0])
    assert lives(child) and service.stop() and not lives(child)


def test_a_service_that_ends_says_why(tmp_path) -> None:
    service = Service(tmp_path / "pi0")
    with pytest.raises(DeployError, match="pi0 ended; the end of its log:\nno way"):
        service.start(["python", "-c", "raise SystemExit('no way')"], at_work)
    assert service.pid() is None
    with pytest.raises(DeployError, match="another way") as error:  # and not the log of an earlier start
        service.start(["python", "-c", "raise SystemExit('another way')"], at_work)
    assert "no way" not in str(error.value)


def test_a_service_that_hangs_is_ended(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("experiments.deploy.service.BOOT_S", 0.5)
    service = Service(tmp_path / "pi0")
    with pytest.raises(DeployError, match="pi0 is not ready after 0 s"):
        service.start(["python", "-c", "import time; time.sleep(600)"], at_work)
    assert service.pid() is None


def test_ctrl_c_while_it_starts_ends_it(tmp_path) -> None:
    service, pids = Service(tmp_path / "pi0"), []

    def ready(log: str) -> bool:
        pids.append(service.pid())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        service.start(["python", "-c", CHILD], ready)
    assert pids[0] and not lives(pids[0]) and service.pid() is None


def test_a_process_that_got_the_number_since_is_left_alone(tmp_path) -> None:
    service = Service(tmp_path / "pi0")
    service.folder.mkdir()
    (service.folder / "pid.json").write_text(json.dumps({"pid": os.getpid(), "since": "1"}))
    assert service.pid() is None
    assert not service.stop()  # else this test would not end


def test_the_memory_limit_is_the_kernels(tmp_path) -> None:
    for limit, said in ((0, "granted"), (300_000_000, "refused")):
        service = Service(tmp_path / said)
        try:
            service.start(["python", "-c", GRAB], at_work, limit)
            assert said in (service.folder / "log").read_text()
        finally:
            service.stop()


def test_stop_is_patient_but_not_forever(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("experiments.deploy.service.STOP_S", 0.5)
    service = Service(tmp_path / "pi0")
    service.start(["python", "-c", STUBBORN], at_work)
    pid, begun = service.pid(), time.monotonic()
    assert pid and service.stop() and not lives(pid)
    assert time.monotonic() - begun < 5
