"""The OpenAPI 3.1 description of the HTTP interface, made from the routes and from the models of bodies."""
