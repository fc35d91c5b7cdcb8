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


def box(kind: bytes, *content: bytes) -> bytes:
    """A box of an ISO media file."""
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _brand(brand: bytes, *others: bytes) -> bytes:
    return box(b"ftyp", brand, b"\0\0\2\0", *others)


def _iso(brand: bytes, *others: bytes) -> bytes:
    """As phones write it: the data follow the brand, and the index is at the end, here beyond the bytes that decide."""
    return _brand(brand, *others) + box(b"mdat", bytes(100_000)) + _index(b"soun")


def _index(*tracks: bytes) -> bytes:
    """The index of a film with tracks of these kinds (`soun`, `vide`)."""
    handlers = (box(b"hdlr", bytes(8), kind, bytes(12)) for kind in tracks)
    return box(b"moov", box(b"mvhd", bytes(100)), *(box(b"trak", box(b"mdia", handler)) for handler in handlers))


def id3(size: int, *, has_footer: bool = False) -> bytes:
    """An ID3v2.4 tag whose frames have this many bytes."""
    encoded = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\4\0" + bytes([0x10 if has_footer else 0]) + encoded + bytes(size + 10 * has_footer)


def _ogg(packet: bytes) -> bytes:
    return b"OggS\0\2" + bytes(20) + bytes([1, len(packet)]) + packet + bytes(32)


def _ebml(doc_type: bytes, *codecs: bytes) -> bytes:
    head = b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\x82" + bytes([0x80 | len(doc_type)]) + doc_type
    return head + b"".join(b"\x86" + bytes([0x80 | len(codec)]) + codec for codec in codecs) + bytes(32)


PNG, WAV = png(), wav()
ADTS = b"\xff\xf1\x50\x80\x01\x7f\xfc" + bytes(32)
SAMPLES = {
    "png": Sample(PNG, "image/png"),
    "jpeg (JFIF)": Sample(b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1" + bytes(32), "image/jpeg"),
    "jpeg (Exif)": Sample(b"\xff\xd8\xff\xe1\0\x10Exif\0\0" + bytes(32), "image/jpeg"),
    "jpeg (bare)": Sample(b"\xff\xd8\xff\xdb\0\x43\0" + b"\1" * 64, "image/jpeg"),
    "webp": Sample(b"RIFF\x24\0\0\0WEBPVP8 " + bytes(32), "image/webp"),
    "gif": Sample(b"GIF89a" + bytes(32), "image/gif"),
    "bmp": Sample(b"BM" + bytes(8) + b"\x36\0\0\0\x28\0\0\0" + bytes(32), "image/bmp"),
    "tiff": Sample(b"II*\0\x08\0\0\0" + bytes(32), "image/tiff"),
    "tiff (big-endian)": Sample(b"MM\0*\0\0\0\x08" + bytes(32), "image/tiff"),
    "tiff (BigTIFF)": Sample(b"II+\0\x08\0\0\0" + bytes(32), "image/tiff"),
    "avif": Sample(_iso(b"avif", b"mif1"), "image/avif"),
    "avif (sequence)": Sample(_iso(b"avis", b"avif", b"msf1"), "image/avif"),
    "avif (mif1)": Sample(_iso(b"mif1", b"miaf", b"avif"), "image/avif"),
    "heic": Sample(_iso(b"heic", b"mif1"), "image/heic"),
    "heic (10 bit)": Sample(_iso(b"heix", b"mif1"), "image/heic"),
    "heic (sequence)": Sample(_iso(b"hevc", b"msf1"), "image/heic"),
    "heic (mif1)": Sample(_iso(b"mif1", b"heic"), "image/heic"),
    "heic (msf1)": Sample(_iso(b"msf1", b"hevc"), "image/heic"),
    "wav": Sample(WAV, "audio/wav"),
    "wav (RF64)": Sample(b"RF64\xff\xff\xff\xffWAVEds64" + bytes(32), "audio/wav"),
    "aiff": Sample(b"FORM\0\0\0\x24AIFFCOMM" + bytes(32), "audio/aiff"),
    "aiff (compressed)": Sample(b"FORM\0\0\0\x24AIFCFVER" + bytes(32), "audio/aiff"),
    "caf": Sample(b"caff\0\1\0\0desc" + bytes(40), "audio/x-caf"),
    "amr": Sample(b"#!AMR\n\x3c" + bytes(31), "audio/amr"),
    "amr (wide band)": Sample(b"#!AMR-WB\n\x44" + bytes(60), "audio/amr-wb"),
    "mp3 (ID3)": Sample(b"ID3\3\0\0\0\0\0\x0a" + bytes(32), "audio/mpeg"),
    "mp3 (ID3 with a cover)": Sample(id3(200_000) + b"\xff\xfb\x90\x64" + bytes(64), "audio/mpeg"),
    "mp3 (MPEG 1)": Sample(b"\xff\xfb\x90\x64" + bytes(64), "audio/mpeg"),
    "mp3 (MPEG 2)": Sample(b"\xff\xf3\x40\xc0" + bytes(64), "audio/mpeg"),
    "aac": Sample(ADTS, "audio/aac"),
    "aac (ID3)": Sample(id3(63) + ADTS, "audio/aac"),
    "aac (two ID3 with footers)": Sample(id3(63, has_footer=True) + id3(5) + ADTS, "audio/aac"),
    "aac (ADIF)": Sample(b"ADIF" + bytes(32), "audio/aac"),
    "flac": Sample(b"fLaC\0\0\0\x22" + bytes(34), "audio/flac"),
    "flac (ID3)": Sample(id3(1000) + b"fLaC\0\0\0\x22" + bytes(34), "audio/flac"),
    "ogg (Vorbis)": Sample(_ogg(b"\1vorbis" + bytes(23)), "audio/ogg"),
    "ogg (Opus)": Sample(_ogg(b"OpusHead\1" + bytes(10)), "audio/ogg"),
    "m4a": Sample(_iso(b"M4A ", b"mp42", b"isom"), "audio/mp4"),
    "m4b with chapters": Sample(_brand(b"M4B ") + _index(b"soun", b"text"), "audio/mp4"),
    "mp4": Sample(_iso(b"isom", b"iso2", b"avc1"), "video/mp4"),
    "mp4 (index first)": Sample(_brand(b"isom", b"avc1") + _index(b"vide", b"soun") + bytes(32), "video/mp4"),
    "mp4 (sound alone)": Sample(_brand(b"iso5", b"dash") + _index(b"soun") + box(b"moof", bytes(32)), "audio/mp4"),
    "3gp": Sample(_iso(b"3gp4", b"isom"), "video/3gpp"),
    "3gp (sound alone)": Sample(_brand(b"3gp4", b"isom") + _index(b"soun") + box(b"mdat"), "audio/3gpp"),
    "3g2": Sample(_iso(b"3g2a"), "video/3gpp2"),
    "mov": Sample(_iso(b"qt  ", b"qt  "), "video/quicktime"),
    "mov (without a brand)": Sample(box(b"wide") + box(b"mdat", bytes(32)) + _index(b"vide"), "video/quicktime"),
    "webm": Sample(_ebml(b"webm"), "video/webm"),
    "webm (Opus)": Sample(_ebml(b"webm", b"A_OPUS"), "audio/webm"),
    "webm (VP8 and Opus)": Sample(_ebml(b"webm", b"A_OPUS", b"V_VP8"), "video/webm"),
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
    "a raw photo of Canon": _iso(b"crx ", b"isom"),
    "text that looks like an old film": b"You mdat me at wide, free",
    "avi": b"RIFF\0\0\0\0AVI LIST" + bytes(32),
    "utf-16": b"\xff\xfeh\0i\0 \0t\0h\0e\0r\0e\0",
    "one byte": b"\xff",
}
"""What is none of them."""
