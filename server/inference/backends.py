"""Creates the upstream that the settings name."""

from server.inference.edge import EDGE_TIMEOUT_S, EdgeFunction
from server.inference.events import Upstream
from server.inference.huggingface import HuggingFace
from server.inference.offline import Offline
from server.settings import Backend, Settings


def create_upstream(settings: Settings) -> Upstream:
    """The upstream of this server. It connects when it is first used."""
    if settings.backend is Backend.OFFLINE:
        return Offline()
    if settings.backend is Backend.EDGE:
        return _edge_function(settings)
    token = settings.hf_api_token
    return HuggingFace(
        base_url=settings.hf_base_url,
        token=None if token is None else token.get_secret_value(),
        timeout_s=settings.model_timeout_s,
        max_retries=settings.max_retries,
        connections=settings.concurrency,
        rate_per_minute=settings.model_rate_per_minute,
    )


def _edge_function(settings: Settings) -> EdgeFunction:
    key = settings.supabase_service_role_key
    return EdgeFunction(
        supabase_url=settings.supabase_url or "",
        key="" if key is None else key.get_secret_value(),  # the settings require both
        timeout_s=EDGE_TIMEOUT_S,
        connections=settings.concurrency,
        rate_per_minute=settings.model_rate_per_minute,
    )
