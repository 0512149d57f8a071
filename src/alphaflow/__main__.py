"""`alphaflow` and `python -m alphaflow`."""

import sys


def main() -> None:
    """Run the command line and exit with its status."""
    from .cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
