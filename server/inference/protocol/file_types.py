"""The type of a file by its first bytes, as browsers detect it (WHATWG MIME Sniffing, sections 6.1 and 6.2). Pure.

Libraries were tried (puremagic 1.30). It does not recognise an MP3 of MPEG-2 without ID3, calls an MP3 with ID3 a
`.koz`, reports every Ogg file as `application/ogg`, a Matroska film as WebM, and an M4A as `video/mp4`.
"""

HEAD_BYTES = 512
"""The number of bytes that decide; a shorter input is a whole file."""

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"fLaC", "audio/flac"),
    (b"ID3", "audio/mpeg"),
)
_RIFF = {b"WEBP": "image/webp", b"WAVE": "audio/wav"}
_BRANDS = {
    b"M4A ": "audio/mp4",
    b"M4B ": "audio/mp4",
    b"F4A ": "audio/mp4",
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"mif1": "image/heic",
    b"qt  ": "video/quicktime",
}
"""Major brands of ISO 14496-12; any other is `video/mp4`."""
_OGG_CODECS = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex   ")
_EBML, _DOC_TYPE = b"\x1aE\xdf\xa3", b"\x42\x82"
_BMP_HEADERS = frozenset({12, 40, 52, 56, 64, 108, 124})


def sniff(head: bytes) -> str | None:
    """The type of a file with these first bytes; None for a type that is not recognised here."""
    for signature, content_type in _SIGNATURES:
        if head.startswith(signature):
            return content_type if content_type != "image/bmp" or _is_bmp(head) else None
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12])
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "video/mp4")
    if head[:4] == b"OggS":
        return "audio/ogg" if any(codec in head[:64] for codec in _OGG_CODECS) else None
    if head[:4] == _EBML:
        return "video/webm" if b"webm" in head.partition(_DOC_TYPE)[2][:8] else None
    return _sniff_frames(head)


def _is_bmp(head: bytes) -> bool:
    """The two letters are not enough: the size of the next header must be an existing one."""
    return int.from_bytes(head[14:18], "little") in _BMP_HEADERS


def _sniff_frames(head: bytes) -> str | None:
    """MPEG audio without a file header, by its first frame: layer III or II (here 1 and 2).

    Layer 0 means ADTS (AAC). Layer I is obsolete, and its first bytes are the byte order mark of UTF-16.
    """
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:  # noqa: PLR2004 - the sync word
        return None
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    if layer == 0:
        return "audio/aac" if head[1] & 0xF0 == 0xF0 and head[2] >> 2 & 15 < 13 else None  # noqa: PLR2004
    bitrate, frequency = head[2] >> 4, head[2] >> 2 & 3
    return "audio/mpeg" if version != 1 and layer in {1, 2} and 0 < bitrate < 15 and frequency != 3 else None  # noqa: PLR2004
