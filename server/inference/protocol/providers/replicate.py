"""replicate: predictions, of a model or of one version of it."""

from typing import Any

from server.inference.events import Call, Task
from server.inference.protocol.pipelines import post_json
from server.inference.protocol.providers.provider import Provider, input_file, parameters, path_of, speech_parameters
from server.inference.protocol.wire import WireRequest


def _predict(call: Call, native_id: str, url: str, given: dict[str, Any]) -> WireRequest:
    model, _, version = native_id.partition(":")
    body: dict[str, Any] = {"input": given}
    if version:
        body["version"] = version
    path = "/v1/predictions" if version else f"/v1/models/{path_of(model)}/predictions"
    return post_json(call, url + path, body, headers={"Prefer": "wait"})


def _image(call: Call, native_id: str, url: str) -> WireRequest:
    return _predict(call, native_id, url, {"prompt": call.input_data["prompt"], **parameters(call)})


def _edit(call: Call, native_id: str, url: str) -> WireRequest:
    """Its models read the image from different fields (replicate.py)."""
    image = input_file(call)
    given = {"image": image, "images": [image], "input_image": image, "input_images": [image]}
    return _predict(call, native_id, url, given | parameters(call))


def _speech(call: Call, native_id: str, url: str) -> WireRequest:
    return _predict(call, native_id, url, {"text": call.input_data["text"], **speech_parameters(call)})


def _transcription(call: Call, native_id: str, url: str) -> WireRequest:
    return _predict(call, native_id, url, {"audio": input_file(call), **parameters(call)})


def _adapt(_native_id: str, adapter_url: str) -> dict[str, Any]:
    return {"lora_weights": adapter_url.partition("/resolve/")[0]}


PROVIDER = Provider(
    name="replicate",
    builders={
        Task.TEXT_TO_IMAGE: _image,
        Task.IMAGE_TO_IMAGE: _edit,
        Task.TEXT_TO_SPEECH: _speech,
        Task.AUTOMATIC_SPEECH_RECOGNITION: _transcription,
    },
    hosts=frozenset({"api.replicate.com"}),
    holders=("output",),
    adapt=_adapt,
)
