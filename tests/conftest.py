"""Databases for tests, as URLs. The clusters start when a test first asks for one and end with the test session."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from urllib.parse import urlsplit

import pytest
from hypothesis import settings

from server.storage.embedded.binaries import Binaries
from tests import prepared, skips, tools
from tests.pgbouncer import PgBouncer, running_pgbouncer
from tests.postgres import Cluster, running_cluster
from tests.supabase import Project, new_project, running_supabase

# No example has a time limit: on a busy machine it would fail for nothing.
settings.register_profile("unhurried", parent=settings(), deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="session", autouse=True)
def _shared_by_workers(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    prepared.share(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder)


@pytest.fixture(scope="session")
def cluster_18() -> Iterator[Cluster]:
    with running_cluster(Binaries.find()) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def cluster_15() -> Iterator[Cluster]:
    with running_cluster(Binaries.at(tools.POSTGRES_15.require().parent)) as cluster:
        yield cluster


@pytest.fixture(scope="session", params=["postgres_18", "postgres_15"])
def any_cluster(request: pytest.FixtureRequest) -> Cluster:
    """Both versions, one after the other."""
    cluster: Cluster = request.getfixturevalue(request.param.replace("postgres", "cluster"))
    return cluster


@pytest.fixture(scope="session")
def template_18(cluster_18: Cluster) -> str:
    return cluster_18.create_template()


@pytest.fixture(scope="session")
def template_15(cluster_15: Cluster) -> str:
    return cluster_15.create_template()


@pytest.fixture(scope="session")
def postgres_18(cluster_18: Cluster) -> str:
    """The superuser's URL of database `postgres` on the embedded version."""
    return cluster_18.url()


@pytest.fixture(scope="session")
def postgres_15(cluster_15: Cluster) -> str:
    """The superuser's URL of database `postgres` on Debian's PostgreSQL 15."""
    return cluster_15.url()


@pytest.fixture(scope="session")
def any_postgres(any_cluster: Cluster) -> str:
    """The superuser's URL of database `postgres`, on both versions."""
    return any_cluster.url()


@pytest.fixture
def database(cluster_18: Cluster, template_18: str) -> Iterator[str]:
    """A fresh database with all migrations, on the embedded version."""
    with cluster_18.database(template_18) as url:
        yield url


@pytest.fixture
def database_15(cluster_15: Cluster, template_15: str) -> Iterator[str]:
    """A fresh database with all migrations, on Debian's PostgreSQL 15."""
    with cluster_15.database(template_15) as url:
        yield url


@pytest.fixture(params=["database", "database_15"])
def any_database(request: pytest.FixtureRequest) -> str:
    """A fresh database with all migrations, on both versions."""
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture
def empty_database(any_cluster: Cluster) -> Iterator[str]:
    """A fresh database with nothing in it, on both versions."""
    with any_cluster.database() as url:
        yield url


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pooler", choices=["session", "transaction"], help="servers reach Postgres through PgBouncer")
    parser.addoption(
        "--soak", action="store_true", help="only the tests that have a long form, at full length (make soak)"
    )
    parser.addoption("--no-skips", action="store_true", help="a skipped test fails the run, as in CI")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if skips.forbidden(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """What was left out comes last."""
    yield
    if lines := list(skips.summary(terminalreporter.config)):
        terminalreporter.section("left out")
        terminalreporter.write_line("\n".join(lines))


@pytest.fixture(scope="session")
def through_pooler(request: pytest.FixtureRequest) -> Iterator[Callable[[str], str]]:
    """Leads a URL through PgBouncer where `--pooler` asks for it: what a whole server is started on."""
    mode = request.config.getoption("--pooler")
    with ExitStack() as stack:

        @cache
        def pooler_of(cluster: str, url: str) -> PgBouncer:
            return stack.enter_context(running_pgbouncer(url, mode))

        def through(url: str) -> str:
            parts = urlsplit(url)
            if mode is None or "host=" not in parts.query:
                return url
            return pooler_of(f"{parts.username}@{parts.query}", parts._replace(path="/postgres").geturl()).through(url)

        yield through


@pytest.fixture(scope="session")
def is_soak(request: pytest.FixtureRequest) -> bool:
    """Whether there is time for the long form of a test."""
    return bool(request.config.getoption("--soak"))


@pytest.fixture(scope="session")
def patience(*, is_soak: bool) -> float:
    """By how much a bound of time is stretched: the short forms run beside other tests, the long ones alone."""
    return 1.0 if is_soak else 4.0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What waits longest goes first."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    if config.getoption("--soak"):
        short = [item for item in items if "is_soak" not in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=short)
        items[:] = [item for item in items if item not in short]


@pytest.fixture(scope="session")
def supabase_18() -> Iterator[Cluster]:
    with running_supabase(Binaries.find()) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def supabase_15() -> Iterator[Cluster]:
    with running_supabase(Binaries.at(tools.POSTGRES_15.require().parent)) as cluster:
        yield cluster


@pytest.fixture
def project(supabase_18: Cluster) -> Iterator[Project]:
    """The database of a new Supabase project, without a table of ours, on the embedded version."""
    with new_project(supabase_18) as made:
        yield made


@pytest.fixture(params=["supabase_18", "supabase_15"])
def any_project(request: pytest.FixtureRequest) -> Iterator[Project]:
    """The database of a new Supabase project, on both versions."""
    with new_project(request.getfixturevalue(request.param)) as made:
        yield made
