"""Folders of transformers: what is checked before and after a model opens, in one line each."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reed.errors import ReedError
from reed.weights import Found, listed

PROCESSORS = ("preprocessor_config.json", "processor_config.json")
# What transformers opens in a folder: the first of these that is there.
OPENED = ("model.safetensors", "model.safetensors.index.json")
OPENED += ("pytorch_model.bin", "pytorch_model.bin.index.json")


def check_settings(kind: str, folder: Path) -> None:
    """Fail if a file of settings is missing or damaged, which transformers tells at length."""
    kinds = {"AutoImageProcessor": PROCESSORS, "AutoTokenizer": (), "AutoProcessor": ()}
    needed = kinds.get(kind, ("config.json",))
    if needed and not any((folder / name).is_file() for name in needed):
        problem = f"{folder} has no {' or '.join(needed)}"
        raise ReedError(f"{problem}; copy it there from the repository of the model")

    for path in (folder / name for name in ("config.json", *PROCESSORS)):
        try:
            made = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except (OSError, ValueError) as error:
            raise ReedError(f"cannot read {path} ({error}); restore it") from error
        if not isinstance(made, dict):
            raise ReedError(f"{path} holds {type(made).__name__}, not settings; restore it")


def check_opened(found: Found) -> None:
    """Fail if transformers would open other weights of the folder than those that were found."""
    names = [path.name for path in found.files]
    opened = next((name for name in OPENED if (found.folder / name).is_file()), "")
    parts = {opened}
    if opened.endswith(".index.json"):
        suffix = Path(opened.removesuffix(".index.json")).suffix
        parts = {path.name for path in listed(found.folder, suffix)}

    if not opened:
        problem = f"{found.folder} has neither {OPENED[0]}, which transformers opens, nor its index"
        raise ReedError(f"{problem}; rename {names[0]}, or name the folder of the model")
    if not parts <= set(names):
        problem = f"transformers opens {opened} in {found.folder}, not {names[0]}"
        raise ReedError(f"{problem}; name a folder with the wanted weights alone")


def check_layers(model: Any, superfluous: Sequence[str], folder: Path) -> None:
    """Fail if the weights have more layers than the settings; other surplus is of heads."""

    def numberless(name: str) -> str:
        return re.sub(r"\.\d+(?=\.)", ".#", f".{name}")

    have = model.state_dict()
    layers = {numberless(name) for name in have}
    for name in sorted(superfluous):
        own = name.removeprefix(f"{model.base_model_prefix}.")
        if "#" in numberless(own) and numberless(own) in layers and own not in have:
            problem = f"{folder / 'config.json'} states fewer layers than the weights beside it"
            raise ReedError(f"{problem} have, such as {name!r}; restore the files of one model")
