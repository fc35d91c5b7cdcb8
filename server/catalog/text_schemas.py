"""Input and parameters of the tasks that read text, with Hugging Face's names."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from server.catalog.fields import ExtraParameters, HubInput, Label, Language, Text, TopK
from server.schemas import Body

MAX_TEXTS = 2048
"""Texts of one embedding request, as at OpenAI. They are sent in parts."""
MAX_CELLS = 5_000

Truncation = Literal["do_not_truncate", "longest_first", "only_first", "only_second"]
Labels = Annotated[list[Label], Field(min_length=1, max_length=100)]
Length = Annotated[int, Field(ge=0, le=4096)]
Tokens = Annotated[int, Field(ge=1, le=4096)]
ScoreFunction = Literal["sigmoid", "softmax", "none"]


class OneTextInput(HubInput):
    """A text."""

    text: Text


class NoParameters(Body):
    """There are none."""


class LengthParameters(Body):
    """Length and sampling of the generated text."""

    max_length: Annotated[int, Field(ge=1, le=4096)] | None = None
    min_length: Length | None = None
    max_new_tokens: Tokens | None = None
    num_beams: Annotated[int, Field(ge=1, le=16)] | None = None
    do_sample: bool | None = None
    temperature: Annotated[float, Field(gt=0, le=2, allow_inf_nan=False)] | None = None


class SummarizationParameters(Body):
    truncation: Truncation | None = None
    clean_up_tokenization_spaces: bool | None = None
    generate_parameters: LengthParameters | None = None


class TranslationParameters(SummarizationParameters):
    src_lang: Language | None = None
    tgt_lang: Language | None = None


class FillMaskParameters(Body):
    top_k: TopK | None = None
    targets: Labels | None = None


class ClassificationParameters(Body):
    """The number of labels, and the score function."""

    top_k: TopK | None = None
    function_to_apply: ScoreFunction | None = None


def _has_placeholder(template: str) -> str:
    if "{}" not in template:
        raise ValueError("must have {} where the label goes")
    return template


class ZeroShotParameters(Body):
    candidate_labels: Labels
    multi_label: bool | None = None
    hypothesis_template: (
        Annotated[str, StringConstraints(min_length=2, max_length=500), AfterValidator(_has_placeholder)] | None
    ) = None


class TokenClassificationParameters(Body):
    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] | None = None
    ignore_labels: Annotated[list[Annotated[str, StringConstraints(max_length=100)]], Field(max_length=100)] | None = (
        None
    )
    stride: Annotated[int, Field(ge=0, le=4096)] | None = None


class QuestionInput(HubInput):
    """A question, and the text that contains its answer."""

    main = "question"

    question: Text
    context: Text


class QuestionParameters(Body):
    top_k: Annotated[int, Field(ge=1, le=100)] | None = None
    doc_stride: Tokens | None = None
    max_answer_len: Tokens | None = None
    max_question_len: Tokens | None = None
    max_seq_len: Tokens | None = None
    handle_impossible_answer: bool | None = None
    align_to_words: bool | None = None


Cell = Annotated[str, StringConstraints(max_length=10_000)]


def _rectangle(table: dict[str, list[str]]) -> dict[str, list[str]]:
    heights = {len(column) for column in table.values()}
    if len(heights) != 1 or heights == {0}:
        raise ValueError("must have columns of the same length, with at least one row")
    if len(table) * max(heights) > MAX_CELLS:
        raise ValueError(f"must have at most {MAX_CELLS} cells")
    return table


class TableInput(HubInput):
    """A question, and a table by columns; its cells are strings.

    `columns` stores the order of the columns, because the database does not keep the order of keys.
    """

    main = "question"
    renamed: ClassVar[Mapping[str, str]] = {"query": "question"}

    question: Text
    table: Annotated[dict[Label, list[Cell]], Field(min_length=1, max_length=200), AfterValidator(_rectangle)]
    columns: list[Label] | None = None

    @model_validator(mode="after")
    def _note_the_order(self) -> Self:
        if self.columns is None:
            self.columns = list(self.table)
        if sorted(self.columns) != sorted(self.table):
            raise ValueError("must have the names of the table's columns in columns, each once")
        return self


class TableParameters(Body):
    padding: Literal["do_not_pad", "longest", "max_length"] | None = None
    sequential: bool | None = None
    truncation: bool | None = None


class SimilarityInput(HubInput):
    """A sentence, and those to compare it with."""

    main = "source_sentence"

    source_sentence: Text
    sentences: Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)]


_TEXTS: TypeAdapter[list[str]] = TypeAdapter(Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)])
_ONE_TEXT: TypeAdapter[str] = TypeAdapter(Text)


def _one_or_many(value: Any, _handler: ValidatorFunctionWrapHandler) -> Any:
    """Gives one error. Pydantic's union would give one for each type."""
    return _ONE_TEXT.validate_python(value) if isinstance(value, str) else _TEXTS.validate_python(value)


class EmbeddingInput(HubInput):
    """A text, or a list of texts."""

    renamed: ClassVar[Mapping[str, str]] = {"input": "text"}

    text: Annotated[
        Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)], WrapValidator(_one_or_many)
    ]


class EmbeddingParameters(ExtraParameters):
    normalize: bool | None = None
    prompt_name: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None
    truncate: bool | None = None
    truncation_direction: Literal["left", "right"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=16_384)] | None = None
