"""Ties a child to our life where `setpriv` is missing, then becomes the child's program.

Run by `process_tree.find_lifeline` as a file, or as a verb of a frozen build: `PID PROGRAM …`.
"""

import ctypes
import os
import sys


def main(words: list[str] | None = None) -> int:
    """Have the kernel kill this process with its parent PID, and become PROGRAM.

    Returns 1 when the parent has gone in between. Raises OSError when PROGRAM cannot be run.
    """
    parent_pid, *argv = words if words is not None else sys.argv[1:]
    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL
    if os.getppid() == int(parent_pid):
        os.execv(argv[0], argv)
    return 1


if __name__ == "__main__":
    sys.exit(main())
