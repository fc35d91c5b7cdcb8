"""Files: a bucket behind the S3 protocol where STORAGE_* is set, else a folder; the same promises for both."""

from server.storage.objects.locations import create_objects, place_of
from server.storage.objects.names import ObjectKey, content_type_of, file_id_of, kept_type, key_of, parse_key
from server.storage.objects.objects import Objects, OpenObject, StoredObject
from server.storage.objects.storage_check import Checkup, check_objects

__all__ = [
    "Checkup",
    "ObjectKey",
    "Objects",
    "OpenObject",
    "StoredObject",
    "check_objects",
    "content_type_of",
    "create_objects",
    "file_id_of",
    "kept_type",
    "key_of",
    "parse_key",
    "place_of",
]
