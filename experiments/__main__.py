"""``python -m experiments``, and the command ``driftfed``."""

import sys


def main() -> None:
    """Load what a command needs, and run it."""
    try:
        if sys.argv[1:2] == ["deploy"]:
            from experiments.deploy.commands import main as command
        elif sys.argv[1:2] == ["doctor"]:
            from experiments.doctor import main as command
        else:
            from experiments.cli.main import main as command
    except KeyboardInterrupt:  # while modules load: nothing has begun
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
