"""The default models of each task, and the valid forms of model names.

The offer changes monthly. These are the models of Hugging Face's own task pages (2026-08).
"""

import re

from server.inference.events import Task

ROUTER_CHAT_MODELS = (
    "openai/gpt-oss-20b:fastest",
    "openai/gpt-oss-120b:fastest",
    "meta-llama/Llama-3.1-8B-Instruct:fastest",
)
"""Several providers serve each of them. The offer changes monthly; TEXT_MODELS overrides it."""
ROUTER_GENERATION_MODELS = ("meta-llama/Llama-3.1-8B:featherless-ai",)
"""Raw text completion. Behind the router, only featherless-ai serves it."""
ROUTER_MODELS: dict[Task, tuple[str, ...]] = {
    Task.CHAT_COMPLETION: ROUTER_CHAT_MODELS,
    Task.TEXT_GENERATION: ROUTER_GENERATION_MODELS,
    Task.SUMMARIZATION: ("facebook/bart-large-cnn",),
    Task.TRANSLATION: ("google-t5/t5-base", "google-t5/t5-small"),
    Task.FILL_MASK: ("google-bert/bert-base-uncased",),  # one model only, because mask tokens differ by model
    Task.TEXT_CLASSIFICATION: ("distilbert/distilbert-base-uncased-finetuned-sst-2-english",),
    Task.ZERO_SHOT_CLASSIFICATION: ("facebook/bart-large-mnli",),
    Task.TOKEN_CLASSIFICATION: ("dslim/bert-base-NER", "FacebookAI/xlm-roberta-large-finetuned-conll03-english"),
    Task.QUESTION_ANSWERING: ("deepset/roberta-base-squad2",),
    Task.TABLE_QUESTION_ANSWERING: ("google/tapas-base-finetuned-wtq",),
    Task.SENTENCE_SIMILARITY: ("sentence-transformers/all-MiniLM-L6-v2", "BAAI/bge-m3"),
    Task.FEATURE_EXTRACTION: ("BAAI/bge-small-en-v1.5",),  # one model only, because vectors differ by model
    Task.TEXT_TO_IMAGE: (
        "stabilityai/stable-diffusion-3-medium-diffusers",
        "black-forest-labs/FLUX.1-dev:fal-ai",
        "black-forest-labs/FLUX.1-dev:replicate",
        "black-forest-labs/FLUX.1-dev:together",
    ),
    Task.IMAGE_TO_IMAGE: (
        "black-forest-labs/FLUX.1-Kontext-dev:fal-ai",
        "black-forest-labs/FLUX.1-Kontext-dev:replicate",
    ),
    Task.IMAGE_CLASSIFICATION: ("google/vit-base-patch16-224",),
    Task.OBJECT_DETECTION: ("facebook/detr-resnet-50",),
    Task.IMAGE_SEGMENTATION: ("nvidia/segformer-b0-finetuned-ade-512-512",),
    Task.IMAGE_TO_TEXT: ("nlpconnect/vit-gpt2-image-captioning",),
    Task.AUTOMATIC_SPEECH_RECOGNITION: ("openai/whisper-large-v3", "openai/whisper-large-v3-turbo"),
    Task.AUDIO_CLASSIFICATION: ("superb/hubert-large-superb-er",),
    Task.TEXT_TO_SPEECH: ("hexgrad/Kokoro-82M:fal-ai", "hexgrad/Kokoro-82M:replicate"),
}
TEXT_TASKS = frozenset({Task.CHAT_COMPLETION, Task.TEXT_GENERATION})
"""The tasks that TEXT_MODELS applies to. The edge function runs only these."""
OFFLINE_MODELS = (
    "offline/echo",
    "offline/slow-2s",
    "offline/slow-20s",
    "offline/long-stream",
    "offline/loading-503",
    "offline/no-credits",
    "offline/truncated",
)

# Neither part may consist of dots only: raw generation puts the name into a URL path.
ROUTER_MODEL = re.compile(r"(?!\.+/)[A-Za-z0-9._-]+/(?!\.+(?::|\Z))[A-Za-z0-9._-]+(?::[a-z0-9-]+)?", re.ASCII)
OWN_MODEL = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*(?::[A-Za-z0-9._-]+)?", re.ASCII)
