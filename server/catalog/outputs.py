"""What `output_data` holds, by task: one form, however the provider words it. For the documents, and for tests."""

from pydantic import BaseModel, ConfigDict, Field


class Output(BaseModel):
    """What every answer may carry."""

    model_config = ConfigDict(extra="forbid", strict=True)

    provider: str | None = Field(None, description="Who ran the model, where that is known.")
    offline: bool | None = Field(None, description="True: made by the offline test double, which is not AI.")
    cleaned: bool | None = Field(None, description="True: what cannot be stored (NUL, half characters) was replaced.")


class TextOutput(Output):
    """A text."""

    output: str


class WantedFunction(BaseModel):
    name: str
    arguments: str = Field(description="JSON, as the model wrote it.")


class WantedCall(BaseModel):
    id: str
    type: str
    function: WantedFunction


class ChatOutput(TextOutput):
    """The answer, with what the model thought before it and the functions it wants to have called."""

    finish_reason: str | None = None
    reasoning: str | None = None
    tool_calls: list[WantedCall] | None = None
    partial: bool | None = Field(None, description="True: the answer broke off, this is what had come.")


class LabelScore(BaseModel):
    label: str
    score: float


class LabelsOutput(Output):
    """Labels, the best first; `output` is the best."""

    output: str
    labels: list[LabelScore]


class Candidate(BaseModel):
    mask: int = Field(description="Which mask of the text, from 0.")
    token: int | None
    token_str: str
    sequence: str
    score: float


class FillMaskOutput(Output):
    """What may stand at the masks, the best of each first; `output` is the best text, where there is one mask."""

    output: str | None = None
    candidates: list[Candidate]


class Entity(BaseModel):
    entity: str
    word: str
    score: float
    start: int | None
    end: int | None


class EntitiesOutput(Output):
    """What was found in the text, by where it stands."""

    entities: list[Entity]


class FoundAnswer(BaseModel):
    answer: str
    score: float | None
    start: int | None
    end: int | None


class AnswersOutput(Output):
    """Answers, the best first; `output` is the best."""

    output: str
    answers: list[FoundAnswer]


class TableAnswer(BaseModel):
    answer: str
    aggregator: str | None
    cells: list[str]
    coordinates: list[list[int]] = Field(description="Row and column of each cell.")


class TableAnswersOutput(Output):
    output: str
    answers: list[TableAnswer]


class ScoresOutput(Output):
    """How similar each sentence is, in the order of the request."""

    scores: list[float]


class EmbeddingOutput(Output):
    """`embedding` of a single text, `embeddings` of a list of texts.

    A model that gives a vector per token has them in `token_embeddings`: a list per text, a list of vectors in it.
    """

    embedding: list[float] | None = None
    embeddings: list[list[float]] | None = None
    token_embeddings: list[list[list[float]]] | None = None


class Box(BaseModel):
    xmin: int
    ymin: int
    xmax: int
    ymax: int


class FoundObject(BaseModel):
    label: str
    score: float
    box: Box


class ObjectsOutput(Output):
    """Objects, the surest first; pixels from the upper left corner."""

    objects: list[FoundObject]


class OutputFile(BaseModel):
    model_config = ConfigDict(extra="allow")

    content_type: str
    size: int


class FilesOutput(Output):
    """Files: `GET /api/requests/{id}/files/{n}`, n being the place in the list, from 0."""

    files: list[OutputFile]


class Segment(BaseModel):
    label: str
    score: float | None
    mask: int = Field(description="Which of `files` is its mask: white is inside.")


class SegmentsOutput(Output):
    """The parts of an image, each with its mask in a file; no files where there are no parts."""

    segments: list[Segment]
    files: list[OutputFile] | None = None


class SpokenChunk(BaseModel):
    text: str
    timestamp: list[float | None] = Field(description="Seconds, from and to.")


class TranscriptionOutput(TextOutput):
    """What was said; with timestamps, if they were asked for."""

    chunks: list[SpokenChunk] | None = None
