"""Files of users: uploads, request inputs and model outputs. Each has a row before it has bytes."""
