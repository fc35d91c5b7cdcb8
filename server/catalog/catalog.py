"""The catalog of one server, by its settings: the offered model types and models, and the validation of creates."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from server.catalog.default_models import OFFLINE_MODELS, OWN_MODEL, ROUTER_MODEL, ROUTER_MODELS, TEXT_TASKS
from server.catalog.model_types import MODEL_TYPES, ModelType
from server.errors import FieldError, Invalid
from server.inference.events import Task
from server.schemas import Body, CreateRequest, field_errors, invalid, parse
from server.settings import Backend, Settings

_NOT_AT_THE_EDGE = "is not run by the edge function: the operator must set HF_API_TOKEN for it"


class Catalog:
    def __init__(self, settings: Settings) -> None:
        self._types = {name: model_type for model_type in MODEL_TYPES for name in model_type.names}
        self._settings = settings

    def model_type(self, name: str) -> ModelType:
        """Raises `KeyError` for an unknown name."""
        return self._types[name]

    @property
    def follows_listing(self) -> bool:
        """Whether requests may name all models that upstream lists: an own server, and settings that name none."""
        named = set(self._settings.allowed_models) - {"*"}
        is_own = self._settings.backend is Backend.HUGGINGFACE and self._settings.has_own_base_url
        return is_own and not self._settings.text_models and not named

    def describe(self) -> list[dict[str, Any]]:
        """The offered model types, each with JSON Schemas, default models and an example."""
        return [
            {
                "model_type": model_type.name,
                "aliases": list(model_type.aliases),
                "task": model_type.task.value,
                "description": model_type.description,
                "models": list(self._default_chain(model_type.task)),
                "input": model_type.input.model_json_schema(),
                "parameters": model_type.parameters.model_json_schema(),
                "output": model_type.output.model_json_schema(),
                "example": {
                    "model_type": model_type.name,
                    "input_data": model_type.example.input_data,
                    "parameters": model_type.example.parameters,
                },
                "example_output": model_type.example.output_data,
            }
            for model_type in MODEL_TYPES
            if self._is_offered(model_type.task)
        ]

    def models(self, task: Task) -> tuple[str, ...]:
        """The known models for a task, default models first. With ALLOWED_MODELS=* a request may name others."""
        if not self._is_offered(task):
            return ()
        if self._settings.backend is Backend.OFFLINE:
            return OFFLINE_MODELS
        named = (model for model in self._settings.allowed_models if model != "*")
        return tuple(dict.fromkeys((*self._default_chain(task), *named)))

    def all_models(self) -> set[str]:
        """The known models for all tasks."""
        return {model for task in Task for model in self.models(task)}

    def chain(self, name: str, model: str | None) -> tuple[str, ...]:
        """The models to try in order: `model`, and the ones after it if it is part of the default chain.

        Empty if upstream chooses the model.
        """
        default = self._default_chain(self._types[name].task)
        if model is None:
            return default
        return default[default.index(model) :] if model in default else (model,)

    def check(
        self,
        name: str,
        input_data: Mapping[str, Any],
        parameters: Mapping[str, Any],
        model: str | None,
        *,
        is_listed: bool | None = False,
    ) -> tuple[dict[str, Any], dict[str, Any], str | None]:
        """The validated input and parameters, as they are stored, and the model that is tried first.

        `is_listed`: upstream lists the model; None if that is not known, and upstream will decide.

        Raises `Invalid` with all errors, each with its path.
        """
        model_type = self._types.get(name)
        if model_type is None:
            known = ", ".join(self._types)
            raise invalid([FieldError("model_type", f"must be one of {known}")])
        errors: list[FieldError] = []
        if not self._is_offered(model_type.task):
            errors.append(FieldError("model_type", _NOT_AT_THE_EDGE))
        checked = [
            _validated(body, data, prefix, errors)
            for body, data, prefix in (
                (model_type.input, input_data, "input_data"),
                (model_type.parameters, parameters, "parameters"),
            )
        ]
        if model is not None and not self._is_allowed(model, model_type.task, is_listed=is_listed):
            errors.append(FieldError("model", "is not one that this server offers"))
        if errors:
            raise invalid(errors)
        return checked[0], checked[1], next(iter(self.chain(name, model)), None)

    def names_of(self, name: str) -> tuple[str, ...]:
        """All names of the model type that has this name; the name alone if it is unknown."""
        model_type = self._types.get(name)
        return (name,) if model_type is None else model_type.names

    def _is_offered(self, task: Task) -> bool:
        return task in TEXT_TASKS or self._settings.backend is not Backend.EDGE

    def _default_chain(self, task: Task) -> tuple[str, ...]:
        if self._settings.backend is Backend.OFFLINE:
            return OFFLINE_MODELS[:1]
        if self._settings.text_models and task in TEXT_TASKS:
            return self._settings.text_models
        return () if self._settings.has_own_base_url else ROUTER_MODELS[task]

    def _is_allowed(self, model: str, task: Task, *, is_listed: bool | None) -> bool:
        if self._settings.backend is Backend.OFFLINE:
            return model in OFFLINE_MODELS
        if is_listed or model in self._default_chain(task) or model in self._settings.allowed_models:
            return True
        pattern = OWN_MODEL if self._settings.has_own_base_url else ROUTER_MODEL
        is_any = "*" in self._settings.allowed_models or is_listed is None
        return is_any and pattern.fullmatch(model) is not None


def read_create(
    catalog: Catalog, data: Any, *, is_listed: bool | None = False
) -> tuple[CreateRequest, dict[str, Any], dict[str, Any], str | None]:
    """The body of a create, and the input, parameters and model from `Catalog.check`.

    Raises `Invalid` with all errors, those of the body and those inside the input together.
    """
    try:
        body = parse(CreateRequest, data)
    except Invalid as problem:
        inside = _faults_inside(catalog, data, problem.errors, is_listed=is_listed)
        raise invalid([*problem.errors, *inside]) from None
    return body, *catalog.check(body.model_type, body.input_data, body.parameters, body.model, is_listed=is_listed)


def _faults_inside(
    catalog: Catalog, data: Any, known: Sequence[FieldError], *, is_listed: bool | None
) -> list[FieldError]:
    """Errors inside the fields of a create that have no error themselves."""
    wrong = {error.field for error in known}
    if not isinstance(data, dict) or "model_type" in wrong:
        return []
    sound = {name: value for name, value in data.items() if name not in wrong}
    try:
        catalog.check(
            sound["model_type"],
            sound.get("input_data", {}),
            sound.get("parameters") or {},
            sound.get("model"),
            is_listed=is_listed,
        )
    except Invalid as problem:
        return [error for error in problem.errors if error.field.partition(".")[0] not in wrong]
    return []


def _validated(body: type[Body], data: Mapping[str, Any], prefix: str, errors: list[FieldError]) -> dict[str, Any]:
    try:
        return body.model_validate(data).model_dump(exclude_none=True, by_alias=True)
    except ValidationError as error:
        errors.extend(field_errors(error, prefix=prefix))
        return {}
