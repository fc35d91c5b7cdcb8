"""Maps an error of the store to a `Problem` for the caller and a fix for the operator. Pure.

The codes are those of S3 and of Supabase Storage (`<Error><Code>…`). For a HEAD, which has no body, the status decides.
"""

import re
from enum import StrEnum

from server.errors import BodyTooLarge, Invalid, NotFound, Problem, Unavailable, UnsupportedMedia

AWAY_RETRY_S = 5.0
LONG_RETRY_S = 60.0
"""For faults that a person must fix."""


class StorageFault(StrEnum):
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
    """The file has a row, but no object in this store."""
    UNEXPECTED = "unexpected"


_BY_CODE = {
    "NoSuchKey": StorageFault.NO_OBJECT,
    "NoSuchBucket": StorageFault.NO_BUCKET,
    "InvalidBucketName": StorageFault.NO_BUCKET,
    "InvalidAccessKeyId": StorageFault.ACCESS_KEY,
    "SignatureDoesNotMatch": StorageFault.SECRET_KEY,
    "AuthorizationHeaderMalformed": StorageFault.REGION,
    "PermanentRedirect": StorageFault.REGION,
    "RequestTimeTooSkewed": StorageFault.CLOCK,
    "AccessDenied": StorageFault.DENIED,
    "EntityTooLarge": StorageFault.TOO_LARGE,
    "InvalidMimeType": StorageFault.CONTENT_TYPE,
    "InvalidRange": StorageFault.RANGE,
    "SlowDown": StorageFault.BUSY,
    "ServiceUnavailable": StorageFault.BUSY,
}
_BY_STATUS = {
    "301": StorageFault.REGION,
    "401": StorageFault.DENIED,
    "403": StorageFault.DENIED,
    "404": StorageFault.NO_OBJECT,
    "413": StorageFault.TOO_LARGE,
    "415": StorageFault.CONTENT_TYPE,
    "416": StorageFault.RANGE,
    "429": StorageFault.BUSY,
    "503": StorageFault.BUSY,
}
_BY_WORDS = (
    ("Requested range was invalid", StorageFault.RANGE),
    ("Generic LocalFileSystem error", StorageFault.DISK),
    ("HTTP error", StorageFault.AWAY),
    ("error sending request", StorageFault.AWAY),
    ("request or response body error", StorageFault.AWAY),
    ("error decoding response body", StorageFault.AWAY),
    ("timed out", StorageFault.AWAY),
)
_REFUSALS: dict[StorageFault, tuple[type[NotFound | BodyTooLarge | UnsupportedMedia | Invalid], str]] = {
    StorageFault.NO_OBJECT: (NotFound, "There is no such file."),
    StorageFault.TOO_LARGE: (BodyTooLarge, "The file is larger than the storage takes."),
    StorageFault.CONTENT_TYPE: (UnsupportedMedia, "The storage does not take files of this type."),
    StorageFault.RANGE: (Invalid, "The file ends before the range that was asked for."),
}
_RETRY_S = {StorageFault.BUSY: 2.0, StorageFault.AWAY: AWAY_RETRY_S, StorageFault.DISK: AWAY_RETRY_S}
_CODE = re.compile(r"<Code>(\w+)</Code>", re.ASCII)
_STATUS = re.compile(r"status code: (\d{3})", re.ASCII)

_FIXES = {
    StorageFault.NO_BUCKET: "there is no bucket of this name: create a private one (Supabase: Storage → New bucket) or "
    "set STORAGE_BUCKET.",
    StorageFault.ACCESS_KEY: "the store does not know STORAGE_ACCESS_KEY_ID: create a key of the store "
    "(Supabase: Storage → Settings → S3 access keys).",
    StorageFault.SECRET_KEY: "the store rejects the signature: STORAGE_SECRET_ACCESS_KEY does not belong to "
    "STORAGE_ACCESS_KEY_ID, or STORAGE_REGION or STORAGE_URL is not what the store shows.",
    StorageFault.REGION: "STORAGE_REGION is not the region of the bucket: copy it from the store's settings.",
    StorageFault.CLOCK: "the clocks differ by more than 15 minutes: set this machine's clock.",
    StorageFault.DENIED: "the key has too few rights: allow it to read, write, list and delete in the bucket.",
    StorageFault.TOO_LARGE: "the store rejects files of this size: raise the limit of the bucket.",
    StorageFault.CONTENT_TYPE: "the bucket rejects this type of file: allow all types in it.",
    StorageFault.BUSY: "the store asks for fewer calls.",
    StorageFault.AWAY: "the store cannot be reached. Check STORAGE_URL, the firewall, and that the store runs.",
    StorageFault.DISK: "the folder cannot be written: check that the disk of DATA_DIR has room, and its owner.",
    StorageFault.ELSEWHERE: "a file is missing: it was uploaded to an instance with another store (set STORAGE_* to "
    "one bucket for all instances), or files were moved away (restore them).",
    StorageFault.UNEXPECTED: "the answer is not valid. Check that STORAGE_URL is the S3 endpoint "
    "(Supabase: https://<ref>.storage.supabase.co/storage/v1/s3).",
}


def read_fault(error: BaseException) -> StorageFault:
    """Classify an exception of obstore by its text, the only information that it has."""
    text = str(error)
    code = _CODE.search(text)
    if code and code[1] in _BY_CODE:
        return _BY_CODE[code[1]]
    if isinstance(error, FileNotFoundError):
        return StorageFault.NO_OBJECT
    if isinstance(error, OSError):
        return StorageFault.DISK
    status = _STATUS.search(text)
    if status:
        return StorageFault.AWAY if status[1] in {"502", "504"} else _BY_STATUS.get(status[1], StorageFault.UNEXPECTED)
    return next((fault for words, fault in _BY_WORDS if words in text), StorageFault.UNEXPECTED)


def fix_for(fault: StorageFault) -> str:
    """The fix for the operator; empty for a fault of the caller."""
    return _FIXES.get(fault, "")


def problem_for(fault: StorageFault) -> Problem:
    """The error for the caller."""
    if fault in _REFUSALS:
        kind, detail = _REFUSALS[fault]
        return kind(detail)
    if fault is StorageFault.ELSEWHERE:
        return Unavailable(
            "The file is stored at another server, or was moved: it cannot be read here.",
            retry_after_s=AWAY_RETRY_S,
        )
    return Unavailable("The storage is not available; try again.", retry_after_s=_RETRY_S.get(fault, LONG_RETRY_S))
