"""The command `users`: what an operator sees of accounts and does to them, with or without a running server."""
