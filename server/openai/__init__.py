"""OpenAI's HTTP protocol on top of model requests: bodies in, objects, chunks and errors out. Pure."""

PREFIX = "/v1/"
"""Below it, everything has the shape that clients of OpenAI read, errors included."""
