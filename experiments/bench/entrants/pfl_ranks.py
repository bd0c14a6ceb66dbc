"""pfl-research in several processes that communicate over gloo, started as `torchrun` does."""

import os
import socket
import subprocess
import sys


def main(folder: str, to: str, size: int) -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = []
    for rank in range(size):
        where: dict[str, object] = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        where |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "bench"}
        ranks.append(
            subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "experiments.bench.entrants.pfl_research", folder, to],
                env=os.environ | {name: str(value) for name, value in where.items()},
                stdin=subprocess.DEVNULL if rank else None,
                stdout=sys.stderr if rank else None,
            )
        )
    return max(process.wait() for process in ranks)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
