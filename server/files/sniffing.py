"""The type under which a file is stored: its first bytes decide, whatever type was declared. Pure."""

from server.errors import UnsupportedMedia
from server.inference.protocol.file_types import sniff, type_of


def judge(declared: str, head: bytes) -> str:
    """The type of an upload. Raises `UnsupportedMedia` for neither image nor audio."""
    if (found := type_of(head, declared)) is None:
        raise UnsupportedMedia("The file is neither an image nor audio of a kind that is known here.")
    return found


def correct(declared: str, head: bytes) -> str:
    """The type of a file that is stored in any case: the detected one, or else the declared one."""
    return type_of(head, declared) or sniff(head) or declared
