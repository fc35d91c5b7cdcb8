"""The state of the configured upstream, from the answer to a free request, in a sentence for the operator. Pure."""

from server.inference.events import Check, Fault
from server.inference.protocol import Unintelligible, UpstreamError, read_models, to_words

_FAULTS = {401: Fault.TOKEN_REFUSED, 402: Fault.NO_CREDITS, 403: Fault.NO_PERMISSION}


def judge_probe(error: UpstreamError | None) -> Check:
    """The router was asked for an impossible model: the refusal of it is a success."""
    if error is None or error.is_model_missing:
        return Check(None, "Hugging Face answers and takes the token.")
    return _judge_error(error)


def judge_listing(body: bytes, error: UpstreamError | None, *, base_url: str) -> Check:
    """A self-hosted server was asked for its models."""
    if error is not None:
        return _judge_error(error)
    try:
        models = read_models(body)
    except Unintelligible:
        return Check(Fault.UNEXPECTED, f"{base_url} does not list its models: see that HF_BASE_URL is right.")
    if not models:
        return Check(Fault.UNEXPECTED, f"{base_url} answers, but has no model: load one there.")
    return Check(None, f"{base_url} answers; its first model is {to_words(models[0])}.")


def _judge_error(error: UpstreamError) -> Check:
    if error.status is None:
        remedy = "See that HF_BASE_URL is right and that this machine may connect to it."
        return Check(Fault.UNREACHABLE, f"{error.message} {remedy}")
    if fault := _FAULTS.get(error.status):
        return Check(fault, error.message)
    return Check(Fault.UNEXPECTED, f"{error.message} See that HF_BASE_URL is right; otherwise try again later.")
