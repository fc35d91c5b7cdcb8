"""Small valid files: a striped image, a tone."""

import hashlib
import io
import math
import struct
import wave
import zlib

NOTE = "Offline model, not AI"
_RATE = 8000
"""Samples per second."""


def make_png(text: str, *, width: int = 256, height: int = 256) -> bytes:
    """An image of two colours derived from `text`, with its origin in a comment."""
    colours = hashlib.sha256(text.encode()).digest()[:6]
    stripe = b"\0" + (b"\xf0" * (-(-width // 8)))
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 3, 0, 0, 0)),
            _chunk(b"PLTE", colours),
            _chunk(b"tEXt", b"Comment\0" + NOTE.encode()),
            _chunk(b"IDAT", zlib.compress(stripe * height)),
            _chunk(b"IEND", b""),
        )
    )


def make_mask(*, width: int = 64, height: int = 64) -> bytes:
    """A white image."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = (b"\0" + b"\xff" * (-(-width // 8))) * height
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def make_wav(text: str) -> bytes:
    """A tone with a pitch derived from `text`, a quarter of a second per word, up to ten seconds."""
    seconds = min(10.0, max(1, len(text.split())) / 4)
    pitch = 220 + hashlib.sha256(text.encode()).digest()[0]
    period = bytes(int(128 + 60 * math.sin(2 * math.pi * pitch * at / _RATE)) for at in range(_RATE))
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(1)
        sound.setframerate(_RATE)
        sound.writeframes((period * 10)[: int(seconds * _RATE)])
    return file.getvalue()
