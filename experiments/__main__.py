"""``python -m experiments``."""

import sys

if __name__ == "__main__":
    if sys.argv[1:2] == ["deploy"]:
        from experiments.deploy.commands import main
    else:
        from experiments.cli import main
    main()
