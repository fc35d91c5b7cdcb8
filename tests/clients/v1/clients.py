"""The clients that are tried on `/v1`: their scripts, their environments, and what they do not have."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
DENO = "deno"


@dataclass(frozen=True, slots=True, eq=False)
class Client:
    """`environment` is a requirements file of `python/`, or `deno`."""

    package: str
    environment: str
    script: str
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Scenarios that the client cannot run, with the reason."""
    has_json_mode: bool = False
    """Whether one of its ways to typed output has the schema in the prompt, which the offline double cannot read."""

    def reasons_at(self, *, is_offline: bool) -> Mapping[str, str]:
        """The reasons, and those of the offline double."""
        return {**self.reasons, **(_IN_THE_PROMPT if is_offline and self.has_json_mode else {})}

    @property
    def name(self) -> str:
        return f"{self.package} ({'JavaScript' if self.environment == DENO else 'Python'})"

    @property
    def path(self) -> Path:
        return HERE / ("deno" if self.environment == DENO else "python") / self.script

    @property
    def version(self) -> str:
        if self.environment == DENO:
            imports = json.loads((HERE / "deno/deno.json").read_text())["imports"]
            return str(imports[self.package].rpartition("@")[2])
        pins = (HERE / "python" / f"{self.environment}.txt").read_text()
        found = re.search(rf"^{self.package}==(\S+)", pins, re.MULTILINE)
        assert found is not None, self.package
        return found[1]


_OTHER_EMBEDDINGS = {"embeddings": "its method for them speaks the protocol of Inference Endpoints, not OpenAI's"}
_NO_EMBEDDINGS = {"embeddings": "it has no embeddings"}
_IN_THE_PROMPT = {"structured": "in JSON mode the schema is in the prompt, which the double cannot read"}

CLIENTS = (
    Client("openai", "current", "use_openai.py"),
    Client("huggingface-hub", "current", "use_huggingface_hub.py", _OTHER_EMBEDDINGS),
    Client("langchain-openai", "current", "use_langchain.py", has_json_mode=True),
    Client("llama-index-llms-openai-like", "older", "use_llama_index.py"),
    Client("openai-agents", "current", "use_agents.py", _NO_EMBEDDINGS),
    Client(
        "instructor",
        "older",
        "use_instructor.py",
        _NO_EMBEDDINGS | {"tools": "a tool is its way to structured output"},
        has_json_mode=True,
    ),
    Client("pydantic-ai-slim", "current", "use_pydantic_ai.py", has_json_mode=True),
    Client("litellm", "current", "use_litellm.py"),
    Client("smolagents", "current", "use_smolagents.py", _NO_EMBEDDINGS),
    Client("haystack-ai", "current", "use_haystack.py"),
    Client("openai", DENO, "use_openai.ts"),
    Client("@ai-sdk/openai-compatible", DENO, "use_ai_sdk_compatible.ts"),
    Client("@ai-sdk/openai", DENO, "use_ai_sdk_openai.ts"),
    Client("@huggingface/inference", DENO, "use_huggingface.ts", _OTHER_EMBEDDINGS),
    Client("@langchain/openai", DENO, "use_langchain.ts", has_json_mode=True),
    Client("@openai/agents", DENO, "use_agents.ts", _NO_EMBEDDINGS),
)
