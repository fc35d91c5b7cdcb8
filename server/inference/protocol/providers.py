"""Calls of single providers behind the router, each in its own shape: images, speech, recognition, embeddings.

Shapes: huggingface_hub 2.4.0, `inference/_providers`; a provider knows a model by an id of its own.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from server.inference.events import Call, Task
from server.inference.protocol.addresses import is_dots
from server.inference.protocol.multipart import build_form
from server.inference.protocol.native_ids import NativeModel
from server.inference.protocol.pipelines import embedding_body, file_of, parameters_of, post_json
from server.inference.protocol.wire import BadModel, Base64, WireRequest, as_data_url, attachment_of

FAL, REPLICATE, WAVESPEED = "fal-ai", "replicate", "wavespeed"
QUEUE = "?_subdomain=queue"
"""How the router is told to go to fal.ai's queue."""

_BASE_OF_FAL_LORA = "stabilityai/stable-diffusion-xl-base-1.0"
"""That route has no model of its own (fal_ai.py)."""

_Build = Callable[[Call, str, str], WireRequest]


def serves(provider: str, task: Task) -> bool:
    """Whether it is known how to ask this provider for this."""
    return (provider, task) in _BUILDERS


def build_at_provider(call: Call, provider: str, native: NativeModel, base_url: str) -> WireRequest:
    """Raises `BadModel` for a model whose id does not fit into a path."""
    if any(is_dots(segment) or not segment for segment in native.id.split("/")):
        raise BadModel("The provider knows this model under no name that could be asked for.")
    adapted = replace(call, parameters={**call.parameters, **_adapter(provider, native)})
    return _BUILDERS[provider, call.task](adapted, native.id, f"{base_url.rstrip('/')}/{provider}")


def _adapter(provider: str, native: NativeModel) -> dict[str, Any]:
    """The parameters that lay an adapter's weights over the model that the provider has."""
    if native.adapter_url is None:
        return {}
    if provider == FAL:
        base = {"model_name": _BASE_OF_FAL_LORA} if native.id == "fal-ai/lora" else {}
        return {"loras": [{"path": native.adapter_url, "scale": 1}], **base}
    return {"lora_weights": native.adapter_url.partition("/resolve/")[0]} if provider == REPLICATE else {}


def _parameters(call: Call, **renamed: str) -> dict[str, Any]:
    """The call's parameters under the provider's names."""
    return {renamed.get(name, name): value for name, value in parameters_of(call).items()}


def _image(call: Call) -> Base64:
    return as_data_url(attachment_of(call, file_of(call)))


def _path(native_id: str) -> str:
    return quote(native_id, safe="/", errors="replace")


def _fal_image(call: Call, native_id: str, url: str) -> WireRequest:
    body = {"prompt": call.input_data["prompt"], **_parameters(call)}
    if "width" in body and "height" in body:
        body["image_size"] = {"width": body.pop("width"), "height": body.pop("height")}
    return post_json(call, f"{url}/{_path(native_id)}", body)


def _fal_edit(call: Call, native_id: str, url: str) -> WireRequest:
    image = _image(call)
    body = {"image_url": image, "image_urls": [image], **_parameters(call, target_size="image_size")}
    return post_json(call, f"{url}/{_path(native_id)}{QUEUE}", body)


def _fal_speech(call: Call, native_id: str, url: str) -> WireRequest:
    return post_json(call, f"{url}/{_path(native_id)}", {"text": call.input_data["text"], **_speech(call)})


def _fal_transcription(call: Call, native_id: str, url: str) -> WireRequest:
    return post_json(call, f"{url}/{_path(native_id)}", {"audio_url": _image(call), **_parameters(call)})


def _speech(call: Call) -> dict[str, Any]:
    """Providers take what hf-inference nests."""
    parameters = dict(call.parameters)
    return {**(parameters.pop("generation_parameters", None) or {}), **parameters}


def _replicate(call: Call, native_id: str, url: str, given: dict[str, Any]) -> WireRequest:
    model, _, version = native_id.partition(":")
    body: dict[str, Any] = {"input": given}
    if version:
        body["version"] = version
    path = "/v1/predictions" if version else f"/v1/models/{_path(model)}/predictions"
    return post_json(call, url + path, body, headers={"Prefer": "wait"})


def _replicate_image(call: Call, native_id: str, url: str) -> WireRequest:
    return _replicate(call, native_id, url, {"prompt": call.input_data["prompt"], **_parameters(call)})


def _replicate_edit(call: Call, native_id: str, url: str) -> WireRequest:
    """Its models look for the image under different names (replicate.py)."""
    image = _image(call)
    given = {"image": image, "images": [image], "input_image": image, "input_images": [image]}
    return _replicate(call, native_id, url, given | _parameters(call))


def _replicate_speech(call: Call, native_id: str, url: str) -> WireRequest:
    return _replicate(call, native_id, url, {"text": call.input_data["text"], **_speech(call)})


def _replicate_transcription(call: Call, native_id: str, url: str) -> WireRequest:
    return _replicate(call, native_id, url, {"audio": _image(call), **_parameters(call)})


def _together_image(call: Call, native_id: str, url: str) -> WireRequest:
    body = {
        "model": native_id,
        "prompt": call.input_data["prompt"],
        "response_format": "base64",
        **_parameters(call, num_inference_steps="steps"),
    }
    return post_json(call, f"{url}/v1/images/generations", body)


def _together_edit(call: Call, native_id: str, url: str) -> WireRequest:
    """FLUX.1 Kontext alone takes `image_url`; the others take `reference_images` (together.py)."""
    takes_one = "kontext" in native_id.lower() and "flux.1" in native_id.lower()
    parameters = _parameters(call, num_inference_steps="steps")
    if size := parameters.pop("target_size", None):
        parameters |= size
    body = {
        "model": native_id,
        "prompt": parameters.pop("prompt", ""),
        **({"image_url": _image(call)} if takes_one else {"reference_images": [_image(call)]}),
        "response_format": "base64",
        **parameters,
    }
    return post_json(call, f"{url}/v1/images/generations", body)


def _nscale_image(call: Call, native_id: str, url: str) -> WireRequest:
    parameters = _parameters(call)
    parameters.pop("num_inference_steps", None)  # refused there
    if "width" in parameters and "height" in parameters:
        parameters["size"] = f"{parameters.pop('width')}x{parameters.pop('height')}"
    body = {
        "model": native_id,
        "prompt": call.input_data["prompt"],
        "response_format": "b64_json",
        **parameters,
    }
    return post_json(call, f"{url}/v1/images/generations", body)


def _wavespeed_image(call: Call, native_id: str, url: str) -> WireRequest:
    body = {"prompt": call.input_data["prompt"], **_parameters(call)}
    return post_json(call, f"{url}/api/v3/{_path(native_id)}", body)


def _wavespeed_edit(call: Call, native_id: str, url: str) -> WireRequest:
    return post_json(call, f"{url}/api/v3/{_path(native_id)}", {"image": _image(call), **_parameters(call)})


def _openai(path: str) -> _Build:
    """Speech and embeddings in OpenAI's shape, at the path where a provider has it."""

    def build(call: Call, native_id: str, url: str) -> WireRequest:
        if call.task is Task.FEATURE_EXTRACTION:
            return post_json(call, url + path, embedding_body(call, native_id))
        return post_json(call, url + path, {"model": native_id, "input": call.input_data["text"], **_speech(call)})

    return build


def _deepinfra_transcription(call: Call, native_id: str, url: str) -> WireRequest:
    attachment = attachment_of(call, file_of(call))
    fields = {**_parameters(call), "model": native_id}
    return build_form(f"{url}/v1/openai/audio/transcriptions", attachment, fields)


_BUILDERS: dict[tuple[str, Task], _Build] = {
    (FAL, Task.TEXT_TO_IMAGE): _fal_image,
    (FAL, Task.IMAGE_TO_IMAGE): _fal_edit,
    (FAL, Task.TEXT_TO_SPEECH): _fal_speech,
    (FAL, Task.AUTOMATIC_SPEECH_RECOGNITION): _fal_transcription,
    (REPLICATE, Task.TEXT_TO_IMAGE): _replicate_image,
    (REPLICATE, Task.IMAGE_TO_IMAGE): _replicate_edit,
    (REPLICATE, Task.TEXT_TO_SPEECH): _replicate_speech,
    (REPLICATE, Task.AUTOMATIC_SPEECH_RECOGNITION): _replicate_transcription,
    ("together", Task.TEXT_TO_IMAGE): _together_image,
    ("together", Task.IMAGE_TO_IMAGE): _together_edit,
    ("together", Task.TEXT_TO_SPEECH): _openai("/v1/audio/speech"),
    ("together", Task.FEATURE_EXTRACTION): _openai("/v1/embeddings"),
    ("nscale", Task.TEXT_TO_IMAGE): _nscale_image,
    (WAVESPEED, Task.TEXT_TO_IMAGE): _wavespeed_image,
    (WAVESPEED, Task.IMAGE_TO_IMAGE): _wavespeed_edit,
    ("scaleway", Task.FEATURE_EXTRACTION): _openai("/v1/embeddings"),
    ("deepinfra", Task.FEATURE_EXTRACTION): _openai("/v1/openai/embeddings"),
    ("deepinfra", Task.TEXT_TO_SPEECH): _openai("/v1/openai/audio/speech"),
    ("deepinfra", Task.AUTOMATIC_SPEECH_RECOGNITION): _deepinfra_transcription,
}
