"""`alphaflow` and `python -m alphaflow`."""

import contextlib
import os
import sys
from pathlib import Path


def main() -> None:
    """Run the command line and exit with its status."""
    leave_out_here()
    from .cli import run

    status = run(sys.argv[1:])
    if "alphaflow.parallel.channels" in sys.modules:
        from .parallel.channels import end_process

        end_process(status)
    sys.exit(status)


def leave_out_here() -> None:
    """Import nothing from the working folder, where runs and data lie.

    `python -m` looks there first, and an empty word in PYTHONPATH means it, too: a run called like a package, or a
    random.py of somebody's, would be taken for what some library imports, or asks after, by that name.
    """
    with contextlib.suppress(OSError):  # of a folder that is gone
        here = Path.cwd()
        if Path(__file__).resolve().parent.parent == here.resolve():
            return  # the package itself is found there
        if sys.path and not sys.flags.safe_path and Path(sys.path[0]) == here:
            del sys.path[0]
        said = os.environ.get("PYTHONPATH")
        if said and "" in said.split(os.pathsep):
            sys.path[:] = [one for one in sys.path if one and Path(one) != here]


if __name__ == "__main__":
    main()
