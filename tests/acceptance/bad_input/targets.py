"""Bad paths and bad query parameters."""

from tests.acceptance.bad_input.case import CANARY, Case, fetch, invalid, malformed, post

NOBODYS = "/api/requests/00000000-0000-0000-0000-000000000000"
_UUID = "0197a1b2-0000-7000-8000-000000000000"


def _no_path(name: str, request: bytes) -> Case:
    return Case(name, request, 404, "NOT_FOUND", says="nothing at this path")


def _no_request(name: str, request_id: str) -> Case:
    return Case(name, fetch(f"/api/requests/{request_id}"), 404, "NOT_FOUND", says="no model request of yours")


def _no_method(name: str, method: str, target: str, allow: str) -> Case:
    return Case(name, fetch(target, method=method), 405, "NOT_FOUND", says=allow, headers={"Allow": f"^{allow}$"})


def _wrong(name: str, query: str, *fields: str, target: str = "/api/requests") -> Case:
    return invalid(name, fetch(f"{target}?{query}"), *fields)


PATH = (
    _no_path("unknown path", fetch(f"/api/{CANARY}", token=None)),
    _no_path("trailing slash", fetch("/api/requests/")),
    _no_path("empty segments", fetch("//api//requests")),
    _no_path("upper case", fetch("/API/REQUESTS")),
    _no_path("path traversal", fetch("/../../etc/passwd")),
    _no_path("encoded path traversal", fetch("/%2e%2e/%2e%2e/etc/passwd")),
    _no_path("segment after an id", fetch(f"{NOBODYS}/nothing")),
    _no_path("post to an unknown path", post("/api/nothing", b"{}")),
    _no_request("id of nobody", _UUID),
    _no_request("id that is no UUID", "1"),
    _no_request("id as a URN", f"urn:uuid:{_UUID}"),
    _no_path("id in braces", fetch(f"/api/requests/%7B{_UUID}%7D")),
    _no_request("id with NUL", f"{_UUID}%00"),
    _no_request("id that is not UTF-8", "%ff%c0%af"),
    _no_request("id with an encoded slash", "a%2Fb"),
    _no_request("id with SQL in it", "1'%20OR%20'1'='1"),
    _no_request("id with a line feed", f"{_UUID}%0A"),
    _no_request("id of 4000 characters", "7" * 4000),
    _no_method("wrong method on requests", "PUT", "/api/requests", "GET,HEAD,OPTIONS,POST"),
    _no_method("wrong method on one request", "POST", NOBODYS, "DELETE,GET,HEAD,OPTIONS"),
    _no_method("wrong method on sign-in", "GET", "/auth/signin", "OPTIONS,POST"),
    _no_method("wrong method on health", "DELETE", "/health", "GET,HEAD,OPTIONS"),
    malformed("unknown method", fetch("/api/requests", method="BREW"), "not a valid HTTP"),
    malformed("byte 0xFF", fetch("/api/requests/\xff"), "not a valid HTTP"),
    malformed("no leading slash", fetch("api/requests"), "not a valid HTTP"),
    malformed("raw NUL", fetch("/api/\0"), "not a valid HTTP"),
    malformed("8.2 KB", fetch("/" + "a" * 8200), "not a valid HTTP"),
)

QUERY = (
    _wrong("limit zero", "limit=0", "limit"),
    _wrong("limit negative", "limit=-1", "limit"),
    _wrong("limit above 1000", "limit=1001", "limit"),
    _wrong("limit of 64 bits", "limit=9223372036854775808", "limit"),
    _wrong("limit with exponent", "limit=1e2", "limit"),
    _wrong("limit empty", "limit=", "limit"),
    _wrong("limit with SQL in it", "limit=1%20OR%201=1", "limit"),
    _wrong("limit in Arabic digits", "limit=%D9%A1", "limit"),
    _wrong("limit twice", "limit=1&limit=1000", "limit"),
    _wrong("cursor that is no UUID", f"cursor={CANARY}", "cursor"),
    _wrong("cursor as a URN", f"cursor=urn:uuid:{_UUID}", "cursor"),
    _wrong("cursor with NUL", f"cursor={_UUID}%00", "cursor"),
    _wrong("unknown status", "status=done", "status"),
    _wrong("status with NUL", "status=%00", "status"),
    _wrong("status that is not UTF-8", "status=%ff%fe", "status"),
    _wrong("model type with SQL in it", "model_type='%3B%20SELECT%20pg_sleep(9)--", "model_type"),
    _wrong("model type empty", "model_type=", "model_type"),
    _wrong("time without an offset", "created_after=2026-11-23T08:00:00", "created_after"),
    _wrong("time as a word", "created_after=now()", "created_after"),
    _wrong("time without an end", "created_before=infinity", "created_before"),
    _wrong("day that does not exist", "created_before=2026-02-30T00:00:00Z", "created_before"),
    _wrong("leap second", "created_before=2016-12-31T23:59:60Z", "created_before"),
    _wrong("year 1", "created_after=0001-01-01T00:00:00%2B14:00", "created_after"),
    _wrong("year 9999", "created_before=9999-12-31T23:59:59-14:00", "created_before"),
    _wrong("name that is not UTF-8", "%ff=1", "\N{REPLACEMENT CHARACTER}"),
    _wrong("unknown parameter", "offset=1", "offset"),
    _wrong("token as a parameter", f"access_token={CANARY}", "access_token"),
    _wrong("everything at once", "limit=0&status=x&cursor=y&foo=z", "limit", "status", "cursor", "foo"),
    _wrong("wait as a word", "wait=soon", "wait", target=NOBODYS),
    _wrong("wait negative", "wait=-1", "wait", target=NOBODYS),
    _wrong("wait not a number", "wait=NaN", "wait", target=NOBODYS),
    _wrong("wait empty", "wait=", "wait", target=NOBODYS),
    _wrong("wait twice", "wait=1&wait=2", "wait", target=NOBODYS),
)
