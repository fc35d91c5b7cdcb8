"""What `doctor` finds of the place for files. Costs one listing, changes nothing."""

import asyncio
from dataclasses import dataclass

from server.settings import Settings
from server.storage.objects.locations import create_objects
from server.storage.objects.storage_faults import Fault, fix_for

_CHECK_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Checkup:
    """What was found, with the remedy where it `is_ok` not."""

    is_ok: bool
    text: str


async def check_objects(settings: Settings) -> Checkup:
    """Whether the store answers, takes the keys, and has the bucket."""
    objects = create_objects(settings)
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            fault = await objects.check()
    except TimeoutError:
        fault = Fault.AWAY
    finally:
        await objects.close()
    if fault is None:
        return Checkup(is_ok=True, text=f"{objects.place} answers and takes the keys.")
    return Checkup(is_ok=False, text=f"{objects.place}: {fix_for(fault) or fix_for(Fault.UNEXPECTED)}")
