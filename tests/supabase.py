"""Databases as Supabase has them: its roles, its schemas, and a role `postgres` that is no superuser."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from server.storage.embedded.binaries import Binaries
from tests.postgres import Cluster, running_cluster

_FAKES = Path(__file__).parent / "fakes"
_TEMPLATE = "project"


@dataclass(frozen=True, slots=True)
class Project:
    """One project's database. `url` is for its role `postgres`, `admin_url` for the superuser."""

    url: str
    admin_url: str

    async def add_user(self, email: str | None = None) -> UUID:
        """An account, as Auth would have made it."""
        user_id = uuid4()
        async with self.connected() as connection:
            await connection.execute(
                "INSERT INTO auth.users (id, instance_id, aud, role, email, created_at, updated_at)"
                " VALUES ($1, $2, 'authenticated', 'authenticated', $3, now(), now())",
                user_id,
                UUID(int=0),
                email or f"{user_id}@example.com",
            )
        return user_id

    @asynccontextmanager
    async def connected(self, *, is_admin: bool = False) -> AsyncIterator["asyncpg.Connection[Any]"]:
        connection = await asyncpg.connect(self.admin_url if is_admin else self.url)
        try:
            yield connection
        finally:
            await connection.close()

    @asynccontextmanager
    async def acting_as(self, role: str, user_id: UUID | None = None) -> AsyncIterator["asyncpg.Connection[Any]"]:
        """A transaction as PostgREST runs one: in that role, with the claims of that user's token."""
        async with self.connected() as connection, connection.transaction():
            claims = {"role": role} | ({} if user_id is None else {"sub": str(user_id)})
            await connection.execute("SELECT set_config('request.jwt.claims', $1, true)", json.dumps(claims))
            await connection.execute(f"SET LOCAL ROLE {role}")
            yield connection


@contextmanager
def running_supabase(binaries: Binaries) -> Iterator[Cluster]:
    """A cluster to make projects in."""
    with running_cluster(binaries, superuser="supabase_admin") as cluster:
        cluster.execute((_FAKES / "supabase_roles.sql").read_text())
        cluster.execute(f"ALTER ROLE postgres PASSWORD '{cluster.password}'", f"CREATE DATABASE {_TEMPLATE}")
        cluster.execute((_FAKES / "supabase_database.sql").read_text(), database=_TEMPLATE)
        yield cluster


@contextmanager
def new_project(cluster: Cluster) -> Iterator[Project]:
    """A fresh project, without a table of ours."""
    with cluster.database(_TEMPLATE, owner="postgres") as url:
        yield Project(url, url.replace("://postgres:", f"://{cluster.superuser}:"))
