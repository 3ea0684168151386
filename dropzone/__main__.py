"""The program: ``dropzone``, and ``python -m dropzone``, which is the same."""

from __future__ import annotations

import gc
from typing import NoReturn

_GARBAGE = 50_000  # objects until it is looked for: loading modules makes none, and looking was a tenth of an answer


def main() -> NoReturn:
    """Run it. Ends the process with one of the codes in `cli.exits`."""
    gc.set_threshold(_GARBAGE)  # before anything is loaded
    from dropzone import cli

    cli.main()


if __name__ == "__main__":
    main()
