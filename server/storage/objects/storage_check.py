"""The check of the object store by `doctor`. It makes one listing, and changes nothing."""

import asyncio

from server.errors import CheckFailed
from server.settings import Settings
from server.storage.objects.locations import create_objects
from server.storage.objects.storage_faults import StorageFault, fix_for

_CHECK_TIMEOUT_S = 15.0


async def check_objects(settings: Settings) -> str:
    """A sentence that the store answers, accepts the keys, and has the bucket. Raises `CheckFailed`."""
    objects = create_objects(settings)
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            fault = await objects.check()
    except TimeoutError:
        fault = StorageFault.AWAY
    finally:
        await objects.close()
    if fault is None:
        return f"{objects.location} answers and accepts the keys."
    raise CheckFailed(f"{objects.location}: {fix_for(fault) or fix_for(StorageFault.UNEXPECTED)}")
