"""Builds the image of the Dockerfile step by step in a clean root, and serves from it like a platform.

No container engine is needed; root and debootstrap are (apt-get install debootstrap). The server runs as the image's
user and as process 1, on a read-only root file system with one volume, in 512 MB. It must get healthy, answer a
request, stop when it is told to, and find the answer again at its next start.

    python -m scripts.image [--cache FOLDER]
"""

import argparse
import sys
import tempfile
from pathlib import Path

from scripts import debian
from scripts.image import root as roots
from scripts.image.dockerfile import Config, read
from scripts.image.trial import try_out

PROJECT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="a folder that keeps Debian and the wheels between runs")
    options = parser.parse_args()
    debian.require_tools("image")
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] # keeps the order with the server's output
    with tempfile.TemporaryDirectory(prefix="image-") as name:
        folder = Path(name)
        cache = options.cache.resolve() if options.cache else folder / "cache"
        print(f"Debian {debian.SUITE} with its own Python replaces the image of FROM")
        debian.make_base(cache / "base")
        debian.download_wheels(PROJECT / "requirements.txt", cache / "wheels")
        root, config = build(folder, cache)
        try_out(root, config, volume=folder / "volume")
    print("The image builds, serves, stops and starts again.")


def build(folder: Path, cache: Path) -> tuple[Path, Config]:
    """Execute every step of every stage. Returns the root of the last stage, and its process configuration."""
    base = folder / "base"
    roots.make_base(cache / "base", base)
    done: dict[str, Path] = {}
    for number, stage in enumerate(read(PROJECT / "Dockerfile")):
        root, config = folder / f"stage-{number}", Config()
        debian.copy_base(base, root)
        for step in stage.steps:
            print(f"{step.instruction} {step.argument[:100]}")
            match step.instruction:
                case "RUN":
                    roots.run_step(step.argument, root=root, config=config, wheels=cache / "wheels")
                case "COPY":
                    roots.copy(step, context=PROJECT, root=root, others=done, config=config)
                case _:
                    config.take(step)
        done[stage.name] = root
    return root, config


if __name__ == "__main__":
    main()
