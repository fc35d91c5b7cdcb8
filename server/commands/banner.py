"""The lines that a start prints for a person: address, model, data, files."""

from server.auth.supabase import auth_host
from server.catalog import Catalog
from server.settings import Backend, Settings
from server.storage.database import Database
from server.storage.objects import location_of


def banner(settings: Settings, catalog: Catalog, *, port: int) -> str:
    """Four lines, and a fifth if Supabase keeps the accounts. They contain no secret."""
    lines = [
        f"Ready:  http://localhost:{port}   (API: /docs)",
        f"Model:  {_model(settings, catalog)}",
        f"Data:   {_data(settings)}",
        f"Files:  {location_of(settings)}",
    ]
    if settings.supabase_url is not None:
        lines.append(f"Users:  Supabase Auth at {auth_host(settings)}")
    return "\n".join(lines)


def _model(settings: Settings, catalog: Catalog) -> str:
    if settings.backend is Backend.OFFLINE:
        return (
            "OFFLINE test double, not AI. Real: HF_API_TOKEN=hf_… make run (HF_TOKEN works too), "
            "or Ollama: HF_BASE_URL=http://localhost:11434/v1"
        )
    chain = catalog.chain("text2text", None)
    return f"{chain[0] if chain else 'the first one that it lists'} at {settings.hf_base_url}"


def _data(settings: Settings) -> str:
    if settings.database_url is None:
        return f"{settings.data_dir}    Try: make demo"
    return f"Postgres at {Database(settings.database_url.get_secret_value()).place}"
