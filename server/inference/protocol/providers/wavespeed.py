"""wavespeed: tasks, whose state and outputs are wrapped in `data`."""

from server.inference.events import Call, Task
from server.inference.protocol.pipelines import post_json
from server.inference.protocol.providers.provider import Provider, input_file, parameters, path_of
from server.inference.protocol.wire import WireRequest


def _image(call: Call, native_id: str, url: str) -> WireRequest:
    body = {"prompt": call.input_data["prompt"], **parameters(call)}
    return post_json(call, f"{url}/api/v3/{path_of(native_id)}", body)


def _edit(call: Call, native_id: str, url: str) -> WireRequest:
    return post_json(call, f"{url}/api/v3/{path_of(native_id)}", {"image": input_file(call), **parameters(call)})


PROVIDER = Provider(
    name="wavespeed",
    builders={Task.TEXT_TO_IMAGE: _image, Task.IMAGE_TO_IMAGE: _edit},
    hosts=frozenset({"api.wavespeed.ai"}),
    holders=("data", "outputs"),
)
