"""Stock Flower: `flwr run` of the app in ``stock``, whose ServerApp asks us before every round."""

import json
import shutil
import sys
import tempfile
import threading
from multiprocessing.connection import Listener
from pathlib import Path

from experiments.bench.entrants.work import Enough, Turns
from experiments.hermetic import flwr_run


def main(folder: str, to: str, client: str) -> None:
    turns, here = Turns(), Path(__file__).parent
    devices = json.loads((Path(folder) / "about.json").read_text())["settings"]["devices"]
    with tempfile.TemporaryDirectory() as scratch, Listener(("127.0.0.1", 0)) as listener:
        app = shutil.copytree(here / "stock", Path(scratch) / "app", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(here / "work.py", app / "work.py")
        config = {"folder": folder, "to": to, "port": listener.address[1], "client": client}
        failed: list[BaseException] = []

        def run() -> None:
            try:
                flwr_run(app, config, devices, on_line=lambda line: print(line, file=sys.stderr))
            except BaseException as error:
                failed.append(error)
                print(error, file=sys.stderr)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        with listener.accept() as line:
            try:
                while True:
                    turns.next()
                    line.send("round")
                    line.recv()
            except Enough:
                line.send("enough")
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3])
