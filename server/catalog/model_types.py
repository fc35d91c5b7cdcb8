"""The model types: one for each of Hugging Face's pipeline tags, with examples that work unchanged."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from server.catalog import chat_schemas, media_schemas, output_schemas, text_schemas
from server.inference.events import Task
from server.schemas import Body

_FILE = "file:019ab0c4-5d1e-7c3a-9f20-3b1d2c4e5f60"
_PNG = {"content_type": "image/png", "size": 482_113}
_SENTENCE = "My name is Sarah Jessica Parker but you can call me Jessica"


@dataclass(frozen=True, slots=True)
class Example:
    """An example request, and its `output_data`."""

    input_data: Mapping[str, Any]
    output_data: Mapping[str, Any]
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelType:
    """A model type. Its name is that of its task; clients may also use one of the `aliases`."""

    task: Task
    description: str
    input: type[Body]
    parameters: type[Body]
    output: type[output_schemas.Output]
    example: Example
    aliases: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.task.value

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


MODEL_TYPES = (
    ModelType(
        Task.CHAT_COMPLETION,
        "Text for a prompt, or the next turn of a conversation; it may hold images, and tools may be offered.",
        chat_schemas.TextInput,
        chat_schemas.ChatParameters,
        output_schemas.ChatOutput,
        Example(
            {"prompt": "Write a haiku about rain."},
            {"output": "Rain taps on the roof\n…", "finish_reason": "stop", "provider": "groq"},
            {"max_tokens": 200},
        ),
        aliases=("text2text", "chat", "text-to-text"),
    ),
    ModelType(
        Task.TEXT_GENERATION,
        "Raw continuation of a text.",
        chat_schemas.PromptInput,
        chat_schemas.GenerationParameters,
        output_schemas.ChatOutput,
        Example(
            {"prompt": "Once upon a time"},
            {"output": " there was a server that lost nothing.", "finish_reason": "stop"},
            {"max_new_tokens": 20},
        ),
    ),
    ModelType(
        Task.SUMMARIZATION,
        "A shorter text.",
        text_schemas.OneTextInput,
        text_schemas.SummarizationParameters,
        output_schemas.TextOutput,
        Example(
            {"text": "The tower is 324 metres tall, about the same height as an 81-storey building. …"},
            {"output": "The tower is 324 metres tall.", "provider": "hf-inference"},
        ),
    ),
    ModelType(
        Task.TRANSLATION,
        "A translation. The model or src_lang and tgt_lang decide the languages.",
        text_schemas.OneTextInput,
        text_schemas.TranslationParameters,
        output_schemas.TextOutput,
        Example(
            {"text": "My name is Wolfgang and I live in Berlin"},
            {"output": "Mein Name ist Wolfgang und ich lebe in Berlin", "provider": "hf-inference"},
        ),
    ),
    ModelType(
        Task.FILL_MASK,
        "Words for the model's mask, such as [MASK], in a text.",
        text_schemas.OneTextInput,
        text_schemas.FillMaskParameters,
        output_schemas.FillMaskOutput,
        Example(
            {"text": "[MASK] world!"},
            {
                "output": "the world!",
                "candidates": [
                    {"mask": 0, "token": 1996, "token_str": "the", "sequence": "the world!", "score": 0.2911},
                    {"mask": 0, "token": 2026, "token_str": "my", "sequence": "my world!", "score": 0.1809},
                ],
            },
            {"top_k": 2},
        ),
    ),
    ModelType(
        Task.TEXT_CLASSIFICATION,
        "The labels of a text, as the model knows them.",
        text_schemas.OneTextInput,
        text_schemas.ClassificationParameters,
        output_schemas.LabelsOutput,
        Example(
            {"text": "I like you. I love you."},
            {
                "output": "POSITIVE",
                "labels": [{"label": "POSITIVE", "score": 0.9999}, {"label": "NEGATIVE", "score": 0.0001}],
            },
        ),
    ),
    ModelType(
        Task.ZERO_SHOT_CLASSIFICATION,
        "Which of your own labels fit a text.",
        text_schemas.OneTextInput,
        text_schemas.ZeroShotParameters,
        output_schemas.LabelsOutput,
        Example(
            {"text": "The device that I bought does not work and I want my money back!"},
            {
                "output": "refund",
                "labels": [
                    {"label": "refund", "score": 0.8778},
                    {"label": "faq", "score": 0.1052},
                    {"label": "legal", "score": 0.017},
                ],
            },
            {"candidate_labels": ["refund", "legal", "faq"]},
        ),
    ),
    ModelType(
        Task.TOKEN_CLASSIFICATION,
        "The names and other entities in a text.",
        text_schemas.OneTextInput,
        text_schemas.TokenClassificationParameters,
        output_schemas.EntitiesOutput,
        Example(
            {"text": _SENTENCE},
            {
                "entities": [
                    {"entity": "PER", "word": "Sarah Jessica Parker", "score": 0.9991, "start": 11, "end": 31},
                    {"entity": "PER", "word": "Jessica", "score": 0.998, "start": 52, "end": 59},
                ]
            },
            {"aggregation_strategy": "simple"},
        ),
    ),
    ModelType(
        Task.QUESTION_ANSWERING,
        "The answer to a question, as it stands in a text.",
        text_schemas.QuestionInput,
        text_schemas.QuestionParameters,
        output_schemas.AnswersOutput,
        Example(
            {"question": "What is the capital of France?", "context": "The capital of France is Paris."},
            {"output": "Paris", "answers": [{"answer": "Paris", "score": 0.9703, "start": 25, "end": 30}]},
        ),
    ),
    ModelType(
        Task.TABLE_QUESTION_ANSWERING,
        "The answer to a question, from the cells of a table.",
        text_schemas.TableInput,
        text_schemas.TableParameters,
        output_schemas.TableAnswersOutput,
        Example(
            {
                "question": "How many stars does the transformers repository have?",
                "table": {"Repository": ["Transformers", "Datasets"], "Stars": ["36542", "4512"]},
            },
            {
                "output": "AVERAGE > 36542",
                "answers": [
                    {
                        "answer": "AVERAGE > 36542",
                        "aggregator": "AVERAGE",
                        "cells": ["36542"],
                        "coordinates": [[0, 1]],
                    }
                ],
            },
        ),
    ),
    ModelType(
        Task.SENTENCE_SIMILARITY,
        "How similar in meaning other sentences are to one sentence.",
        text_schemas.SimilarityInput,
        text_schemas.NoParameters,
        output_schemas.ScoresOutput,
        Example(
            {
                "source_sentence": "That is a happy person",
                "sentences": ["That is a happy dog", "Today is a sunny day"],
            },
            {"scores": [0.6623, 0.2296]},
        ),
    ),
    ModelType(
        Task.FEATURE_EXTRACTION,
        "The embedding vector of a text, or one for each of several texts.",
        text_schemas.EmbeddingInput,
        text_schemas.EmbeddingParameters,
        output_schemas.EmbeddingOutput,
        Example({"text": "That is a happy person"}, {"embedding": [0.2482, 0.4879, -0.2243]}, {"normalize": True}),
        aliases=("embedding", "embeddings"),
    ),
    ModelType(
        Task.TEXT_TO_IMAGE,
        "An image from a description.",
        media_schemas.ImagePromptInput,
        media_schemas.TextToImageParameters,
        output_schemas.FilesOutput,
        Example(
            {"prompt": "An astronaut riding a horse on the moon."},
            {"files": [_PNG], "provider": "hf-inference"},
            {"width": 1024, "height": 1024},
        ),
    ),
    ModelType(
        Task.IMAGE_TO_IMAGE,
        "An image made from another.",
        media_schemas.ImageToImageInput,
        media_schemas.ImageToImageParameters,
        output_schemas.FilesOutput,
        Example({"image": _FILE, "prompt": "Make it night."}, {"files": [_PNG], "provider": "fal-ai"}),
    ),
    ModelType(
        Task.IMAGE_CLASSIFICATION,
        "The labels of an image.",
        media_schemas.ImageInput,
        text_schemas.ClassificationParameters,
        output_schemas.LabelsOutput,
        Example(
            {"image": _FILE},
            {
                "output": "cheetah",
                "labels": [{"label": "cheetah", "score": 0.9982}, {"label": "leopard", "score": 0.0007}],
            },
        ),
    ),
    ModelType(
        Task.OBJECT_DETECTION,
        "The objects in an image, and where they are.",
        media_schemas.ImageInput,
        media_schemas.DetectionParameters,
        output_schemas.ObjectsOutput,
        Example(
            {"image": _FILE},
            {"objects": [{"label": "cat", "score": 0.9982, "box": {"xmin": 20, "ymin": 47, "xmax": 329, "ymax": 186}}]},
            {"threshold": 0.9},
        ),
    ),
    ModelType(
        Task.IMAGE_SEGMENTATION,
        "The parts of an image, each with its mask.",
        media_schemas.ImageInput,
        media_schemas.SegmentationParameters,
        output_schemas.SegmentsOutput,
        Example(
            {"image": _FILE},
            {
                "segments": [{"label": "cat", "score": 0.9867, "mask": 0}],
                "files": [{"content_type": "image/png", "size": 3451}],
            },
        ),
    ),
    ModelType(
        Task.IMAGE_TO_TEXT,
        "A caption for an image.",
        media_schemas.ImageInput,
        media_schemas.CaptionParameters,
        output_schemas.TextOutput,
        Example({"image": _FILE}, {"output": "a large brown and white giraffe standing in a field"}),
    ),
    ModelType(
        Task.AUTOMATIC_SPEECH_RECOGNITION,
        "The text of a spoken recording.",
        media_schemas.AudioInput,
        media_schemas.TranscriptionParameters,
        output_schemas.TranscriptionOutput,
        Example(
            {"audio": _FILE},
            {"output": "Hello there!", "chunks": [{"text": "Hello there!", "timestamp": [0.0, 1.4]}]},
            {"return_timestamps": True},
        ),
        aliases=("speech-to-text",),
    ),
    ModelType(
        Task.AUDIO_CLASSIFICATION,
        "The labels of a recording.",
        media_schemas.AudioInput,
        text_schemas.ClassificationParameters,
        output_schemas.LabelsOutput,
        Example(
            {"audio": _FILE},
            {"output": "neu", "labels": [{"label": "neu", "score": 0.5928}, {"label": "hap", "score": 0.2003}]},
        ),
    ),
    ModelType(
        Task.TEXT_TO_SPEECH,
        "A text, spoken.",
        media_schemas.SpeechInput,
        media_schemas.TextToSpeechParameters,
        output_schemas.FilesOutput,
        Example({"text": "hello there!"}, {"files": [{"content_type": "audio/flac", "size": 52_112}]}),
    ),
)
