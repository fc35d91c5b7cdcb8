"""What a file is, by its first bytes, as browsers tell it (WHATWG MIME Sniffing, sections 6.1 and 6.2). Pure.

Libraries were tried (puremagic 1.30): of the heads of files that come here it does not know an MP3 of MPEG-2 without
ID3, calls one with ID3 a `.koz`, takes Ogg for `application/ogg` whatever is in it, a Matroska film for WebM, and an
M4A for `video/mp4`.
"""

from server.errors import UnsupportedMedia

HEAD_BYTES = 512
"""So much of a file decides; a shorter one is all there is."""

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
"""Major brands of ISO 14496-12; any other stands for `video/mp4`."""
_OGG_CODECS = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex   ")
_EBML, _DOC_TYPE = b"\x1aE\xdf\xa3", b"\x42\x82"
_BMP_HEADERS = frozenset({12, 40, 52, 56, 64, 108, 124})
_TAKEN = frozenset({"video/mp4", "video/webm"})
"""Of what is no image and no audio: films, for the sound in them."""

_UNDECLARED = frozenset({"", "application/octet-stream", "binary/octet-stream"})
_SAME = (
    frozenset({"image/jpeg", "image/jpg", "image/pjpeg"}),
    frozenset({"image/bmp", "image/x-ms-bmp", "image/x-bmp"}),
    frozenset({"image/heic", "image/heif"}),
    frozenset({"audio/mpeg", "audio/mp3", "audio/mpg", "audio/x-mp3", "audio/mpeg3"}),
    frozenset({"audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave"}),
    frozenset({"audio/flac", "audio/x-flac"}),
    frozenset({"audio/aac", "audio/aacp", "audio/x-aac"}),
    frozenset({"audio/ogg", "audio/opus", "audio/vorbis", "application/ogg"}),
    frozenset({"audio/mp4", "audio/m4a", "audio/x-m4a", "audio/mp4a-latm", "video/mp4"}),
    frozenset({"audio/webm", "video/webm"}),
)
"""Names of one thing, and of one container: what is in it, its first bytes do not say for sure."""


def sniff(head: bytes) -> str | None:
    """The type of a file that begins like this; None for none of those that are told apart here."""
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


def judge(declared: str, head: bytes) -> str:
    """What a file is kept as. Raises `UnsupportedMedia` for what is no image and no audio, or not what was declared."""
    found, declared = sniff(head), _essence(declared)
    if found is None or not (found.startswith(("image/", "audio/")) or found in _TAKEN):
        raise UnsupportedMedia("The file is neither an image nor audio of a kind that is known here.")
    if declared in _UNDECLARED or declared == found:
        return found
    if any({declared, found} <= names for names in _SAME):
        return "audio/" + found.partition("/")[2] if declared.startswith("audio/") else found
    raise UnsupportedMedia(f"The file is {found}, not what its Content-Type says: send that, or none.")


def correct(declared: str, head: bytes) -> str:
    """The type of a file that is taken in any case: what it is where that can be told, else what was declared."""
    try:
        return judge(declared, head)
    except UnsupportedMedia:
        return sniff(head) or declared


def _essence(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _is_bmp(head: bytes) -> bool:
    """Two letters are too few: the size of the header that follows has to be one that exists."""
    return int.from_bytes(head[14:18], "little") in _BMP_HEADERS


def _sniff_frames(head: bytes) -> str | None:
    """MPEG audio without a header of its file: the first frame's, of layer III or II (here 1 and 2).

    Layer 0 is reserved, and means ADTS (AAC). Layer I is history, and its first bytes are the mark of UTF-16.
    """
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:  # noqa: PLR2004 - the sync word
        return None
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    if layer == 0:
        return "audio/aac" if head[1] & 0xF0 == 0xF0 and head[2] >> 2 & 15 < 13 else None  # noqa: PLR2004
    bitrate, frequency = head[2] >> 4, head[2] >> 2 & 3
    return "audio/mpeg" if version != 1 and layer in {1, 2} and 0 < bitrate < 15 and frequency != 3 else None  # noqa: PLR2004
