"""Errors a user can cause and can mend, and how the command-line tools show them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn


class LesionsegError(Exception):
    """A foreseeable problem: the message names the file, what was expected and found, and the way out."""


def install_extra(name: str) -> str:
    """How to install an extra of setup.py, for messages. Not by the package's name: it is in no package index."""
    return f"in lesionseg's folder, pip install '.[{name}]'"


_WHOLE = (
    "this needs the whole of lesionseg, which `make setup` installs (see README). Without it, predict with a model of "
    "tools/export_model.py"
)
# Module -> what to do where it is missing, for those that an installation may well lack.
_MISSING = dict.fromkeys(("torch", "torchvision", "detectron2"), _WHOLE)
_MISSING |= dict.fromkeys(("ray", "pyarrow"), install_extra("cluster"))


def run_tool(main: Callable[[], int | None]) -> None:
    """Run a tool's ``main`` and exit with its return code (None counts as 0).

    A LesionsegError becomes one `error: ...` line on stderr and exit code 2, and so does a module of _MISSING that is
    not installed, or an OSError; Ctrl-C becomes exit code 130. Any other exception is a bug of ours and keeps its traceback.
    """
    try:
        code = main()
    except LesionsegError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        if error.name not in _MISSING:
            raise
        _fail(f"{error.name} is not installed: {_MISSING[error.name]}")
    except OSError as error:  # no such folder, a file where a folder should be, no room, no permission
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        sys.exit(130)
    sys.exit(code or 0)


def _fail(message: str) -> NoReturn:
    sys.stdout.flush()
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
