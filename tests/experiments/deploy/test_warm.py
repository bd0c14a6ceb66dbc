"""The warm process that answers messages in place of Flower's command, without what it loads first."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from experiments.deploy import launcher, warm

pytestmark = pytest.mark.skipif(not warm.POSSIBLE, reason="needs Linux")
SERVER = textwrap.dedent("""
    import json, os, random, sys, time
    from pathlib import Path
    from experiments.deploy import warm
    import numpy, torch

    seen = []

    def run():
        seen.append(sys.argv[1])
        if sys.argv[1] == "sleep":
            print(os.getpid(), flush=True)
            time.sleep(60)
        if sys.argv[1] == "fail":
            raise RuntimeError("as ordered")
        draws = random.random(), numpy.random.rand(), torch.rand(1).item()
        print(json.dumps([seen, sys.argv, os.getcwd(), os.environ.get("WHO"), sys.stdin.read(), draws]))
        sys.exit(int(sys.argv[1]))

    warm.write_launcher(Path(sys.argv[1]))
    warm.serve(warm.listening(Path(sys.argv[1])), run)
""")
Ask = Callable[..., "subprocess.Popen[str]"]


def ended(pid: int) -> bool:
    """Whether a process ends within ten seconds."""
    stat, end = Path(f"/proc/{pid}/stat"), time.monotonic() + 10
    while time.monotonic() < end:
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] in "ZX":
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Starts the launcher of a warm process as Flower does: by name."""
    place = tmp_path_factory.mktemp("warm")
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(place)])
    while not (place / "socket").exists():
        assert server.poll() is None
        time.sleep(0.05)

    def _ask(*arguments: str, folder: Path = place, who: str = "") -> "subprocess.Popen[str]":
        environment = os.environ | warm.environment(place) | {"WHO": who}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [warm.COMMAND, *arguments], cwd=folder, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )

    yield _ask
    server.kill()
    server.wait()


def test_a_fork_is_what_the_launcher_was_and_knows_nothing_of_earlier_ones(ask: Ask, tmp_path: Path) -> None:
    draws = []
    for code in (3, 0):
        process = ask(str(code), "--token", "a b'c", folder=tmp_path, who=f"caller {code}")
        out, _ = process.communicate("words")
        seen, arguments, folder, who, words, drawn = json.loads(out)
        assert process.returncode == code and seen == [str(code)]
        assert arguments == [warm.COMMAND, str(code), "--token", "a b'c"]
        assert (folder, who, words) == (str(tmp_path), f"caller {code}", "words")
        draws.append(drawn)
    assert all(a != b for a, b in zip(*draws, strict=True))


def test_forks_run_side_by_side_and_end_alone(ask: Ask) -> None:
    slow, other = ask("sleep"), ask("0")
    assert slow.stdout
    pid = int(slow.stdout.readline())
    other.communicate("")
    assert other.returncode == 0 and slow.poll() is None
    os.kill(pid, signal.SIGKILL)
    slow.communicate()
    assert slow.returncode == 128 + signal.SIGKILL
    failed = ask("fail")
    assert "RuntimeError: as ordered" in failed.communicate("")[1] and failed.returncode == 1


def test_a_launcher_that_is_killed_takes_its_fork_with_it(ask: Ask) -> None:
    process = ask("sleep")
    assert process.stdout
    pid = int(process.stdout.readline())
    process.kill()
    process.communicate()
    assert ended(pid)


def test_without_a_warm_process_the_launcher_is_flowers_command() -> None:
    words = [sys.executable, launcher.__file__, "--help"]
    done = subprocess.run(words, env=os.environ | {launcher.ADDRESS: "/nowhere"}, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: flwr-clientapp")


@pytest.mark.parametrize(("end", "code"), [("exit 7", 7), ("kill -9 $$", -9)])
def test_the_warm_process_ends_with_the_command(end: str, code: int, tmp_path: Path) -> None:
    """The command waits for the warm process, its first child (the second is `cat`), and uses it."""
    script = f"""
        until [ -e "${launcher.ADDRESS}" ]; do sleep 0.1; done
        cat /proc/$$/task/$$/children > children
        flwr-clientapp --help > help
        {end}
    """
    words = [sys.executable, "-m", "experiments.deploy.warm", shutil.which("sh") or "", "-c", script]
    environment = os.environ | {"PYTHONPATH": str(Path(warm.__file__).parents[2]), "TMPDIR": str(tmp_path)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, timeout=120)
    assert done.returncode == code
    assert (tmp_path / "help").read_text().startswith("usage: flwr-clientapp")
    child, _ = map(int, (tmp_path / "children").read_text().split())
    assert ended(child) and not list(tmp_path.glob("driftfed-*"))
