"""``python -m experiments``."""

import sys

if __name__ == "__main__":
    try:
        if sys.argv[1:2] == ["deploy"]:
            from experiments.deploy.commands import main
        elif sys.argv[1:2] == ["doctor"]:
            from experiments.doctor import main
        else:
            from experiments.cli.main import main
    except KeyboardInterrupt:  # while modules load: nothing has begun
        sys.exit(130)
    main()
