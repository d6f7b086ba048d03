"""Errors a user can cause and can mend, and how the command-line tools show them."""

from __future__ import annotations

import sys
from collections.abc import Callable


class LesionsegError(Exception):
    """A foreseeable problem: the message names the file, what was expected and found, and the way out."""


def run_tool(main: Callable[[], int | None]) -> None:
    """Run a tool's ``main`` and exit with its return code (None counts as 0).

    A LesionsegError becomes one `error: ...` line on stderr and exit code 2; Ctrl-C becomes exit code 130.
    Any other exception is a bug of ours and keeps its traceback.
    """
    try:
        code = main()
    except LesionsegError as error:
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        sys.exit(130)
    sys.exit(code or 0)
