"""The arguments of the command `users`."""

import argparse

_DEFAULT_LIMIT = 1000
_MAX_LIMIT = 1_000_000
_PURPOSES = {
    "show": "show an account and what it has",
    "invite": "let somebody sign up with this address",
    "suspend": "refuse an account until it is restored",
    "restore": "end a suspension",
    "delete": "delete an account with all its requests and files",
}


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > _MAX_LIMIT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number up to {_MAX_LIMIT}")
    return int(text)


def add_users_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    users = commands.add_parser("users", help="list accounts, and show, invite, suspend, restore or delete one")
    actions = users.add_subparsers(dest="action", metavar="action", required=True)
    listing = actions.add_parser("list", help="list accounts, the newest first")
    listing.add_argument("--limit", type=_count, default=_DEFAULT_LIMIT, help=f"at most this many ({_DEFAULT_LIMIT})")
    listing.add_argument("--json", action="store_true", help="print JSON")
    for name, purpose in _PURPOSES.items():
        action = actions.add_parser(name, help=purpose)
        action.add_argument("email", help="the account's address" + ("" if name == "invite" else ", or its id"))
        action.add_argument("--json", action="store_true", help="print JSON")
        if name == "delete":
            action.add_argument("--yes", action="store_true", help="do not ask")
