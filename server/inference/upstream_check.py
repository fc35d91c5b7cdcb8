"""Turns the answer to a free call into a check result for the operator. Pure."""

from server.inference.events import Check, UpstreamFault
from server.inference.protocol import Unintelligible, UpstreamError, read_models, to_words

_FAULTS = {401: UpstreamFault.TOKEN_REFUSED, 402: UpstreamFault.NO_CREDITS, 403: UpstreamFault.NO_PERMISSION}


def judge_probe(error: UpstreamError | None) -> Check:
    """For a call to the router with a model that cannot exist: the error that says so is the good answer."""
    if error is None or error.is_model_missing:
        return Check(None, "Hugging Face answers and accepts the token.")
    return _judge_error(error)


def judge_listing(body: bytes, error: UpstreamError | None, *, base_url: str) -> Check:
    """For a call to an own server that lists its models."""
    if error is not None:
        return _judge_error(error)
    try:
        models = read_models(body)
    except Unintelligible:
        return Check(UpstreamFault.UNEXPECTED, f"{base_url} does not list its models: check HF_BASE_URL.")
    if not models:
        return Check(UpstreamFault.UNEXPECTED, f"{base_url} answers, but has no model: load one there.")
    return Check(None, f"{base_url} answers; its first model is {to_words(models[0])}.")


def _judge_error(error: UpstreamError) -> Check:
    if error.status is None:
        return Check(
            UpstreamFault.UNREACHABLE, f"{error.message} Check HF_BASE_URL, and that this machine may connect to it."
        )
    if fault := _FAULTS.get(error.status):
        return Check(fault, error.message)
    return Check(UpstreamFault.UNEXPECTED, f"{error.message} Check HF_BASE_URL, or try again later.")
