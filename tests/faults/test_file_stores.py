"""Two servers on one database, each with a folder of its own for files."""

import json
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.media import PNG
from tests.faults.processes import ServerProcess, run_command, server_process, until

_LARGE_IMAGE = {
    "messages": [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 200_000}}],
        }
    ]
}
"""It is stored as a file while it arrives."""


def _upload(server: ServerProcess, *, status: int = 201) -> Any:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=20)
    headers = {"Authorization": f"Bearer {server.token}", "Content-Type": "image/png"}
    connection.request("POST", "/api/files", PNG, headers)
    response = connection.getresponse()
    body = json.loads(response.read())
    connection.close()
    assert response.status == status, body
    return body


@pytest.mark.slow
def test_i3_a_file_that_another_instance_keeps_is_an_outage_and_no_outcome(tmp_path: Path, database: str) -> None:
    settings = {"DATABASE_URL": database, "INFERENCE_BACKEND": "offline"}
    with server_process(tmp_path / "here", **settings) as here:
        here.sign_up()
        file_id = _upload(here)["id"]
        with server_process(tmp_path / "there", **settings) as there:
            there.token = here.token
            body = {"model_type": "image-classification", "input_data": {"image": f"file:{file_id}"}}
            status, created = there.call("POST", "/api/requests", body, Prefer="respond-async")
            assert status == 202, created
            until(lambda: "file_elsewhere" in there.log.read_text())
            status, waiting = there.call("GET", f"/api/requests/{created['id']}")
            assert waiting["status"] in {"pending", "processing"}, waiting
            status, refused = there.call("GET", f"/api/files/{file_id}")
            assert (status, refused["code"]) == (503, "SERVER_ERROR")
            assert "another server" in refused["detail"]
            until(lambda: all('"event":"files_not_shared"' in one.log.read_text() for one in (here, there)))
            assert "STORAGE_URL" in there.log.read_text()
            assert there.call("GET", "/health")[1]["files_shared"] is False
            for one in (here, there):
                refused = one.call("POST", "/v1/chat/completions", _LARGE_IMAGE)[1]
                assert "files_not_shared" in refused["error"]["message"], refused
                assert _upload(one, status=503)["code"] == "SERVER_ERROR"
            doctor = run_command("doctor", data_dir=tmp_path / "third", **settings)
            assert (doctor.returncode, "FAIL  files     Uploads are refused." in doctor.stdout) == (8, True), (
                doctor.stdout
            )
        status, final = here.call("GET", f"/api/requests/{created['id']}?wait=60")
        assert (final["status"], final["error_msg"]) == ("completed", None)
        until(lambda: here.call("GET", "/health")[1]["files_shared"] is True)
        assert _upload(here)
        assert (
            "1 running instances, which share their files"
            in run_command("doctor", data_dir=tmp_path / "third", **settings).stdout
        )


@pytest.mark.slow
def test_i3_instances_that_share_a_folder_are_not_warned(tmp_path: Path, database: str) -> None:
    settings = {"DATABASE_URL": database, "INFERENCE_BACKEND": "offline"}
    shared = tmp_path / "volume"
    shared.mkdir()
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "files").symlink_to(shared)
    with server_process(tmp_path / "here", **settings) as here, server_process(tmp_path / "there", **settings) as there:
        until(lambda: here.call("GET", "/health")[1]["instances"] == 2)
        assert all(one.call("GET", "/health")[1]["files_shared"] for one in (here, there))
        assert "files_not_shared" not in here.log.read_text() + there.log.read_text()
