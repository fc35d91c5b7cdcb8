"""The type under which a file is stored: its first bytes count for more than its declared type. Pure."""

from server.errors import UnsupportedMedia
from server.inference.protocol.file_types import sniff

_TAKEN = frozenset({"video/mp4", "video/webm"})
"""Films, for their sound."""

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
"""Names of the same type, or of the same container, whose content the first bytes do not show."""


def judge(declared: str, head: bytes) -> str:
    """The type to store. Raises `UnsupportedMedia` for neither image nor audio, and for another type than declared."""
    found, declared = sniff(head), _essence(declared)
    if found is None or not (found.startswith(("image/", "audio/")) or found in _TAKEN):
        raise UnsupportedMedia("The file is neither an image nor audio of a kind that is known here.")
    if declared in _UNDECLARED or declared == found:
        return found
    if any({declared, found} <= names for names in _SAME):
        return "audio/" + found.partition("/")[2] if declared.startswith("audio/") else found
    raise UnsupportedMedia(f"The file is {found}, not what its Content-Type says: send that, or none.")


def correct(declared: str, head: bytes) -> str:
    """The type of a file that is stored in any case: the detected one, or else the declared one."""
    try:
        return judge(declared, head)
    except UnsupportedMedia:
        return sniff(head) or declared


def _essence(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
