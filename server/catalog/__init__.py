"""The catalog: model types, their models, and the schemas of their input, parameters and output."""

from server.catalog.catalog import Catalog, read_create
from server.catalog.default_models import OFFLINE_MODELS, ROUTER_CHAT_MODELS, ROUTER_GENERATION_MODELS, ROUTER_MODELS
from server.catalog.model_types import MODEL_TYPES, ModelType

__all__ = [
    "MODEL_TYPES",
    "OFFLINE_MODELS",
    "ROUTER_CHAT_MODELS",
    "ROUTER_GENERATION_MODELS",
    "ROUTER_MODELS",
    "Catalog",
    "ModelType",
    "read_create",
]
