"""Clients that generators make from the server's document: openapi-python-client, and openapi-typescript in Deno."""

import asyncio
import importlib
import io
import json
import os
import pkgutil
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from server.catalog import MODEL_TYPES
from tests.acceptance.conftest import Api
from tests.acceptance.test_tasks import body_of
from tests.fixtures.document import DOCUMENT
from tests.fixtures.results import PNG

PACKAGE = "generated_client"
CLIENTS = Path(__file__).parents[1] / "clients"
DENO = Path(sys.executable).parent / "deno"
IMPORTS = json.loads((CLIENTS / "deno.json").read_text())["imports"]
NO_REGISTRY = "the npm registry cannot be reached"
TIMEOUT_S = 180

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TIMEOUT_S)]


async def test_the_server_serves_this_document(api: Api) -> None:
    assert (await api.get("/openapi.json")).json == json.loads(json.dumps(DOCUMENT))


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    path.write_text(json.dumps(DOCUMENT))
    return path


@pytest.fixture(scope="module")
def generated(document: Path) -> Iterator[Any]:
    """The modules of the Python client by name, without the package: all of them can be imported."""
    folder = document.parent
    (folder / "config.json").write_text('{"post_hooks": []}')
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none", "--config", "config.json"]
    done = subprocess.run(
        [*command, "--path", document, "--output-path", PACKAGE],
        cwd=folder, check=True, capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    warnings = [line for line in done.stderr.splitlines() if line.startswith(("WARNING", "Unable", "Cannot"))]
    assert set(warnings) == {"WARNING parsing POST /api/files within files."}, "it knows two of six types of a file"
    sys.path.insert(0, str(folder))
    try:
        package = importlib.import_module(PACKAGE)
        names = [module.name for module in pkgutil.walk_packages(package.__path__, f"{PACKAGE}.")]
        yield {name.removeprefix(f"{PACKAGE}."): importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(folder))


@pytest.fixture
def call(generated: Any) -> Any:
    """Operations of the Python client by their ids."""
    operations = {name.rpartition(".")[2]: module for name, module in generated.items() if name.count(".") == 2}
    return SimpleNamespace(**{name: module.asyncio for name, module in operations.items()})


@pytest.fixture
async def client(generated: Any, api: Api) -> AsyncIterator[Any]:
    url = str(api.client.make_url("")).rstrip("/")
    async with generated["client"].AuthenticatedClient(base_url=url, token=api.token) as client:
        yield client


def test_the_python_client_has_every_operation(call: Any) -> None:
    described = {one["operationId"] for methods in DOCUMENT["paths"].values() for one in methods.values()}
    assert set(vars(call)) == described


async def test_the_python_client_holds_the_output_of_every_model_type(
    generated: Any, call: Any, client: Any, api: Api
) -> None:
    models = generated["models"]
    for row in MODEL_TYPES:
        variant = "".join(word.capitalize() for word in row.name.split("-"))
        for name in row.names:
            body = getattr(models, f"Create{variant}").from_dict(body_of(row, name))
            answer = await call.create_request(client=client, body=body)
            assert type(answer) is getattr(models, f"{variant}ModelRequest"), answer
            assert type(answer.output_data) is getattr(models, row.output.__name__)
            stored = (await api.get(f"/api/requests/{answer.id}")).json
            assert stored["output_data"]
            assert answer.output_data.to_dict() == stored["output_data"]
            assert answer.input_data.to_dict() == stored["input_data"]


async def test_the_python_client_uploads_a_file_and_fetches_what_was_made_of_it(
    generated: Any, call: Any, client: Any
) -> None:
    models, file = generated["models"], generated["types"].File
    image = file(io.BytesIO(PNG), "image.png", "image/png")
    for sent in (file(PNG), models.UploadFileFilesBody(file=image)):
        upload = await call.upload_file(client=client, body=sent)
        given = models.ImageToImageInput(image=f"file:{upload.id}", prompt="Make it night.")
        body = models.CreateImageToImage(model_type="image-to-image", input_data=given)
        made = await call.create_request(client=client, body=body)
        [output] = made.output_data.files
        shown = await call.get_request_file(made.id, 0, client=client)
        assert (output.content_type, output.size) == ("image/png", len(shown.payload.read()))


async def test_the_python_client_reads_the_history_errors_and_v1(generated: Any, call: Any, client: Any) -> None:
    models = generated["models"]
    message = models.Message(role=models.MessageRole.USER, content="hello")
    chat = await call.create_chat_completion(client=client, body=models.ChatCompletionBody("default", [message]))
    assert "hello" in chat.choices[0].message.content
    vectors = await call.create_embeddings(client=client, body=models.EmbeddingsBody("default", ["a", "b"]))
    assert [len(one.embedding) > 1 for one in vectors.data] == [True, True]
    vector, reply = await call.list_requests(client=client)
    assert len(vector.output_data.embeddings) == 2
    assert reply.output_data.output == chat.choices[0].message.content
    missing = await call.get_request(UUID(int=1), client=client)
    assert (type(missing), missing.code) == (models.Problem, models.Code.NOT_FOUND)


async def deno(folder: Path, command: str, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(str(DENO), command, "--quiet", "--frozen", *arguments),
        cwd=folder,
        env=os.environ | {"DENO_DIR": str(DENO.parents[1] / "deno"), "NO_COLOR": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            said, problems = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    if b"npm package" in problems and b"client error (Connect)" in problems:
        pytest.skip(NO_REGISTRY)
    assert process.returncode == 0, (said + problems).decode()
    return said.decode()


async def test_the_types_for_typescript_take_the_body_of_the_readme_and_tell_outputs_apart(
    document: Path, api: Api
) -> None:
    folder = document.parent
    for name in ("deno.json", "deno.lock", "requests.ts"):
        shutil.copy(CLIENTS / name, folder)
    files = ("--allow-env", "--allow-read", "--allow-write=.")
    await deno(folder, "run", *files, IMPORTS["openapi-typescript"], document.name, "-o", "schema.ts")
    await deno(folder, "check", "requests.ts")
    url = str(api.client.make_url("")).rstrip("/")
    said = await deno(folder, "run", "--allow-net", "--allow-env", "requests.ts", url, str(api.token))
    assert [json.loads(line) for line in said.splitlines()] == [
        ["text", ["completed", 'Offline model, not AI: you said "Write a haiku about rain."']],
        ["no vectors", None],
        ["image", ["image/png", True]],
        ["problem", [422, "VALIDATION_ERROR"]],
        ["page", [True]],
        ["chat", "assistant"],
    ]
