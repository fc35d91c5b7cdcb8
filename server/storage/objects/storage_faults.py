"""What an error of the store means: for the caller a `Problem`, for the operator what to do. Pure.

The codes are those of Supabase Storage and of S3 (`<Error><Code>…`); a HEAD has no body, so the status decides there.
"""

import re
from enum import StrEnum

from server.errors import BodyTooLarge, Invalid, NotFound, Problem, Unavailable, UnsupportedMedia

AWAY_RETRY_S = 5.0
LONG_RETRY_S = 60.0
"""Where a person has to mend something first."""


class Fault(StrEnum):
    NO_OBJECT = "no_object"
    NO_BUCKET = "no_bucket"
    ACCESS_KEY = "access_key"
    SECRET_KEY = "secret_key"  # noqa: S105 - the name of a fault
    REGION = "region"
    CLOCK = "clock"
    DENIED = "denied"
    TOO_LARGE = "too_large"
    CONTENT_TYPE = "content_type"
    RANGE = "range"
    BUSY = "busy"
    AWAY = "away"
    DISK = "disk"
    ELSEWHERE = "elsewhere"
    """The database has the file, and this store does not."""
    UNEXPECTED = "unexpected"


_BY_CODE = {
    "NoSuchKey": Fault.NO_OBJECT,
    "NoSuchBucket": Fault.NO_BUCKET,
    "InvalidBucketName": Fault.NO_BUCKET,
    "InvalidAccessKeyId": Fault.ACCESS_KEY,
    "SignatureDoesNotMatch": Fault.SECRET_KEY,
    "AuthorizationHeaderMalformed": Fault.REGION,
    "PermanentRedirect": Fault.REGION,
    "RequestTimeTooSkewed": Fault.CLOCK,
    "AccessDenied": Fault.DENIED,
    "EntityTooLarge": Fault.TOO_LARGE,
    "InvalidMimeType": Fault.CONTENT_TYPE,
    "InvalidRange": Fault.RANGE,
    "SlowDown": Fault.BUSY,
    "ServiceUnavailable": Fault.BUSY,
}
_BY_STATUS = {
    "301": Fault.REGION,
    "401": Fault.DENIED,
    "403": Fault.DENIED,
    "404": Fault.NO_OBJECT,
    "413": Fault.TOO_LARGE,
    "415": Fault.CONTENT_TYPE,
    "416": Fault.RANGE,
    "429": Fault.BUSY,
    "503": Fault.BUSY,
}
_BY_WORDS = (
    ("Requested range was invalid", Fault.RANGE),
    ("Generic LocalFileSystem error", Fault.DISK),
    ("HTTP error", Fault.AWAY),
    ("error sending request", Fault.AWAY),
    ("request or response body error", Fault.AWAY),
    ("error decoding response body", Fault.AWAY),
    ("timed out", Fault.AWAY),
)
_REFUSALS: dict[Fault, tuple[type[NotFound | BodyTooLarge | UnsupportedMedia | Invalid], str]] = {
    Fault.NO_OBJECT: (NotFound, "There is no such file."),
    Fault.TOO_LARGE: (BodyTooLarge, "The file is larger than the storage takes."),
    Fault.CONTENT_TYPE: (UnsupportedMedia, "The storage does not take files of this type."),
    Fault.RANGE: (Invalid, "The file ends before the range that was asked for."),
}
_RETRY_S = {Fault.BUSY: 2.0, Fault.AWAY: AWAY_RETRY_S, Fault.DISK: AWAY_RETRY_S}
_CODE = re.compile(r"<Code>(\w+)</Code>", re.ASCII)
_STATUS = re.compile(r"status code: (\d{3})", re.ASCII)

_FIXES = {
    Fault.NO_BUCKET: "there is no bucket of this name: create it as a private one (Supabase: Storage → New bucket), "
    "or set STORAGE_BUCKET.",
    Fault.ACCESS_KEY: "STORAGE_ACCESS_KEY_ID is not known there: make a key of the store's own "
    "(Supabase: Storage → Settings → S3 access keys).",
    Fault.SECRET_KEY: "the signature is refused: STORAGE_SECRET_ACCESS_KEY does not belong to STORAGE_ACCESS_KEY_ID, "
    "or STORAGE_REGION or STORAGE_URL is not what the store shows.",
    Fault.REGION: "STORAGE_REGION is not the region of the bucket: copy it from the store's settings.",
    Fault.CLOCK: "the clocks differ by more than 15 minutes: set this machine's clock.",
    Fault.DENIED: "the key may not do this: give it the right to read, write, list and delete in the bucket.",
    Fault.TOO_LARGE: "the store refuses files of this size: raise the limit of the bucket.",
    Fault.CONTENT_TYPE: "the bucket refuses this type of file: allow all types in it.",
    Fault.BUSY: "the store asks for fewer calls.",
    Fault.AWAY: "the store cannot be reached. Is STORAGE_URL right, is it running, does a firewall stand between?",
    Fault.DISK: "the folder cannot be written: is DATA_DIR on a disk with room, and does it belong to this user?",
    Fault.ELSEWHERE: "a file is not here: it was uploaded at an instance that keeps files elsewhere (set STORAGE_URL "
    "and what belongs to it to one bucket for all instances), or files were moved away (restore them).",
    Fault.UNEXPECTED: "the answer of the store makes no sense. Does STORAGE_URL lead to its S3 endpoint "
    "(Supabase: https://<ref>.storage.supabase.co/storage/v1/s3)?",
}


def read_fault(error: BaseException) -> Fault:
    """Sort an exception of obstore by what stands in its text, which is all that it tells."""
    text = str(error)
    code = _CODE.search(text)
    if code and code[1] in _BY_CODE:
        return _BY_CODE[code[1]]
    if isinstance(error, FileNotFoundError):
        return Fault.NO_OBJECT
    if isinstance(error, OSError):
        return Fault.DISK
    status = _STATUS.search(text)
    if status:
        return Fault.AWAY if status[1] in {"502", "504"} else _BY_STATUS.get(status[1], Fault.UNEXPECTED)
    return next((fault for words, fault in _BY_WORDS if words in text), Fault.UNEXPECTED)


def fix_for(fault: Fault) -> str:
    """What the operator can do; empty for what is the caller's affair alone."""
    return _FIXES.get(fault, "")


def problem_for(fault: Fault) -> Problem:
    """What the caller is told."""
    if fault in _REFUSALS:
        kind, detail = _REFUSALS[fault]
        return kind(detail)
    if fault is Fault.ELSEWHERE:
        return Unavailable(
            "The file is kept at another server, or was moved: it cannot be read here.",
            retry_after_s=AWAY_RETRY_S,
        )
    return Unavailable("The storage is not available; try again.", retry_after_s=_RETRY_S.get(fault, LONG_RETRY_S))
