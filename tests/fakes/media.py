"""Small files of every kind that is taken: as much of each as tells what it is."""

import struct
import zlib
from typing import NamedTuple


class Sample(NamedTuple):
    data: bytes
    content_type: str


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int = 1, height: int = 1) -> bytes:
    """A whole picture, all black."""
    rows = zlib.compress(b"".join(b"\0" + bytes(3 * width) for _ in range(height)))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def wav(samples: int = 100) -> bytes:
    """Silence, 16 bit, mono, 16 kHz."""
    size = 2 * samples
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", 36 + size, b"WAVE") + form + struct.pack("<4sI", b"data", size) + bytes(size)


def _box(brand: bytes, *others: bytes) -> bytes:
    body = brand + b"\0\0\2\0" + b"".join(others)
    return struct.pack(">I4s", 8 + len(body), b"ftyp") + body + bytes(32)


def _ogg(packet: bytes) -> bytes:
    return b"OggS\0\2" + bytes(20) + bytes([1, len(packet)]) + packet + bytes(32)


def _ebml(doc_type: bytes) -> bytes:
    return b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\x82" + bytes([0x80 | len(doc_type)]) + doc_type + bytes(32)


PNG, WAV = png(), wav()
SAMPLES = {
    "png": Sample(PNG, "image/png"),
    "jpeg (JFIF)": Sample(b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1" + bytes(32), "image/jpeg"),
    "jpeg (Exif)": Sample(b"\xff\xd8\xff\xe1\0\x10Exif\0\0" + bytes(32), "image/jpeg"),
    "jpeg (bare)": Sample(b"\xff\xd8\xff\xdb\0\x43\0" + b"\1" * 64, "image/jpeg"),
    "webp": Sample(b"RIFF\x24\0\0\0WEBPVP8 " + bytes(32), "image/webp"),
    "gif": Sample(b"GIF89a" + bytes(32), "image/gif"),
    "bmp": Sample(b"BM" + bytes(8) + b"\x36\0\0\0\x28\0\0\0" + bytes(32), "image/bmp"),
    "tiff": Sample(b"II*\0\x08\0\0\0" + bytes(32), "image/tiff"),
    "avif": Sample(_box(b"avif", b"mif1"), "image/avif"),
    "heic": Sample(_box(b"heic", b"mif1"), "image/heic"),
    "wav": Sample(WAV, "audio/wav"),
    "mp3 (ID3)": Sample(b"ID3\3\0\0\0\0\0\x0a" + bytes(32), "audio/mpeg"),
    "mp3 (MPEG 1)": Sample(b"\xff\xfb\x90\x64" + bytes(64), "audio/mpeg"),
    "mp3 (MPEG 2)": Sample(b"\xff\xf3\x40\xc0" + bytes(64), "audio/mpeg"),
    "aac": Sample(b"\xff\xf1\x50\x80\x01\x7f\xfc" + bytes(32), "audio/aac"),
    "flac": Sample(b"fLaC\0\0\0\x22" + bytes(34), "audio/flac"),
    "ogg (Vorbis)": Sample(_ogg(b"\1vorbis" + bytes(23)), "audio/ogg"),
    "ogg (Opus)": Sample(_ogg(b"OpusHead\1" + bytes(10)), "audio/ogg"),
    "m4a": Sample(_box(b"M4A ", b"mp42", b"isom"), "audio/mp4"),
    "mp4": Sample(_box(b"isom", b"iso2", b"avc1"), "video/mp4"),
    "webm": Sample(_ebml(b"webm"), "video/webm"),
}
OTHERS = {
    "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
    "html": b"<!DOCTYPE html><html>",
    "pdf": b"%PDF-1.7\n",
    "zip": b"PK\3\4" + bytes(32),
    "text": b"hello, world",
    "text that begins like a bitmap": b"BMW and other makes of cars, none of which is a picture",
    "matroska": _ebml(b"matroska"),
    "ogg (Theora)": _ogg(b"\x80theora" + bytes(20)),
    "quicktime": _box(b"qt  ", b"qt  "),
    "avi": b"RIFF\0\0\0\0AVI LIST" + bytes(32),
    "utf-16": b"\xff\xfeh\0i\0 \0t\0h\0e\0r\0e\0",
    "one byte": b"\xff",
}
"""What is none of them."""
