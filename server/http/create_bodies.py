"""Reads the body of a create. Large files inside it go to the store while they arrive, and the body refers to them."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from aiohttp import web

from server.errors import BadSyntax, BodyTooLarge, FieldError
from server.file_reference import SCHEME
from server.files.sniffing import correct
from server.files.uploads import MIB, Upload
from server.http import keys
from server.http.bodies import MAX_DEPTH, MAX_MEMBERS, check_head, parse_json, read_chunks, read_json, too_complex
from server.http.body_scanner import BadBase64, BodyScanner, FileEnd, FileStart, Piece, TooComplex
from server.http.parameters import read_idempotency_key
from server.limits.memory import MemoryBudget
from server.model_request import UserId
from server.schemas import invalid

SMALL_BODY_BYTES = 64 * 1024
"""A body of this size contains no large file."""
UNUSED_S = 900.0
"""A file of a body is deleted after this if its request was never stored, as after a kill."""
WAIT_FOR_STORE_S = 60.0
"""For other files that are on their way to the store. The body is not read meanwhile."""
_STEP_BYTES = 256 * 1024
"""The memory of a body is reserved in such steps. The first one also covers the bytes that are passed to the store."""


@dataclass(frozen=True, slots=True)
class CreateBody:
    """`data` is the parsed body. `digests` has a text for each file that was in it, by its reference in `data`: the
    same for the same content."""

    key: str | None
    data: Any
    digests: Mapping[str, str]


@contextlib.asynccontextmanager
async def open_create_body(
    request: web.Request, *, parse: Callable[[bytes], Any] = parse_json
) -> AsyncIterator[CreateBody]:
    """The idempotency key and the JSON body of a create. The block creates the request.

    At its end, files of the body that no request uses are deleted. The response shows what is left of the rate. A
    create that cannot be admitted is refused before its body is read, unless it may be a retry. Raises as `read_json`
    and `Uploads.take` do, and `Unavailable`.
    """
    user_id = request[keys.PRINCIPAL].user_id
    request[keys.RATE_LIMIT] = request.app[keys.CREATE_LIMITER].peek(user_id)
    if "Idempotency-Key" not in request.headers:
        request.app[keys.REQUESTS].require_chance(user_id)
    key = read_idempotency_key(request)
    if request.content_length is not None and request.content_length <= SMALL_BODY_BYTES:
        data = await read_json(request, max_bytes=SMALL_BODY_BYTES, user_id=user_id, parse=parse)
        yield CreateBody(key, data, {})
        return
    max_mb = request.app[keys.SETTINGS].max_body_mb
    refusal = BodyTooLarge(f"The body may have at most {max_mb} MB (MAX_BODY_MB).")
    announced = check_head(request, max_bytes=max_mb * MIB, refusal=refusal)
    with _Charge(request.app[keys.BODY_MEMORY], user_id) as charge:
        charge.grow(min(announced or _STEP_BYTES, _STEP_BYTES))
        chunks = read_chunks(request, max_bytes=max_mb * MIB, refusal=refusal)
        body = _LargeBody(chunks, _Store(request, user_id, announced), charge, request.app[keys.BODY_TURNS])
        try:
            data = parse(await body.read())
            yield CreateBody(key, data, body.digests)
        finally:
            if body.uploads:
                await request.app[keys.UPLOADS].discard_unused(body.uploads)


class _Charge(contextlib.ExitStack):
    """A reservation of memory that grows."""

    def __init__(self, budget: MemoryBudget, user_id: UserId) -> None:
        super().__init__()
        self._budget = budget
        self._user_id = user_id
        self._size = 0

    def grow(self, size: int) -> None:
        """Reserve at least `size` bytes in all. Raises as `MemoryBudget.reserve` does."""
        if size > self._size:
            step = max(size - self._size, min(size, _STEP_BYTES))
            self.enter_context(self._budget.reserve(self._user_id, step))
            self._size += step


class _Store:
    """Takes the files of one body. Not all bodies are stored at once: the others wait for memory."""

    def __init__(self, request: web.Request, user_id: UserId, announced: int | None) -> None:
        self._uploads = request.app[keys.UPLOADS]
        self._memory = request.app[keys.UPLOAD_MEMORY]
        self._user_id = user_id
        self._size = None if announced is None else min(announced * 3 // 4, self._uploads.max_bytes)

    async def take(self, content_type: str, chunks: AsyncIterator[bytes]) -> Upload:
        held_bytes = self._uploads.held_bytes
        await self._memory.wait_for_room(self._user_id, held_bytes, within_s=WAIT_FOR_STORE_S)
        with self._memory.reserve(self._user_id, held_bytes):
            return await self._uploads.take(
                self._user_id,
                chunks,
                declared_type=content_type,
                size=self._size,
                decide_type=correct,
                unused_s=UNUSED_S,
            )


class _LargeBody:
    """One body. `uploads` are the files that were stored for it."""

    def __init__(self, chunks: AsyncIterator[bytes], store: _Store, charge: _Charge, turns: asyncio.Lock) -> None:
        self._chunks = chunks
        self._store = store
        self._charge = charge
        self._turns = turns
        self._scanner = BodyScanner(MAX_DEPTH, MAX_MEMBERS)
        self.uploads: list[UUID] = []
        self.digests: dict[str, str] = {}

    async def read(self) -> bytes:
        """The body with references in place of its large files."""
        pieces = self._pieces()
        async for piece in pieces:
            assert isinstance(piece, FileStart), "the other pieces of a file are taken with it"  # noqa: S101
            self._scanner.rest += (await self._take(piece, pieces)).encode()
        rest, self._scanner.rest = bytes(self._scanner.rest), bytearray()
        return rest

    async def _pieces(self) -> AsyncIterator[Piece]:
        scanner = self._scanner
        async for chunk in self._chunks:
            async with self._turns:
                await asyncio.sleep(0)  # one chunk in each turn of the event loop: decoding it takes milliseconds
            try:
                for piece in scanner.feed(chunk):
                    yield piece
            except BadBase64:
                raise invalid([FieldError(scanner.path, "must be whole base64 after the comma")]) from None
            except TooComplex:
                raise too_complex(scanner.depth, scanner.path) from None
            self._charge.grow(len(scanner.rest))

    async def _take(self, start: FileStart, pieces: AsyncIterator[Piece]) -> str:
        """Store one file. Returns its reference."""
        digest = hashlib.sha256()

        async def content() -> AsyncIterator[bytes]:
            async for piece in pieces:
                if isinstance(piece, FileEnd):
                    return
                assert isinstance(piece, bytes), "a file begins after the end of another"  # noqa: S101
                if piece:
                    digest.update(piece)
                    yield piece
            raise BadSyntax("The body is not valid JSON: it ends inside a string.")

        upload = await self._store.take(start.content_type, content())
        self.uploads.append(upload.id)
        reference = f"{SCHEME}{upload.id}"
        self.digests[reference] = f"{upload.content_type} {digest.hexdigest()}"
        return reference
