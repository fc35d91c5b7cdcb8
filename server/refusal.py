"""Why a server does not start: every reason is a line with its remedy, and never holds a secret."""


class CannotStart(Exception):
    """What is configured cannot work, and waiting will not help."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults
