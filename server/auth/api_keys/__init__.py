"""API keys: how they look, which are valid, and how users manage them."""
