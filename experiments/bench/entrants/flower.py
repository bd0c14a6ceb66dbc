"""Stock Flower: `flwr run` of the app in ``stock``, whose ServerApp asks this process before every round."""

import json
import os
import shutil
import sys
import tempfile
import threading
from multiprocessing.connection import Listener
from pathlib import Path

from experiments.bench.entrants.work import Stop, Turns
from experiments.hermetic import FlowerRunFailed, flwr_run


def main(folder: str, to: str, client: str) -> None:
    turns, here = Turns(), Path(__file__).parent
    devices = json.loads((Path(folder) / "about.json").read_text())["settings"]["devices.count"]
    with tempfile.TemporaryDirectory() as scratch, Listener(("127.0.0.1", 0)) as listener:
        app = shutil.copytree(here / "stock", Path(scratch) / "app", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(here / "work.py", app / "work.py")
        config = {"folder": folder, "to": to, "port": listener.address[1], "client": client}

        def run() -> None:
            try:
                flwr_run(app, config, devices, on_line=lambda line: print(line, file=sys.stderr))
            except FlowerRunFailed as error:
                print(error, file=sys.stderr, flush=True)
                os._exit(1)  # the main thread waits for a connection that will not come

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        with listener.accept() as line:
            try:
                while True:
                    turns.next()
                    line.send("round")
                    line.recv()
            except Stop:
                line.send("stop")
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3])
