"""The OpenAPI 3.1 description of the HTTP interface, built from the models and errors that the server itself uses."""

from server.openapi.document import build_document

__all__ = ["build_document"]
