"""The Inception network of 2015, as torch-fidelity ports it from TensorFlow."""

from __future__ import annotations

from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reed import weights as files
from reed.errors import ReedError
from reed.metrics import FEATURES, rgb, unfit
from reed.metrics.image_set import ImageSet
from reed.precision import computing

if TYPE_CHECKING:
    import torch

URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
ADVICE = f"download {URL} and give it: --weights inception=FILE"
CHANNELS = 7  # of the spatial features
SIZE = 299  # pixels per side of the network's input
# The network from its input to pool_3, in torch-fidelity's names
LAYERS = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1"),
    *("Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2"),
    *(f"Mixed_{block}" for block in "5b 5c 5d 6a 6b 6c 6d 6e 7a 7b 7c".split()),
    "AvgPool",
)


@FEATURES.register("inception")
class Inception:
    """The features that the ADM suite reads from the Inception graph of 2015-12-05.

    Its outputs:

    - ``pool`` [2048]: pool_3.
    - ``spatial`` [2023]: the first 7 channels of mixed_6/conv, at 17 x 17 positions, one position
      after the other as in that suite.
    - ``logits`` [1008]: without the bias.

    Source: openai/guided-diffusion, evaluations/evaluator.py.

    The weights and layers are torch-fidelity's. Batch norms are part of the convolutions before
    them, and images are resized along one axis after the other; features differ from those of
    torch-fidelity by rounding only.

    Args:
        weights: torch-fidelity's file of the graph's weights; None to download it once.
        precision: ``fp32``, ``tf32`` or ``bf16``.
    """

    outputs = ("pool", "spatial", "logits")

    def __init__(self, weights: str | None = None, precision: str = "fp32") -> None:
        self._given, self._precision = weights, precision
        self._fidelity = files.library("torch_fidelity", "the inception space", "eval")

    def revision(self) -> str:
        return (
            f"sha256:{files.weights_sha256(self._file)} 299px {self._precision} "
            f"torch-fidelity-{version('torch-fidelity')} folded"
        )

    @cached_property
    def _file(self) -> Path:
        """The weights file.

        Raises:
            ReedError: The file does not exist, or cannot be downloaded.
        """
        if self._given:
            path = Path(self._given).expanduser()
            if not path.is_file():
                raise ReedError(f"inception: there are no weights at {path}; {ADVICE}")
            return path

        # The hub checks the beginning of the hash, so that a broken download is not kept.
        path = self._kept()
        if not path.is_file():
            from torch import hub

            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                hub.download_url_to_file(URL, str(path), hash_prefix="6726825d")
            except (OSError, RuntimeError) as error:
                problem = f"inception: its weights cannot be fetched ({error})"
                raise ReedError(f"{problem}; {ADVICE}") from error
        return path

    @staticmethod
    def _kept() -> Path:
        """Return the path of the downloaded weights."""
        from torch import hub

        return Path(hub.get_dir()) / "checkpoints" / URL.rpartition("/")[2]

    def lacks(self, real: ImageSet) -> str:
        """Return why the space cannot be used: it needs weights, and one or three channels."""
        path = self._file if self._given else self._kept()
        return unfit(real) or ("" if path.is_file() else "no weights (--weights inception=FILE)")

    def load(self, device: str, real: ImageSet) -> None:
        import torch

        # torch-fidelity unpickles anything: files that hold more than tensors are refused before.
        files.read(self._file)
        try:
            self._net = self._fidelity.FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048", "logits_unbiased"], str(self._file)
            ).to(device)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ReedError(f"inception: {self._file} holds another model ({reason})") from error
        self._device = device

        # Without TF32, convolutions of a GPU are faster with the channels first.
        plain = device != "cpu" and self._precision == "fp32"
        self._format = torch.contiguous_format if plain else torch.channels_last
        fold(self._net)
        self._net.to(memory_format=self._format)
        # TensorFlow's mixed_6 is called Mixed_6d here (the third block of 17 x 17); its conv is the
        # 1x1 branch.
        self._net.Mixed_6d.branch1x1.register_forward_hook(self._keep)

    def _keep(self, module: Any, inputs: Any, output: Any) -> None:
        self._conv = output  # [B, 192, 17, 17]

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        import torch

        pixels = torch.from_numpy(rgb(images)).to(self._device)
        with computing(self._device, self._precision):
            x = (resized(pixels.float(), SIZE) - 128) / 128
            x = x.contiguous(memory_format=self._format)
            for name in LAYERS:
                x = getattr(self._net, name)(x)
            pool = x.flatten(1)
            logits = pool @ self._net.fc.weight.T
            spatial = self._conv[:, :CHANNELS].permute(0, 2, 3, 1).flatten(1)
        values = {"pool": pool, "spatial": spatial, "logits": logits}
        return {name: value.float().cpu().numpy() for name, value in values.items()}


def fold(net: torch.nn.Module) -> None:
    """Make every batch norm of a frozen network a part of the convolution before it.

    Args:
        net: Network whose layers have a `conv` without bias and a `bn`.
    """
    import torch
    from torch.nn.utils.fusion import fuse_conv_bn_weights

    layers: list[Any] = [each for each in net.modules() if hasattr(each, "bn")]
    for layer in layers:
        conv, norm = layer.conv, layer.bn
        means = (norm.running_mean, norm.running_var, norm.eps)
        scales = (norm.weight, norm.bias)
        conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, None, *means, *scales)
        layer.bn = torch.nn.Identity()
    net.requires_grad_(False)


def resized(images: torch.Tensor, size: int) -> torch.Tensor:
    """Resize float32 [B, C, H, W] to a square as TensorFlow 1 does: bilinear, corners at corners.

    Pixel i is read at i * H / size, between the two pixels beside that point; nothing is averaged.
    """
    import torch

    for axis in (3, 2):  # along a row first, which is the order of TensorFlow's roundings
        length = images.shape[axis]
        scale = torch.tensor(length / size, dtype=torch.float32, device=images.device)
        places = torch.arange(size, dtype=torch.float32, device=images.device) * scale
        low = places.long()
        part = (places - low).view(-1, *[1] * (3 - axis))
        high = (low + 1).clamp_max(length - 1)
        first, second = (images.index_select(axis, index) for index in (low, high))
        images = first + (second - first) * part
    return images
