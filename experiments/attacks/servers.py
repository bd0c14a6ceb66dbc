"""Messages of a hostile server to clients: paths, pickles, sizes, wrong types, missing and unknown fields.

The ClientApp must answer or say why not, soon, write only below its state folder, unpickle nothing, and go on.
"""

import os
import pickle
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from experiments.attacks import Attack, Figures, Show, quiet
from experiments.attacks.mutations import config, figure, model, mutate_array, record, word
from experiments.attacks.round import LIAR, Round
from fl.messages import records

METHODS = ("fedavg", "heterofl", "eclm", "scaffold")
KINDS = ("query", "train", "evaluate", "train.split")
PATHS = (
    "..",
    "../evil",
    "../../evil",
    "/tmp/driftfed-evil",
    "a/b",
    "~/evil",
    "evil\0",
    "",
    ".",
    "x" * 5000,
    "con",
    "*",
)
KEYS = (
    "run method device seed round step moment what architecture epochs masked shares rate keep rates blend search "
    "reselect look-back size.block.modules size.block.hidden size.out size.nonsense held.block.modules upload steps"
).split()
WHAT = ("hello", "goodbye", "limits", "importance", "nothing", "")
SLOW_S = 20.0  # no answer takes so long
MEMORY = 4 << 30  # bytes that a message may make a client ask for
WRITES = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.link", "os.symlink", "os.truncate"}
NEVER = {"pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect"}


class Evil:
    """An object that creates a file when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


class Watch:
    """Notes what this process does to files outside of a folder, and whatever it unpickles or starts.

    Args:
        allowed: the folder.
    """

    def __init__(self, allowed: Path):
        self.allowed, self.on = str(allowed), False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)  # stays until the process ends

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch for a while; `seen` is what was noted."""
        self.seen, self.on = [], True
        try:
            yield
        finally:
            self.on = False

    def _hook(self, event: str, values: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in NEVER:
            self.seen.append(f"{event} {values[:2]}")
        elif event in WRITES or (event == "open" and self._writes(values)):
            path, relative = values[0], event != "open" and values[-1] != -1  # to a folder that `shutil.rmtree` opened
            if not relative and isinstance(path, str | bytes | os.PathLike) and not self._below(os.fsdecode(path)):
                self.seen.append(f"{event} {os.fsdecode(path)[:80]}")

    def _writes(self, values: tuple[Any, ...]) -> bool:
        _, mode, flags = values
        return bool((isinstance(mode, str) and set(mode) & set("wax+")) or (flags or 0) & (os.O_WRONLY | os.O_RDWR))

    def _below(self, path: str) -> bool:
        found = os.path.realpath(path)
        return found == self.allowed or found.startswith((self.allowed + os.sep, "/dev/"))


def hostile(dice: random.Random, honest: RecordDict, mark: Path) -> RecordDict:
    """Draw a message: an honest one with changes."""
    content = RecordDict(dict(honest))
    task: dict[str, Any] = dict(content[records.TASK])
    for _ in range(dice.randint(0, 2)):
        task[dice.choice(KEYS)] = _value(dice)
    if dice.random() < 0.3:
        task[dice.choice(["run", "method", "what", "architecture"])] = dice.choice([*PATHS, *WHAT])
    if dice.random() < 0.3:
        task.pop(dice.choice(list(task)), None)
    if dice.random() < 0.3 and any(isinstance(of, ArrayRecord) for of in content.values()):
        mutate_array(dice, content)
    content[records.TASK] = ConfigRecord(task) if dice.random() < 0.97 else record(dice)
    if dice.random() < 0.3:
        name = dice.choice([*PATHS, records.MODEL, records.SELECTOR, "tensors.variate", "tensors.x", word(dice)])
        payload = pickle.dumps(Evil(mark))
        evil = Array(dice.choice(["float32", "object"]), (1,), dice.choice(["numpy.ndarray", "pickle"]), payload)
        key = dice.choice([*PATHS, "w"])
        fakes: list[Any] = [ArrayRecord({key: evil}), model(dice), config(dice)]
        content[name] = dice.choice(fakes)
    return content


def _value(dice: random.Random) -> Any:
    return dice.choice([
        figure(dice), dice.choice(PATHS), word(dice), True, b"\x80\x04", 10**9, 10**18, -1, 1e308, [10**9], [0] * 10**5,
    ])  # fmt: skip


def attack(size: int, seed: int, folder: Path, show: Show) -> Figures:
    """Send hostile messages to clients of each of the `METHODS`, and honest ones in between."""
    figures, folder = Figures(), folder.resolve()
    state, mark = folder / "state", folder / "unpickled"
    beside = folder / "beside"
    beside.write_text("the user's")
    state.mkdir()
    watch, at = Watch(state), 0
    with quiet(), limited(MEMORY):
        for method in METHODS:
            round_ = Round(method, state)
            every = [kind for kind in KINDS if (kind, LIAR) in round_.engine.asked]
            for at in range(-(-size // len(METHODS))):
                if at % 100 == 0:
                    show(f"{method} {at}")
                dice = random.Random(f"{seed} {method} {at}")
                honest = round_.engine.asked[dice.choice(every), LIAR].content
                content = hostile(dice, honest, mark)
                kind = dice.choice(KINDS)
                seen, fault = _send(round_, kind, content, watch)
                if not fault and at % 50 == 0:
                    good = round_.engine.asked["train", LIAR]
                    task = ConfigRecord({**good.content[records.TASK], "run": "honest"})  # type: ignore[dict-item]
                    _, fault = _send(round_, "train", RecordDict({**good.content, records.TASK: task}), watch, True)
                if not fault and sorted(path.name for path in folder.iterdir()) != ["beside", "state"]:
                    fault = f"there are {', '.join(path.name for path in folder.iterdir())}"
                figures.add({seen: 1}, fault and f"{method}, message {at} of seed {seed}, {kind}: {fault}")
    if beside.read_text() != "the user's":
        figures.faults.append("a file beside the state folder was changed")
    return figures


def _send(round_: Round, kind: str, content: RecordDict, watch: Watch, must: bool = False) -> tuple[str, str]:
    """Send a message; return what came, and what is wrong with that; ``must``: an error is wrong too."""
    message = Message(content, LIAR, kind)
    message.metadata.__dict__["_message_id"] = "1"
    started = time.monotonic()
    try:
        with watch.watching():
            reply = round_.grid.worker_server.reply(message)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "ended", f"the client ended with {type(error).__name__}: {error}"
    took = time.monotonic() - started
    seen = "errors" if reply.has_error() else "answers"
    if watch.seen:
        return seen, f"the client did {watch.seen[0]}"
    if took > SLOW_S:
        return seen, f"it took {took:.0f} s"
    return seen, f"an honest message fails: {str(reply.error.reason)[-200:]}" if must and reply.has_error() else ""


@contextmanager
def limited(extra: int) -> Iterator[None]:
    """Let this process grow by so many bytes at most."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + extra, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


ATTACKS = {"servers": Attack("hostile messages to clients", attack, {"smoke": 200, "full": 20_000}, "messages")}
