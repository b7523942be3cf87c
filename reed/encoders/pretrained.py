"""Models from transformers folders: open them with one-line errors, average chosen tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reed.build.shard import BadSample
from reed.encoders.folders import check_layers, check_opened, check_settings
from reed.errors import ReedError, suggest
from reed.extras import pip_install
from reed.finite import check_finite
from reed.precision import computing
from reed.weights import Found, Origin, check, weights_sha256

if TYPE_CHECKING:
    import torch
    from PIL import Image

LICENCES = {
    "Qwen/Qwen2-VL-2B-Instruct": "Apache-2.0",
    "Qwen/Qwen2-VL-7B-Instruct": "Apache-2.0",
    **{f"Qwen/Qwen3-VL-{size}-Instruct": "Apache-2.0" for size in ("2B", "4B", "8B")},
    **{f"Qwen/Qwen3-Embedding-{size}": "Apache-2.0" for size in ("0.6B", "4B", "8B")},
    "openai/clip-vit-large-patch14": "MIT",
    "google-t5/t5-large": "Apache-2.0",
    "sentence-transformers/all-mpnet-base-v2": "Apache-2.0",
}

# Most public repositories of such a model have these files; *.j* are JSON and the chat template.
FILES = ("*.safetensors", "*.j*")
OLD_FILES = ("pytorch_model*.bin", "*.j*")  # of models that nobody has converted
LONGEST = 240  # characters of another package's message; some list all families of models
SETTINGS = (".json", ".jinja", ".txt", ".model")  # of tokenizer, preprocessing and architecture


def fingerprint(found: Found) -> str:
    """Return a hash of the weights and one of the settings files beside them, for a revision."""
    digest = hashlib.sha256()
    for path in sorted(found.folder.iterdir()):
        if path.suffix in SETTINGS and not path.name.endswith(".index.json"):
            digest.update(f"{path.name}:{weights_sha256(path)}\n".encode())
    return f"{found.sha256[:16]}-{digest.hexdigest()[:16]}"


def origin_of(hub: str) -> Origin:
    """Return the needed files of REPOSITORY@REVISION on the hub.

    Args:
        hub: The repository, optionally with a revision; the default is its main branch.
    """
    repo, _, revision = hub.partition("@")
    return Origin(repo, revision or "main", FILES, instead=OLD_FILES)


def licence_of(hub: str) -> str:
    """Return the licence of a default model; for other models, where to find it."""
    repo = hub.partition("@")[0]
    return LICENCES.get(repo, f"as stated for {repo}")


def version(package: str, extra: str = "images") -> str:
    """Return "PACKAGE-VERSION" for a revision.

    Args:
        package: Name of the distribution.
        extra: Extra of reed that installs it; empty if none does.

    Raises:
        ReedError: The package is not installed.
    """
    try:
        return f"{package}-{metadata.version(package)}"
    except metadata.PackageNotFoundError:
        command = pip_install(extra) if extra else f"pip install {package}"
        problem = f"this encoder needs {package}, which is not installed"
        raise ReedError(f"{problem}; install it with: {command}") from None


def one_of(what: str, value: str, options: Sequence[str]) -> None:
    """Raise ReedError, with the nearest option, if ``value`` is not among the options.

    Args:
        what: Name of the setting, for the message.
        value: The value to check.
        options: The allowed values.
    """
    if value not in options:
        raise ReedError(f"unknown {what} {value!r}.{suggest(value, options)}")


def open_part(kind: str, folder: Path, **settings: Any) -> Any:
    """Open the files in a folder with a class of transformers.

    Args:
        kind: Name of the class, such as "AutoTokenizer".
        folder: Folder of the model's files.
        **settings: Further arguments of ``from_pretrained``.

    Raises:
        ReedError: transformers is not installed, or cannot read the files.
    """
    version("transformers")
    import transformers

    check_settings(kind, folder)

    # Unless it is told, transformers asks on the terminal whether code in the folder may run.
    if kind.startswith("Auto"):
        settings |= {"trust_remote_code": False}
    with _quiet():
        try:
            part = getattr(transformers, kind)
            return part.from_pretrained(str(folder), local_files_only=True, **settings)
        except Exception as error:  # each file format raises its own types of error
            raise ReedError(_problem(kind, folder, str(error), type(error).__name__)) from error


def _problem(kind: str, folder: Path, text: str, name: str) -> str:
    """Return in one line why transformers cannot open a folder, and what to do."""
    if "trust_remote_code" in text:
        problem = f"the model in {folder} is code that comes with its files, and reed does not run"
        return f"{problem} it; choose a model that transformers itself has"

    # Which weights have another shape is in the log of transformers alone.
    if "ignore_mismatched_sizes" in text:
        problem = f"{folder / 'config.json'} and the weights beside it are of different models"
        return f"{problem}: their shapes differ; restore the files of one model"

    # A check of the settings says below its first line what is wrong.
    reason, *more = text.strip().splitlines() or [""]
    if reason.endswith(":") and more:
        reason += f" {more[0].strip()}"
    reason = reason if len(reason) <= LONGEST else f"{reason[:LONGEST]} …"
    problem = f"cannot open {folder} as {kind}: {name}: {reason}"
    return f"{problem}; restore the files of the model there"


def open_model(kind: str, found: Found, precision: str, **settings: Any) -> Any:
    """Open a frozen model on the CPU.

    Args:
        kind: Name of the transformers class, such as "AutoModel".
        found: The files of the model.
        precision: ``fp32``, ``tf32`` or ``bf16``; ``bf16`` also keeps the weights in bfloat16, but
            not the buffers, which transformers leaves as they are.
        **settings: Further arguments of ``from_pretrained``.

    Raises:
        ReedError: The files lack weights of the model, or some are not finite.
    """
    return open_filled(kind, found, precision, **settings)[0]


def open_filled(kind: str, found: Found, precision: str, **settings: Any) -> tuple[Any, list[str]]:
    """Open a frozen model as `open_model` does, and name the weights of its pooler that it lacks.

    Returns:
        The model, and the names of those weights, which are random.
    """
    import torch

    # An empty file or a Git LFS pointer gets a clear message before transformers reads it.
    for path in found.files:
        check(path)
    check_opened(found)
    folder, dtype = found.folder, torch.bfloat16 if precision == "bf16" else torch.float32
    model, report = open_part(kind, folder, dtype=dtype, output_loading_info=True, **settings)

    # transformers adds a pooler to some models; its weights may be missing if nothing reads it.
    poolers = [name for name in report["missing_keys"] if "pooler" in name]
    missing = sorted(set(report["missing_keys"]) - set(poolers))
    if missing:
        problem = f"{folder} lacks {len(missing)} weights of {type(model).__name__}"
        raise ReedError(f"{problem}, such as {missing[0]!r}; restore its files, or name its model")
    check_layers(model, report["unexpected_keys"], folder)
    check_finite(model.state_dict(), str(folder))
    return model.requires_grad_(False).eval(), poolers


@contextmanager
def _quiet() -> Generator[None]:
    """Silence progress bars and the report of superfluous weights while a model opens."""
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
    """Return the context of inference with a model whose weights already have their precision."""
    return computing(device, "tf32" if precision == "tf32" else "fp32")


def masked_mean(states: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    """Average the tokens that a mask keeps, in float32 on the CPU: [B, C].

    Args:
        states: Hidden states [B, T, C]. Masked states never enter, even if they are not finite.
        mask: bool [B, T], with at least one True per row.
    """
    kept = states.float().masked_fill(~mask.unsqueeze(-1), 0.0)
    return (kept.sum(1) / mask.sum(1, keepdim=True)).cpu().numpy()  # [B, C]


def pictures(samples: Sequence[dict[str, Any]]) -> list[Image.Image]:
    """Return the images of some samples as Pillow images, for a processor.

    Raises:
        BadSample: An image is not uint8 [H, W, 3].
    """
    from PIL import Image

    images = [np.asarray(sample["image"]) for sample in samples]
    for image in images:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            actual = f"{image.dtype} {list(image.shape)}"
            raise BadSample(f"the image is {actual}, a model of images takes uint8 [H, W, 3]")
    return [Image.fromarray(image) for image in images]


def captions_of(samples: Sequence[dict[str, Any]], address: str) -> list[str]:
    """Return the captions of some samples, trimmed.

    Args:
        samples: The samples.
        address: Field of the captions, COLUMN/FIELD.

    Raises:
        BadSample: A caption is empty.
    """
    captions = [sample[address].strip() for sample in samples]
    if not all(captions):
        raise BadSample("the caption is empty")
    return captions
