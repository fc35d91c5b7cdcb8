"""fal.ai: JSON with URLs of files; image editing goes through its queue."""

from typing import Any

from server.inference.events import Call, Task
from server.inference.protocol.pipelines import post_json
from server.inference.protocol.providers.provider import Provider, input_file, parameters, path_of, speech_parameters
from server.inference.protocol.wire import WireRequest

QUEUE = "?_subdomain=queue"
"""Makes the router call fal.ai's queue."""
_BASE_OF_LORA = "stabilityai/stable-diffusion-xl-base-1.0"
"""The route fal-ai/lora has no model of its own (fal_ai.py)."""


def _image(call: Call, native_id: str, url: str) -> WireRequest:
    body = {"prompt": call.input_data["prompt"], **parameters(call)}
    if "width" in body and "height" in body:
        body["image_size"] = {"width": body.pop("width"), "height": body.pop("height")}
    return post_json(call, f"{url}/{path_of(native_id)}", body)


def _edit(call: Call, native_id: str, url: str) -> WireRequest:
    image = input_file(call)
    body = {"image_url": image, "image_urls": [image], **parameters(call, target_size="image_size")}
    return post_json(call, f"{url}/{path_of(native_id)}{QUEUE}", body)


def _speech(call: Call, native_id: str, url: str) -> WireRequest:
    body = {"text": call.input_data["text"], **speech_parameters(call)}
    return post_json(call, f"{url}/{path_of(native_id)}", body)


def _transcription(call: Call, native_id: str, url: str) -> WireRequest:
    return post_json(call, f"{url}/{path_of(native_id)}", {"audio_url": input_file(call), **parameters(call)})


def _adapt(native_id: str, adapter_url: str) -> dict[str, Any]:
    base = {"model_name": _BASE_OF_LORA} if native_id == "fal-ai/lora" else {}
    return {"loras": [{"path": adapter_url, "scale": 1}], **base}


PROVIDER = Provider(
    name="fal-ai",
    builders={
        Task.TEXT_TO_IMAGE: _image,
        Task.IMAGE_TO_IMAGE: _edit,
        Task.TEXT_TO_SPEECH: _speech,
        Task.AUTOMATIC_SPEECH_RECOGNITION: _transcription,
    },
    hosts=frozenset({"queue.fal.run", "fal.run"}),
    holders=("images", "image", "audio"),
    file_fields=("url", "image_url", "audio_url"),
    adapt=_adapt,
)
