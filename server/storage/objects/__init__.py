"""The object store: an S3 bucket if STORAGE_* is set, else a local folder, with the same promises."""

from server.storage.objects.locations import create_objects, location_of
from server.storage.objects.names import ObjectKey, content_type_of, file_id_of, kept_type, key_of, parse_key
from server.storage.objects.objects import Objects, OpenObject, StoredObject
from server.storage.objects.storage_check import check_objects

__all__ = [
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
    "location_of",
    "parse_key",
]
