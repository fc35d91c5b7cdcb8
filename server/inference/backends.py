"""Chooses what runs the generations, by the settings."""

from server.inference.events import Upstream
from server.inference.huggingface import HuggingFace
from server.inference.offline import Offline
from server.settings import Backend, Settings


def create_upstream(settings: Settings) -> Upstream:
    """The upstream of this server. It connects when it is first used."""
    if settings.backend is Backend.OFFLINE:
        return Offline()
    token = settings.hf_api_token
    return HuggingFace(
        base_url=settings.hf_base_url,
        token=None if token is None else token.get_secret_value(),
        timeout_s=settings.model_timeout_s,
        max_retries=settings.max_retries,
        connections=settings.concurrency,
    )
