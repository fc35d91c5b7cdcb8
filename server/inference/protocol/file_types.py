"""The type of a file by its first bytes, and the types that models take. Pure.

Bytes are read as browsers do (WHATWG MIME Sniffing, sections 6.1 and 6.2), and further where phones need it. Libraries
were tried (puremagic 1.30). It does not recognise an MP3 of MPEG-2 without ID3, calls an MP3 with ID3 a `.koz`, reports
every Ogg file as `application/ogg`, a Matroska film as WebM, and an M4A as `video/mp4`.
"""

import re

from server.inference.protocol.iso_media import SOUND_OF, sniff_iso

HEAD_BYTES = 64 * 1024
"""The number of bytes that decide; a shorter input is a whole file. They show the tracks of a browser's recording."""

FILMS = frozenset({"video/mp4", "video/webm", "video/quicktime", "video/3gpp", "video/3gpp2"})
"""Taken as audio, for their sound."""
_IMAGES = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff")
"""The images that models take. HEIC and AVIF are stored, but providers cannot read them."""

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"II+\0", "image/tiff"),  # BigTIFF
    (b"MM\0+", "image/tiff"),
    (b"fLaC", "audio/flac"),
    (b"#!AMR\n", "audio/amr"),
    (b"#!AMR_MC", "audio/amr"),
    (b"#!AMR-WB", "audio/amr-wb"),
    (b"caff\0\1", "audio/x-caf"),
    (b"ADIF", "audio/aac"),
)
_FORMS = {
    (b"RIFF", b"WEBP"): "image/webp",
    (b"RIFF", b"WAVE"): "audio/wav",
    (b"RF64", b"WAVE"): "audio/wav",  # beyond 4 GiB (EBU Tech 3306)
    (b"BW64", b"WAVE"): "audio/wav",
    (b"FORM", b"AIFF"): "audio/aiff",
    (b"FORM", b"AIFC"): "audio/aiff",
}
_OGG_CODECS = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex   ")
_EBML, _DOC_TYPE = b"\x1aE\xdf\xa3", b"\x42\x82"
_CODEC_ID = re.compile(rb"\x86[\x81-\xff]([AV])_", re.DOTALL)
"""The element of a WebM track that names its codec: sound or pictures."""
_BMP_HEADERS = frozenset({12, 40, 52, 56, 64, 108, 124})
_ID3, _ID3_HEADER, _ID3_FOOTER = b"ID3", 10, 0x10
_BEHIND_ID3 = {"audio/flac": "audio/flac", "audio/x-flac": "audio/flac"} | dict.fromkeys(
    ("audio/aac", "audio/aacp", "audio/x-aac", "audio/x-hx-aac-adts"), "audio/aac"
)
"""Declared types of sound that may follow an ID3 tag, other than MP3."""


def sniff(head: bytes) -> str | None:
    """The type of a file with these first bytes; None for a type that is not recognised here."""
    for signature, content_type in _SIGNATURES:
        if head.startswith(signature):
            return content_type if content_type != "image/bmp" or _is_bmp(head) else None
    if found := _FORMS.get((head[:4], head[8:12])):
        return found
    if head.startswith(_ID3):
        return _sniff_tagged(head)
    if head[:4] == b"OggS":
        return "audio/ogg" if any(codec in head[:64] for codec in _OGG_CODECS) else None
    if head[:4] == _EBML:
        return _sniff_webm(head)
    return sniff_iso(head) or _sniff_frames(head)


def type_of(head: bytes, declared: str) -> str | None:
    """The type of an image or of sound: the bytes decide. None for any other file.

    The declared type counts for what the bytes may not show: whether a container has pictures, and the kind of sound
    behind a long ID3 tag.
    """
    found, declared = sniff(head), declared.partition(";")[0].strip().lower()
    if found is None or not (found in FILMS or found.startswith(("image/", "audio/"))):
        return None
    if declared.startswith("audio/"):
        found = SOUND_OF.get(found, found)
    return _BEHIND_ID3.get(declared, found) if head.startswith(_ID3) and not _behind_id3(head) else found


def why_refused(content_type: str, kind: str) -> str | None:
    """Why a field of this kind (`image` or `audio`) does not take this type; None if it does."""
    if kind == "audio" and (content_type.startswith("audio/") or content_type in FILMS):
        return None
    if kind == "image" and content_type in _IMAGES:
        return None
    if not content_type.startswith(f"{kind}/"):
        return f"must be an {kind} file, and this one is {content_type}"
    *names, last = (name.partition("/")[2].upper() for name in _IMAGES)
    return f"must be {', '.join(names)} or {last}: models cannot read {content_type}, so convert it first"


def _is_bmp(head: bytes) -> bool:
    """The two letters are not enough: the size of the next header must be an existing one."""
    return int.from_bytes(head[14:18], "little") in _BMP_HEADERS


def _behind_id3(head: bytes) -> bytes:
    """The bytes after all ID3v2 tags (id3.org, ID3v2.4, section 3.1); none if the tags are longer than the head."""
    while head.startswith(_ID3) and len(head) >= _ID3_HEADER:
        size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        head = head[_ID3_HEADER + size + (_ID3_HEADER if head[5] & _ID3_FOOTER else 0) :].lstrip(b"\0")
    return b"" if head.startswith(_ID3) else head


def _sniff_tagged(head: bytes) -> str:
    found = sniff(_behind_id3(head))
    return found if found is not None and found in _BEHIND_ID3.values() else "audio/mpeg"


def _sniff_webm(head: bytes) -> str | None:
    if b"webm" not in head.partition(_DOC_TYPE)[2][:8]:
        return None
    return "audio/webm" if set(_CODEC_ID.findall(head)) == {b"A"} else "video/webm"


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
