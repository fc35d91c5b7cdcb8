"""together: OpenAI's shapes, with images in base64."""

from server.inference.events import Call, Task
from server.inference.protocol.pipelines import post_json
from server.inference.protocol.providers.provider import Provider, input_file, openai_call, parameters
from server.inference.protocol.wire import WireRequest


def _image(call: Call, native_id: str, url: str) -> WireRequest:
    body = {
        "model": native_id,
        "prompt": call.input_data["prompt"],
        "response_format": "base64",
        **parameters(call, num_inference_steps="steps"),
    }
    return post_json(call, f"{url}/v1/images/generations", body)


def _edit(call: Call, native_id: str, url: str) -> WireRequest:
    """FLUX.1 Kontext takes `image_url`, all other models take `reference_images` (together.py)."""
    takes_one = "kontext" in native_id.lower() and "flux.1" in native_id.lower()
    given = parameters(call, num_inference_steps="steps")
    if size := given.pop("target_size", None):
        given |= size
    body = {
        "model": native_id,
        "prompt": given.pop("prompt", ""),
        **({"image_url": input_file(call)} if takes_one else {"reference_images": [input_file(call)]}),
        "response_format": "base64",
        **given,
    }
    return post_json(call, f"{url}/v1/images/generations", body)


PROVIDER = Provider(
    name="together",
    builders={
        Task.TEXT_TO_IMAGE: _image,
        Task.IMAGE_TO_IMAGE: _edit,
        Task.TEXT_TO_SPEECH: openai_call("/v1/audio/speech"),
        Task.FEATURE_EXTRACTION: openai_call("/v1/embeddings"),
    },
    completions="/v1/completions",
    holders=("data",),
    file_fields=("b64_json", "base64"),
)
