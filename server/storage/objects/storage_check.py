"""The check of the object store by `doctor`. It makes one listing, and changes nothing."""

import asyncio
from dataclasses import dataclass

from server.settings import Settings
from server.storage.objects.locations import create_objects
from server.storage.objects.storage_faults import StorageFault, fix_for

_CHECK_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class StorageCheck:
    """A sentence for the operator, with a fix if `is_ok` is false."""

    is_ok: bool
    text: str


async def check_objects(settings: Settings) -> StorageCheck:
    """Whether the store answers, accepts the keys, and has the bucket."""
    objects = create_objects(settings)
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            fault = await objects.check()
    except TimeoutError:
        fault = StorageFault.AWAY
    finally:
        await objects.close()
    if fault is None:
        return StorageCheck(is_ok=True, text=f"{objects.location} answers and accepts the keys.")
    return StorageCheck(is_ok=False, text=f"{objects.location}: {fix_for(fault) or fix_for(StorageFault.UNEXPECTED)}")
