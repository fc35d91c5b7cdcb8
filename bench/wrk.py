"""Load by wrk, a C program, so that the load takes little of the cores that it shares with the server."""

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

_SCRIPT = """
wrk.method = {method}
wrk.body = {body}
{headers}
done = function(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        '\\n{{"requests": %d, "us": %d, "p50_us": %d, "p99_us": %d, "refused": %d, "broken": %d}}\\n',
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), errors.status,
        errors.connect + errors.read + errors.write + errors.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Call:
    """An HTTP request that is sent again and again."""

    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    def script(self) -> str:
        headers = "\n".join(f"wrk.headers[{json.dumps(name)}] = {json.dumps(v)}" for name, v in self.headers.items())
        return _SCRIPT.format(
            method=json.dumps("POST" if self.body else "GET"),
            body=json.dumps(self.body.decode()) if self.body else "nil",
            headers=headers,
        )


@dataclass(frozen=True, slots=True)
class Load:
    """What one run has found. Latencies are of a closed loop: each connection waits for its answer."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


def load(port: int, call: Call, *, connections: int, seconds: float) -> Load:
    """Send `call` over all connections for some seconds. An answer that is not 2xx ends the program."""
    program = shutil.which("wrk")
    if program is None:
        sys.exit("wrk makes the load and is missing: apt-get install nginx-light wrk")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "call.lua")
        script.write_text(call.script())
        options = ["--threads", "1", "--connections", str(connections), "--duration", f"{seconds:.0f}s"]
        url = f"http://127.0.0.1:{port}{call.path}"
        command = [program, *options, "--timeout", "30s", "--script", str(script), url]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - found above
    found = json.loads(output.splitlines()[-1])
    if found["refused"] or found["broken"]:
        sys.exit(f"some of the answers were errors, so this run says nothing: {found}")
    return Load(found["requests"], found["us"] / 1e6, found["p50_us"] / 1000, found["p99_us"] / 1000)
