"""Parses the command line and runs one command."""

import argparse
import asyncio
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

from server import __version__
from server.commands.serve import EXIT_CANNOT_WORK, serve
from server.commands.setting_names import find_unread, given_names
from server.commands.users.parser import add_users_parser
from server.errors import CannotStart
from server.settings import Settings
from server.telemetry.log_writer import LogWriter
from server.telemetry.logs import logging_to

EXIT_FAILED = 1
_PRINTING = frozenset({"users", "usage", "psql"})
"""Their output is for people and scripts, so the log goes to stderr."""
_MOVES = {
    "export": "write accounts, requests and files to an archive",
    "import": "load an archive of `export` into another database",
    "backup": "write all of the embedded database, and the files, to an archive",
    "restore": "create an embedded database from an archive of `backup`",
}


def run(arguments: list[str]) -> int:
    """Run one command. Returns the exit code: 0 success, 1 failure, 2 wrong configuration."""
    options = _parse(arguments)
    _forbid_core_dumps()
    try:
        settings = Settings.load(needs_model=options.command not in {"migrate", "set-password", *_PRINTING, *_MOVES})
    except CannotStart as error:
        unread = find_unread(given_names())
        return _refuse(
            *error.faults, *(f"{name} is set, which is not read: set {ours}." for name, ours in unread.items())
        )
    stream = sys.stderr if options.command in _PRINTING else sys.stdout
    try:
        with logging_to(stream, settings) as output, asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_command(options, settings, output))
    except CannotStart as error:
        return _refuse(*error.faults)
    except KeyboardInterrupt:
        return EXIT_FAILED


async def _command(  # noqa: C901, PLR0911, PLR0912 - a table
    options: argparse.Namespace, settings: Settings, output: LogWriter
) -> int:
    match options.command:
        case "migrate":
            from server.commands.migrate import run_migrate  # noqa: PLC0415 - `serve` does not need it

            return await run_migrate(settings, status_only=options.status)
        case "doctor":
            from server.commands.doctor import run_doctor  # noqa: PLC0415 - as above

            return await run_doctor(settings)
        case "set-password":
            from server.commands.set_password import run_set_password  # noqa: PLC0415 - as above

            return await run_set_password(settings, options.email)
        case "users":
            from server.commands.users.command import run_users  # noqa: PLC0415 - as above

            return await run_users(settings, options)
        case "psql":
            from server.commands.psql import run_psql  # noqa: PLC0415 - as above

            return await run_psql(settings, options.rest)
        case "usage":
            from server.commands.usage import run_usage  # noqa: PLC0415 - as above

            return await run_usage(settings, options)
        case "export":
            from server.commands.moving.exporter import run_export  # noqa: PLC0415 - as above

            return await run_export(settings, options.file)
        case "import":
            from server.commands.moving.importer import run_import  # noqa: PLC0415 - as above

            return await run_import(settings, options.file)
        case "backup":
            from server.commands.moving.backups import run_backup  # noqa: PLC0415 - as above

            return await run_backup(settings, options.file)
        case "restore":
            from server.commands.moving.backups import run_restore  # noqa: PLC0415 - as above

            return await run_restore(settings, options.file)
        case "worker":
            from server.commands.workers import work  # noqa: PLC0415 - as above

            return await work(settings, number=options.number, ready=options.ready)
        case _ if settings.workers > 1:
            from server.commands.workers import serve_with_workers  # noqa: PLC0415 - as above

            return await serve_with_workers(settings, output)
        case _:
            return await serve(settings, output)


def _parse(arguments: list[str]) -> argparse.Namespace:
    """The options. Only `psql` takes arguments that are not declared here, as `rest`."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command != "psql":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ai-sdk-server", description="The server behind an AI SDK client library.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="command")
    commands.add_parser("serve", help="run the server (the default)")
    migrate = commands.add_parser("migrate", help="bring the database to the newest schema")
    migrate.add_argument("--status", action="store_true", help="only show what is applied and what is missing")
    commands.add_parser("doctor", help="check settings, database and upstream, and say what to do")
    password = commands.add_parser("set-password", help="give an account a new password, and end its sessions")
    password.add_argument("email", help="the account's address; the password is asked for, or read from a pipe")
    add_users_parser(commands)
    commands.add_parser("psql", help="open the database in psql, which gets all further arguments", add_help=False)
    usage = commands.add_parser("usage", help="show what users have used, and what it cost")
    usage.add_argument("--user", metavar="EMAIL", help="only this account")
    usage.add_argument("--by", type=_read_groups, default=("user", "model"), help="of user,day,model: a row for each")
    usage.add_argument("--from", dest="first", type=date.fromisoformat, metavar="DAY", help="such as 2026-11-01")
    usage.add_argument("--to", dest="last", type=date.fromisoformat, metavar="DAY", help="included; by default today")
    form = usage.add_mutually_exclusive_group()
    form.add_argument("--csv", dest="form", action="store_const", const="csv", help="CSV instead of a table")
    form.add_argument("--json", dest="form", action="store_const", const="json", help="JSON, with exact numbers")
    for name, purpose in _MOVES.items():
        commands.add_parser(name, help=purpose).add_argument("file", type=Path)
    worker = commands.add_parser("worker")  # internal: `serve` starts it if WORKERS is greater than 1
    worker.add_argument("number", type=int)
    worker.add_argument("ready", type=int)
    return parser


def _forbid_core_dumps() -> None:
    """A core dump would hold tokens, keys and prompts. Child processes inherit the limit, the embedded Postgres too."""
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - not on Windows

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _read_groups(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not {*names} <= {"user", "day", "model"}:
        raise argparse.ArgumentTypeError("must be of user, day and model, with commas between them")
    return names


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - not on Windows
    except ImportError:
        return None  # asyncio's own loop works too, at two thirds of the speed
    return uvloop.new_event_loop


def _refuse(*lines: str) -> int:
    for line in lines:
        print(f"Cannot start: {line}", file=sys.stderr)  # noqa: T201 - for a person
    return EXIT_CANNOT_WORK
