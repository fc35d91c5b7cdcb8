"""DeepInfra: OpenAI's shapes, below `/v1/openai`."""

from server.inference.events import Call, Task
from server.inference.protocol.multipart import build_form
from server.inference.protocol.pipelines import file_of
from server.inference.protocol.providers.provider import Provider, openai_call, parameters
from server.inference.protocol.wire import WireRequest, attachment_of


def _transcription(call: Call, native_id: str, url: str) -> WireRequest:
    attachment = attachment_of(call, file_of(call))
    fields = {**parameters(call), "model": native_id}
    return build_form(f"{url}/v1/openai/audio/transcriptions", attachment, fields)


PROVIDER = Provider(
    name="deepinfra",
    builders={
        Task.FEATURE_EXTRACTION: openai_call("/v1/openai/embeddings"),
        Task.TEXT_TO_SPEECH: openai_call("/v1/openai/audio/speech"),
        Task.AUTOMATIC_SPEECH_RECOGNITION: _transcription,
    },
    completions="/v1/openai/completions",
)
