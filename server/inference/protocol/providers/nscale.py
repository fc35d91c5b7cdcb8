"""nscale: images in OpenAI's shape."""

from server.inference.events import Call, Task
from server.inference.protocol.pipelines import post_json
from server.inference.protocol.providers.provider import Provider, parameters
from server.inference.protocol.wire import WireRequest


def _image(call: Call, native_id: str, url: str) -> WireRequest:
    given = parameters(call)
    given.pop("num_inference_steps", None)  # nscale refuses it
    if "width" in given and "height" in given:
        given["size"] = f"{given.pop('width')}x{given.pop('height')}"
    body = {"model": native_id, "prompt": call.input_data["prompt"], "response_format": "b64_json", **given}
    return post_json(call, f"{url}/v1/images/generations", body)


PROVIDER = Provider(name="nscale", builders={Task.TEXT_TO_IMAGE: _image}, holders=("data",), file_fields=("b64_json",))
