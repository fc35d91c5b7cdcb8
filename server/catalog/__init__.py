"""What can be asked for: model types, their tasks and models, and what input and parameters each takes."""

from server.catalog.catalog import Catalog, read_create
from server.catalog.model_types import MODEL_TYPES, ModelType
from server.catalog.models import OFFLINE_MODELS, ROUTER_CHAT_MODELS, ROUTER_GENERATION_MODELS, ROUTER_MODELS

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
