"""OpenAI's HTTP protocol on top of model requests: bodies in, objects, chunks and errors out. Pure."""

PREFIX = "/v1/"
"""Responses below it have OpenAI's shapes, errors included."""
