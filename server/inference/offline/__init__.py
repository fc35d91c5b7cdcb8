"""A test double of the models, for developers of apps: each behaves as its name says. It is not AI and says so."""

from server.inference.offline.double import LONG_STREAM_PAUSE_S, LONG_STREAM_WORDS, Offline
from server.inference.offline.sample_results import INTRODUCTION

__all__ = ["INTRODUCTION", "LONG_STREAM_PAUSE_S", "LONG_STREAM_WORDS", "Offline"]
