"""An S3 server like Supabase Storage's: under a path prefix, path style, every signature checked, XML errors.

It keeps objects in memory, and notes for tests what was asked and signed.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self
from urllib.parse import unquote
from xml.sax.saxutils import escape

from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.fakes.sigv4 import Refused, Signed, read_claim, verify

PREFIX = "/storage/v1/s3"
ACCESS_KEY, SECRET, REGION, BUCKET = "0123456789abcdef", "a-secret-that-no-log-may-show", "eu-central-1", "files"
_ALPHABET = re.compile(r"[A-Za-z0-9_/!.*'() &$=@;:+,?-]*", re.ASCII)
_NOT_SUPPORTED = ("content-md5", "x-amz-acl", "x-amz-tagging")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
MIN_PART_BYTES = 5 * 1024 * 1024

Fault = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


@dataclass(frozen=True, slots=True)
class Kept:
    data: bytes
    content_type: str
    modified: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.data, usedforsecurity=False).hexdigest()}"'


@dataclass(slots=True)
class FakeS3:
    """`fault` may answer a call in place of the server; `uploads` are the multipart uploads that are still open."""

    buckets: dict[str, dict[str, Kept]] = field(default_factory=lambda: {BUCKET: {}})
    uploads: dict[str, tuple[str, str, dict[int, bytes]]] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    signed: list[tuple[str, ...]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    fault: Fault | None = None
    clock_ahead: timedelta = timedelta()
    max_bytes: int = 1024 * 1024 * 1024
    enforces_region: bool = True
    _server: TestServer | None = None
    _last_upload: int = 0

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=self.max_bytes)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._server = TestServer(app)
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        await self._server.close()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.port}{PREFIX}"

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.calls.append((request.method, request.raw_path))
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        try:
            if self.fault is not None and (answer := await self.fault(request)) is not None:
                return answer
            return await self._serve(request)
        except Refused as refused:
            return error_answer(refused.status, refused.code, refused.message)

    async def _serve(self, request: web.Request) -> web.Response:
        body = await request.read()
        self._verify(request, body)
        path = unquote(request.raw_path.partition("?")[0])
        if not path.startswith(PREFIX + "/"):
            raise Refused("NotFound", "Route not found", 404)
        bucket, _, key = path.removeprefix(PREFIX + "/").partition("/")
        if bucket not in self.buckets:
            raise Refused("NoSuchBucket", "Bucket not found", 404)
        if not _ALPHABET.fullmatch(key):
            raise Refused("InvalidKey", f"Invalid key: {key}", 400)
        if not key:
            return self._on_bucket(request, bucket, body)
        return self._on_object(request, bucket, key, body)

    def _verify(self, request: web.Request, body: bytes) -> None:
        """In the order of Supabase: the key first, then the signature over the path with the prefix."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        path, _, query = request.raw_path.partition("?")
        signed = Signed(request.method, path, query, headers)
        if read_claim(signed).access_key != ACCESS_KEY:
            raise Refused("InvalidAccessKeyId", "The Access Key Id you provided does not exist in our records.")
        claim = verify(signed, secret=SECRET, now=datetime.now(UTC) + self.clock_ahead, body=body)
        if self.enforces_region and claim.region != REGION:
            raise Refused("AuthorizationHeaderMalformed", f"the region is wrong; expecting '{REGION}'", 400)
        self.signed.append(claim.signed_headers)
        if "accept-encoding" in claim.signed_headers:
            raise Refused("SignatureDoesNotMatch", "accept-encoding is rewritten on the way")
        if dislikes := [name for name in headers if name in _NOT_SUPPORTED or name.startswith("x-amz-checksum")]:
            raise Refused("NotImplemented", f"{dislikes} is not supported", 501)

    def _on_bucket(self, request: web.Request, bucket: str, body: bytes) -> web.Response:
        if request.method == "GET" and request.query.get("list-type") == "2":
            return self._list(request, bucket)
        if request.method == "POST" and "delete" in request.query:
            keys = re.findall(r"<Key>([^<]*)</Key>", body.decode())
            for key in keys:
                self.buckets[bucket].pop(key, None)
            return _xml("DeleteResult", "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys))
        if request.method == "HEAD":
            return web.Response()
        raise Refused("MethodNotAllowed", status=405)

    def _list(self, request: web.Request, bucket: str) -> web.Response:
        prefix, after = request.query.get("prefix", ""), request.query.get("continuation-token", "")
        keys = [key for key in sorted(self.buckets[bucket]) if key.startswith(prefix) and key > after]
        size = int(request.query.get("max-keys", "1000"))
        page, more = keys[:size], len(keys) > size
        entries = "".join(self._entry(bucket, key) for key in page)
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        truncated = f"<IsTruncated>{str(more).lower()}</IsTruncated><KeyCount>{len(page)}</KeyCount>"
        return _xml("ListBucketResult", f"<Name>{bucket}</Name>{truncated}{token}{entries}")

    def _entry(self, bucket: str, key: str) -> str:
        kept = self.buckets[bucket][key]
        modified = kept.modified.strftime("%Y-%m-%dT%H:%M:%S.000Z")
        return (
            f"<Contents><Key>{escape(key)}</Key><LastModified>{modified}</LastModified>"
            f"<ETag>{escape(kept.etag)}</ETag><Size>{len(kept.data)}</Size></Contents>"
        )

    def _on_object(self, request: web.Request, bucket: str, key: str, body: bytes) -> web.Response:
        query, objects = request.query, self.buckets[bucket]
        match request.method:
            case "POST" | "PUT" | "DELETE" if "uploads" in query or "uploadId" in query:
                return self._on_upload(request, bucket, key, body)
            case "PUT":
                self._check_size(len(body))
                objects[key] = Kept(body, request.headers.get("Content-Type", "application/octet-stream"))
                return web.Response(headers={"ETag": objects[key].etag})
            case "GET" | "HEAD":
                return _show(request, objects.get(key))
            case "DELETE":
                objects.pop(key, None)
                return web.Response(status=204)
        raise Refused("MethodNotAllowed", status=405)

    def _on_upload(self, request: web.Request, bucket: str, key: str, body: bytes) -> web.Response:
        if "uploads" in request.query:
            self._last_upload += 1
            upload_id = f"upload-{self._last_upload}"
            self.uploads[upload_id] = (key, request.headers.get("Content-Type", "application/octet-stream"), {})
            named = f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key><UploadId>{upload_id}</UploadId>"
            return _xml("InitiateMultipartUploadResult", named)
        upload_id = request.query["uploadId"]
        if upload_id not in self.uploads:
            raise Refused("NoSuchUpload", status=404)
        _, content_type, parts = self.uploads[upload_id]
        if request.method == "PUT":
            self._check_size(len(body) + sum(map(len, parts.values())))
            parts[int(request.query["partNumber"])] = body
            return web.Response(headers={"ETag": f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'})
        del self.uploads[upload_id]
        if request.method == "DELETE":
            return web.Response(status=204)
        numbers = [int(number) for number in re.findall(r"<PartNumber>(\d+)</PartNumber>", body.decode())]
        if any(len(parts[number]) < MIN_PART_BYTES for number in numbers[:-1]):
            raise Refused("EntityTooSmall", status=400)
        kept = Kept(b"".join(parts[number] for number in numbers), content_type)
        self.buckets[bucket][key] = kept
        return _xml("CompleteMultipartUploadResult", f"<Key>{escape(key)}</Key><ETag>{escape(kept.etag)}</ETag>")

    def _check_size(self, size: int) -> None:
        if size > self.max_bytes:
            raise Refused("EntityTooLarge", "The object exceeded the maximum allowed size", 413)


def error_answer(status: int, code: str, message: str = "") -> web.Response:
    text = f"<Error><Resource></Resource><Code>{code}</Code><Message>{escape(message or code)}</Message></Error>"
    return web.Response(status=status, text=f'<?xml version="1.0"?>\n{text}', content_type="application/xml")


def _show(request: web.Request, kept: Kept | None) -> web.Response:
    if kept is None:
        raise Refused("NoSuchKey", "Object not found", 404)
    headers = {"ETag": kept.etag, "Last-Modified": kept.modified.strftime("%a, %d %b %Y %H:%M:%S GMT")}
    headers["Content-Type"] = kept.content_type
    if request.method == "HEAD":
        return web.Response(headers=headers | {"Content-Length": str(len(kept.data))})
    if (wanted := request.headers.get("Range")) is None:
        return web.Response(body=kept.data, headers=headers)
    found = _RANGE.fullmatch(wanted)
    if found is None or int(found[1]) >= len(kept.data):
        raise Refused("InvalidRange", status=416)
    start, end = int(found[1]), min(int(found[2] or len(kept.data)), len(kept.data) - 1)
    headers["Content-Range"] = f"bytes {start}-{end}/{len(kept.data)}"
    return web.Response(status=206, body=kept.data[start : end + 1], headers=headers)


def _xml(root: str, inner: str) -> web.Response:
    return web.Response(text=f'<?xml version="1.0"?>\n<{root}>{inner}</{root}>', content_type="application/xml")
