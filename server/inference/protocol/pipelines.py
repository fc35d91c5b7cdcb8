"""Calls of hf-inference's pipelines, and of self-hosted ones: `{inputs, parameters}`, or raw bytes.

Shapes: huggingface.js `packages/tasks`, and the providers of huggingface_hub (`hf_inference.py`).
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from server.inference.events import Call, Task
from server.inference.protocol.addresses import HF_INFERENCE, api_root, provider_of, server_root, split_id
from server.inference.protocol.wire import BadModel, Base64, WireRequest, attachment_of, encode, named, with_extra

IMAGE_INPUT = frozenset(
    {
        Task.IMAGE_TO_IMAGE,
        Task.IMAGE_CLASSIFICATION,
        Task.OBJECT_DETECTION,
        Task.IMAGE_SEGMENTATION,
        Task.IMAGE_TO_TEXT,
    }
)
AUDIO_INPUT = frozenset({Task.AUTOMATIC_SPEECH_RECOGNITION, Task.AUDIO_CLASSIFICATION})
_UNDER_PIPELINE = frozenset({Task.FEATURE_EXTRACTION, Task.SENTENCE_SIMILARITY})
"""Models of these tasks have several pipelines, and the default may be another one."""
_ACCEPT = {
    Task.TEXT_TO_IMAGE: "image/png, application/json",
    Task.IMAGE_TO_IMAGE: "image/png, application/json",
    Task.TEXT_TO_SPEECH: "audio/*, application/json",
}
_ENDPOINT_NAMES = {
    **{f"image/{name}": f"image/{name}" for name in ("png", "jpeg", "tiff", "bmp", "gif", "webp")},
    **{f"audio/{name}": f"audio/{name}" for name in ("flac", "mpeg", "wav", "ogg", "webm", "amr")},
    "audio/amr-wb": "audio/AMR-WB",
    "video/webm": "audio/webm",
    **{f"{kind}/{name}": "audio/m4a" for kind in ("audio", "video") for name in ("mp4", "3gpp", "3gpp2")},
    "video/quicktime": "audio/m4a",
}
"""The types of huggingface-inference-toolkit (`serialization/base.py`), which answers 400 to any other, by ours.

It hands all sound to ffmpeg, which reads the containers of the MP4 family with the same demuxer.
"""
_OF_OPENAI = frozenset({"dimensions", "extra"})
"""Parameters of embeddings on the OpenAI-compatible path; TEI's own path has the others."""
NOT_SERVED = {
    Task.AUDIO_CLASSIFICATION: "No provider behind Hugging Face's router serves audio classification today. "
    "Where one does, name it with the model (organisation/name:provider), or set HF_BASE_URL to a server of your own.",
    Task.IMAGE_TO_TEXT: "No provider behind Hugging Face's router serves image-to-text today. "
    "Ask a chat model that can see: model_type 'chat', with the image as a part of the message.",
}


def build_pipeline(call: Call, model: str, base_url: str) -> WireRequest:
    """The request to hf-inference, behind the router."""
    name, _ = provider_of(model)
    if call.task in NOT_SERVED and split_id(model)[1] != HF_INFERENCE:
        raise BadModel(NOT_SERVED[call.task])
    url = f"{base_url.rstrip('/')}/hf-inference/models/{quote(name)}"
    return _ask(call, f"{url}/pipeline/{call.task}" if call.task in _UNDER_PIPELINE else url)


def build_own(call: Call, model: str | None, base_url: str) -> WireRequest:
    """The request to a self-hosted server: an Inference Endpoint, TEI, or any server with OpenAI's embeddings."""
    if call.task is Task.SENTENCE_SIMILARITY:
        return _ask(call, f"{server_root(base_url)}/similarity")
    if call.task is not Task.FEATURE_EXTRACTION:
        return _ask(call, f"{server_root(base_url)}/", names=_ENDPOINT_NAMES)
    if call.parameters.keys() - _OF_OPENAI:
        return _ask(call, f"{server_root(base_url)}/embed")
    return post_json(call, f"{api_root(base_url)}/embeddings", embedding_body(call, model))


def embedding_body(call: Call, model: str | None) -> dict[str, Any]:
    return {**named(model), "input": call.input_data["text"], **with_extra(call.parameters)}


def post_json(
    call: Call, url: str, body: Mapping[str, Any], *, headers: Mapping[str, str] | None = None
) -> WireRequest:
    return WireRequest(
        "POST",
        url,
        {"Content-Type": "application/json", "Accept": accepted(call.task), **(headers or {})},
        encode(body),
    )


def accepted(task: Task) -> str:
    """The `Accept` header. Without JSON in it, a refused token is answered with an HTML page."""
    return _ACCEPT.get(task, "application/json")


def file_of(call: Call) -> str:
    """The reference to the one file of the input."""
    return str(call.input_data["audio" if call.task in AUDIO_INPUT else "image"])


def parameters_of(call: Call) -> dict[str, Any]:
    """The parameters of the call; for image-to-image the prompt is one of them."""
    prompt = call.input_data.get("prompt") if call.task is Task.IMAGE_TO_IMAGE else None
    return {**with_extra(call.parameters), **({} if prompt is None else {"prompt": prompt})}


def _ask(call: Call, url: str, *, names: Mapping[str, str] | None = None) -> WireRequest:
    """`names`: the types that the server takes in a header, by ours. A file of another type is sent in JSON."""
    parameters = parameters_of(call)
    if call.task is Task.FEATURE_EXTRACTION:
        return post_json(call, url, {"inputs": call.input_data["text"], **parameters})
    if call.task not in IMAGE_INPUT | AUDIO_INPUT:
        return post_json(call, url, _with_parameters(_inputs_of(call), parameters))
    attachment = attachment_of(call, file_of(call))
    content_type = attachment.content_type if names is None else names.get(attachment.content_type)
    if parameters or content_type is None:
        return post_json(call, url, _with_parameters(Base64(attachment), parameters))
    headers = {"Content-Type": content_type, "Accept": accepted(call.task)}
    return WireRequest("POST", url, headers, attachment.raw())


def _with_parameters(inputs: Any, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {"inputs": inputs, "parameters": parameters} if parameters else {"inputs": inputs}


def _inputs_of(call: Call) -> Any:
    data = call.input_data
    match call.task:
        case Task.QUESTION_ANSWERING:
            return {"question": data["question"], "context": data["context"]}
        case Task.TABLE_QUESTION_ANSWERING:
            table = data["table"]
            # The specification says `question`; recorded successful calls say `query`.
            return {"query": data["question"], "table": {name: table[name] for name in data.get("columns", table)}}
        case Task.SENTENCE_SIMILARITY:
            return {"source_sentence": data["source_sentence"], "sentences": data["sentences"]}
        case Task.TEXT_TO_IMAGE:
            return data["prompt"]
    return data["text"]
