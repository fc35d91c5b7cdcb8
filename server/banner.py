"""The last lines of a start, for a person: where it listens, what answers, where the data is."""

from server.catalog import Catalog
from server.settings import Backend, Settings
from server.storage.database import Database


def banner(settings: Settings, catalog: Catalog, *, port: int) -> str:
    """Three lines. Nothing in them is secret."""
    return "\n".join(
        (
            f"Ready:  http://localhost:{port}   (API: /docs)",
            f"Model:  {_model(settings, catalog)}",
            f"Data:   {_data(settings)}",
        )
    )


def _model(settings: Settings, catalog: Catalog) -> str:
    if settings.backend is Backend.OFFLINE:
        return (
            "OFFLINE test double, not AI. Real: HF_API_TOKEN=hf_… make run, "
            "or Ollama: HF_BASE_URL=http://localhost:11434/v1"
        )
    chain = catalog.chain("text2text", None)
    return f"{chain[0] if chain else 'the first one that it lists'} at {settings.hf_base_url}"


def _data(settings: Settings) -> str:
    if settings.database_url is None:
        return f"{settings.data_dir}    Try: make demo"
    return f"Postgres at {Database(settings.database_url.get_secret_value()).place}"
