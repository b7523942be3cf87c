"""Folders of transformers models: opened with one-line errors, averaged over chosen tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reed.build.shard import BadSample
from reed.errors import ReedError, suggest
from reed.precision import computing
from reed.weights import Found, Origin, check, weights_sha256

if TYPE_CHECKING:
    import torch
    from PIL import Image

LICENCES = {
    "Qwen/Qwen2-VL-2B-Instruct": "Apache-2.0",
    "Qwen/Qwen2-VL-7B-Instruct": "Apache-2.0",
    "openai/clip-vit-large-patch14": "MIT",
    "google-t5/t5-large": "Apache-2.0",
    "sentence-transformers/all-mpnet-base-v2": "Apache-2.0",
}


# Every public repository of such a model has these; *.j* are JSON and the chat template.
FILES = ("*.safetensors", "*.j*")
SETTINGS = (".json", ".jinja", ".txt", ".model")  # tokenizer, preprocessing, architecture


def fingerprint(found: Found) -> str:
    """A hash of the weights and one of the settings that lie beside them, for a revision."""
    seen = hashlib.sha256()
    for path in sorted(found.folder.iterdir()):
        if path.suffix in SETTINGS and not path.name.endswith(".index.json"):
            seen.update(f"{path.name}:{weights_sha256(path)}\n".encode())
    return f"{found.sha256[:16]}-{seen.hexdigest()[:16]}"


def origin_of(hub: str) -> Origin:
    """What is needed of REPOSITORY@REVISION on the hub; without a revision of its main branch."""
    repo, _, revision = hub.partition("@")
    return Origin(repo, revision or "main", FILES)


def licence_of(hub: str) -> str:
    """The licence of a model that an encoder uses unless told otherwise; of others, where it is."""
    repo = hub.partition("@")[0]
    return LICENCES.get(repo, f"as stated for {repo}")


def version(package: str) -> str:
    """ "package-1.2.3", for a revision; ReedError when it is not installed."""
    try:
        return f"{package}-{metadata.version(package)}"
    except metadata.PackageNotFoundError:
        problem = f"this encoder needs {package}, which is not installed"
        raise ReedError(f"{problem}; run: pip install {package}") from None


def one_of(what: str, value: str, options: Sequence[str]) -> None:
    """ReedError with the nearest option when `value` is none of them."""
    if value not in options:
        raise ReedError(f"unknown {what} {value!r}.{suggest(value, options)}")


def open_part(kind: str, folder: Path, **settings: Any) -> Any:
    """What the transformers class `kind` ("AutoTokenizer") makes of the files in a folder.

    ReedError with the folder when the library is absent or cannot read the files.
    """
    version("transformers")
    import transformers

    with _quiet():
        try:
            opened = getattr(transformers, kind)
            return opened.from_pretrained(str(folder), local_files_only=True, **settings)
        except Exception as error:  # each file format has errors of its own
            reason = str(error).strip().splitlines() or [""]
            problem = f"cannot open {folder} as {kind}: {type(error).__name__}: {reason[0]}"
            raise ReedError(f"{problem}; restore the files of the model there") from error


def open_model(kind: str, found: Found, precision: str) -> Any:
    """The frozen model of the transformers class `kind`, on the CPU.

    ReedError when its files lack weights.

    precision: of reed.encoders.image.batches; "bf16" also holds the weights in bfloat16. A pooler
    may lack weights: transformers adds one to some models, and nothing here reads it.
    """
    import torch

    for path in found.files:
        check(path)
    folder, dtype = found.folder, torch.bfloat16 if precision == "bf16" else torch.float32
    model, report = open_part(kind, folder, dtype=dtype, output_loading_info=True)
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if missing:
        problem = f"{folder} lacks {len(missing)} weights of {type(model).__name__}"
        raise ReedError(f"{problem}, such as {missing[0]!r}; restore its files, or name its model")
    return model.requires_grad_(False).eval()


@contextmanager
def _quiet() -> Generator[None]:
    """No progress bars and no report of weights that are in the files and not needed."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def running(device: str, precision: str) -> AbstractContextManager[None]:
    """Inference with a model that is in its precision already, so that nothing is to be cast."""
    return computing(device, "tf32" if precision == "tf32" else "fp32")


def masked_mean(states: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    """The mean over the tokens that a mask keeps, in float32 on the CPU.

    states: [B, T, C]; mask: bool [B, T], at least one token of each row. What is masked never
    enters, even if it is not finite.
    """
    kept = states.float().masked_fill(~mask.unsqueeze(-1), 0.0)
    return (kept.sum(1) / mask.sum(1, keepdim=True)).cpu().numpy()  # [B, C]


def pictures(samples: Sequence[dict[str, Any]]) -> list[Image.Image]:
    """The images of some samples for a processor; BadSample unless they are uint8 [H, W, 3]."""
    from PIL import Image

    images = [np.asarray(sample["image"]) for sample in samples]
    for image in images:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            found = f"{image.dtype} {list(image.shape)}"
            raise BadSample(f"the image is {found}, a model of images takes uint8 [H, W, 3]")
    return [Image.fromarray(image) for image in images]


def captions_of(samples: Sequence[dict[str, Any]], place: str) -> list[str]:
    """The captions of some samples, trimmed; BadSample when there is nothing left of one."""
    captions = [sample[place].strip() for sample in samples]
    if not all(captions):
        raise BadSample("the caption is empty")
    return captions
