"""Entry point of `python -m server` and of the console script. The only place that may end the process."""

import gc
import sys

gc.disable()  # loading makes 100,000 objects that all stay: looking through them again and again is a tenth of a start

from server.commands.command_line import run  # noqa: E402 - after the line above, which is for it


def main() -> None:
    gc.freeze()
    gc.enable()
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
