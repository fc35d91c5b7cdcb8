"""Builds what the Dockerfile describes, step by step in a clean root, and serves from it as a platform would.

No container engine is needed; root and debootstrap are (apt-get install debootstrap). The server runs as the image's
user and as process 1, on a read-only root file system with one volume, in 512 MB. It must get healthy within a second
of processor time, answer a request, stop when it is told to, and find the answer again at its next start.

    python -m scripts.image [--base FOLDER]
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.image import root as roots
from scripts.image.dockerfile import Config, read
from scripts.image.trial import try_out

PROJECT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="a folder that keeps the base between runs")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("image: chroot and mounts need root")
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] # in order with what the server prints
    with tempfile.TemporaryDirectory(prefix="image-") as name:
        folder = Path(name)
        base = options.base.resolve() if options.base else folder / "base"
        print(f"Debian {roots.SUITE} with its own Python stands for the image that FROM names")
        roots.make_base(base)
        root, config = build(folder, base)
        try_out(root, config, volume=folder / "volume")
    print("The image builds, serves, stops and starts again.")


def build(folder: Path, base: Path) -> tuple[Path, Config]:
    """Execute every step of every stage; the last stage's root, and what it says of its process."""
    wheels = folder / "wheels"
    roots.download_wheels(PROJECT / "requirements.txt", wheels)
    done: dict[str, Path] = {}
    for number, stage in enumerate(read(PROJECT / "Dockerfile")):
        root, config = folder / f"stage-{number}", Config()
        subprocess.run(["cp", "-a", str(base), str(root)], check=True)
        for step in stage.steps:
            print(f"{step.instruction} {step.argument[:100]}")
            match step.instruction:
                case "RUN":
                    roots.run_step(step.argument, root=root, config=config, wheels=wheels)
                case "COPY":
                    roots.copy(step, context=PROJECT, root=root, others=done, config=config)
                case _:
                    config.take(step)
        done[stage.name] = root
    return root, config


if __name__ == "__main__":
    main()
