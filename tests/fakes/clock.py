"""Time that a test moves by hand."""


class Clock:
    """Called, it gives `now`, in seconds. It can also replace the module `time` in a module that reads `monotonic`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now
