"""The command `users`: what an operator sees of accounts and does to them, beside a running server or without one."""
