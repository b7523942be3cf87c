"""Image models of transformers as encoders: patch tokens on a grid, and one vector per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from reed import weights as files
from reed.build.shard import Values
from reed.cache.schema import Field
from reed.encoders import ENCODERS
from reed.encoders import pretrained as pre
from reed.encoders.base import PublicWeights
from reed.encoders.image import transformers_models as models
from reed.encoders.image.batches import check_precision, handed_over, images
from reed.encoders.image.timm_models import one_line
from reed.errors import ReedError
from reed.precision import computing
from reed.weights import Origin

if TYPE_CHECKING:
    import torch

# Steps of a processor that leave the size as it is; the others are switched off.
KEPT = ("do_rescale", "do_normalize", "do_convert_rgb", "do_flip_channel_order")
# Pillow's numbers of resampling filters, which processors use, and torchvision's names.
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
BILINEAR = 2  # what processors take if they name none


@dataclass
class TransformersVision(PublicWeights):
    """Patch tokens of an image from an image model of transformers, and one vector per image.

    Its fields:

    - ``tokens`` [``grid * grid``, dim]: the model's ``last_hidden_state`` without class and
      register tokens, row by row.
    - ``cls`` [dim]: the class token of the same. Models without one have ``pooled`` instead: the
      model's ``pooler_output`` or, if it or its weights are missing, the mean of the tokens.

    The whole image is resized as the model's own processor resizes, in bytes with antialiasing, and
    is not cropped; the processor itself then rescales and normalises it.

    Attributes:
        name: Name of the encoder in messages.
        hub: REPOSITORY@REVISION.
        licence: Licence of the weights.
        weights: Folder with the model's files, used instead of ``hub``.
        grid: Tokens per side; 0 for 16, or the model's own if it takes images of one size alone.
        precision: ``fp32``, ``tf32`` or ``bf16``.
        batch_size: Images per call of ``encode``.
    """

    libraries, extra = ("transformers", "torchvision"), "images"

    name: str
    hub: str
    licence: str = "as stated with the weights"
    weights: str | None = None
    grid: int = 0
    precision: str = "fp32"
    batch_size: int = 64

    _model: Any = field(default=None, init=False, repr=False)
    _pools: bool = field(default=True, init=False, repr=False)
    _device: str = field(default="cpu", init=False, repr=False)
    _known: tuple[models.Layout, int, Any] | None = field(default=None, init=False, repr=False)

    reads = ("image",)

    def __post_init__(self) -> None:
        check_precision(self.name, self.precision)
        if self.grid < 0:
            raise ReedError(f"{self.name}: grid {self.grid} must be 1 or more, or 0 for its own")

    @property
    def origin(self) -> Origin:
        """Location of the public weights."""
        return pre.origin_of(self.hub)

    @property
    def fields(self) -> tuple[Field, ...]:
        """The field ``tokens``, and ``cls`` or ``pooled``."""
        layout, width, _ = self._of_files
        return (
            Field("tokens", "token", (layout.grid**2, layout.dim), "int8"),
            Field("cls" if layout.is_class else "pooled", "sample", (width,), "float32"),
        )

    @property
    def _of_files(self) -> tuple[models.Layout, int, Any]:
        """Return the layout, the channels of the vector and the processor, as the files say."""
        if self._known is None:
            folder = self._find().folder
            processor = pre.open_part("AutoImageProcessor", folder)
            model = models.on_meta(folder)
            try:
                layout = models.layout_of(model, models.own_size(model, processor), self.grid)
                self._known = layout, models.shape_at(model, layout)[1], processor
                self._preprocessed(_blank(layout.size + 1))  # so that it is resized
            except Exception as error:  # each family fails in its own way
                problem = f"{self.name} ({type(model).__name__}) cannot be an encoder"
                raise ReedError(f"{problem}: {one_line(error)}") from error
        return self._known

    def revision(self) -> str:
        """Return weights, settings, size, precision and libraries; load nothing."""
        versions = f"{pre.version('transformers')} {pre.version('torchvision')}"
        size = self._of_files[0].size
        return f"{pre.fingerprint(self._find())} {size}px {self.precision} {versions}"

    def load(self, device: str) -> None:
        """Load the model onto ``device``.

        Raises:
            ReedError: The files lack weights, or the model returns other shapes than on "meta" or
            numbers that are not finite.
        """
        layout = self._of_files[0]
        model, poolers = pre.open_filled("AutoModel", self._find(), "fp32")
        # A pooler whose weights are missing has random ones.
        self._pools = not poolers
        self._model, self._device = models.tower_of(model).to(device), device

        # Some families compute with numbers of the image, which the device "meta" does not have.
        with computing(device, self.precision):
            tokens, vector = self._features(self._preprocessed(_blank(layout.size)))
        have = tokens.shape[1:], vector.shape[1:]
        want = tuple(part.shape for part in self.fields)
        if have != want:
            raise ReedError(f"{self.name}: tokens and vector are {have}, expected {want}")
        if not tokens.isfinite().all() or not vector.isfinite().all():
            problem = f"{self.name}: a black image gives tokens that are not finite"
            raise ReedError(f"{problem}; check the numbers in its config.json and preprocessor")

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return ``tokens`` [B, T, dim], and ``cls`` or ``pooled`` [B, width], float32.

        Raises:
            BadSample: An image is not uint8, RGB and square.
        """
        assert self._model is not None, "load() comes before encode()"
        with computing(self._device, "fp32"):
            x = self._preprocessed(images(samples, "cpu"))
        with computing(self._device, self.precision):
            tokens, vector = self._features(x)
        values = {"tokens": tokens, self.fields[1].name: vector}
        return {name: handed_over(value) for name, value in values.items()}

    def _features(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return models.features(self._model, x, self._of_files[0], pools=self._pools)

    def _preprocessed(self, pixels: torch.Tensor) -> torch.Tensor:
        """Convert uint8 [B, 3, R, R] on the CPU to the model's input, [B, 3, size, size].

        Processors resize bytes and round to bytes, between the two passes too, so that resizing in
        float would differ by up to 9 levels of 255 near edges.
        """
        layout, _, processor = self._of_files
        if pixels.shape[-1] != layout.size:
            transforms = files.library("torchvision.transforms.v2")
            resample = getattr(processor, "resample", None)
            resample = BILINEAR if resample is None else resample
            if resample not in range(len(FILTERS)):
                raise ReedError(
                    f"its image processor has resample={resample!r}, which is no filter"
                )
            mode = transforms.InterpolationMode(FILTERS[resample])
            sides = [layout.size, layout.size]
            pixels = transforms.functional.resize(pixels, sides, mode, antialias=True)

        # All that changes the size is off: cropping, padding, cutting into patches.
        settings = [name for name in dir(processor) if name.startswith("do_") and name not in KEPT]
        made = processor(
            images=list(pixels.to(self._device)),
            input_data_format="channels_first",
            return_tensors="pt",
            **dict.fromkeys(settings, False),
        )
        x = made.get("pixel_values")
        if x is None or x.shape != pixels.shape:
            have = "no pixel_values" if x is None else f"pixel_values {list(x.shape)}"
            raise ReedError(f"its image processor makes {have} of images {list(pixels.shape)}")
        return x.to(self._device)


def _blank(size: int) -> torch.Tensor:
    """Return one black image, uint8 [1, 3, size, size]."""
    import torch

    return torch.zeros(1, 3, size, size, dtype=torch.uint8)


def of_transformers(name: str) -> partial[TransformersVision]:
    """Any image model of transformers, by its repository or folder.

    Args:
        name: A repository of the hub, OWNER/NAME or OWNER/NAME@REVISION; or the path of a folder,
            which begins with ".", "/" or "~".

    Raises:
        ReedError: It is neither.
    """
    made = partial(TransformersVision, name=f"transformers:{name}")
    if name.startswith((".", "/", "~")):
        return partial(made, hub="", weights=name)
    owner, _, rest = name.partition("@")[0].partition("/")
    if not owner or not rest or "/" in rest:
        raise ReedError(f"transformers:{name} is neither OWNER/NAME of the hub nor a path")
    return partial(made, hub=name, licence=pre.licence_of(name))


ENCODERS.prefixes["transformers"] = of_transformers
