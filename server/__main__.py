"""Entry point of `python -m server` and of the console script. The only place that may end the process."""

import gc
import sys

gc.disable()  # imports create 100,000 lasting objects; collecting among them takes a tenth of the start-up time

from server.commands.command_line import run  # noqa: E402 - the import that gc.disable() speeds up


def main() -> None:
    gc.freeze()
    gc.enable()
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
