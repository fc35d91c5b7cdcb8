"""ai-sdk-server: accepted model requests are never lost and have exactly one outcome."""

__version__ = "0.1.0"
