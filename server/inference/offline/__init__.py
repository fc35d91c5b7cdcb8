"""The offline test double of the models, for app developers. Each model behaves as its name says. It is not AI."""

from server.inference.offline.double import LONG_STREAM_PAUSE_S, LONG_STREAM_WORDS, Offline
from server.inference.offline.sample_results import INTRODUCTION

__all__ = ["INTRODUCTION", "LONG_STREAM_PAUSE_S", "LONG_STREAM_WORDS", "Offline"]
