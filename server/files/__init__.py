"""Files of users: uploads, inputs of requests, what models make; each has a row before it has bytes."""
