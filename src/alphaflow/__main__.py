"""`alphaflow` and `python -m alphaflow`."""

import sys


def main() -> None:
    """Run the command line and exit with its status."""
    from .cli import run

    status = run(sys.argv[1:])
    if "alphaflow.training.channels" in sys.modules:
        from .training.channels import end_process

        end_process(status)
    sys.exit(status)


if __name__ == "__main__":
    main()
