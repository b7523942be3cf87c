"""Autoencoders in the folders that diffusers writes: config.json and one file of weights."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from reed import weights as files
from reed.encoders.base import PublicWeights
from reed.errors import ReedError
from reed.state_dict import fill
from reed.weights import Found, Origin

WEIGHTS = "diffusion_pytorch_model.safetensors"
# Names of attention layers in files of 2022 and 2023, and their current names in diffusers.
RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class DiffusersModel(PublicWeights):
    """An encoder whose weights are a folder of diffusers, on the hub or at a path."""

    libraries, extra = ("diffusers",), "images"

    if TYPE_CHECKING:
        hub: str
        subfolder: str

    @property
    def origin(self) -> Origin:
        """Location of the public weights."""
        inside = f"{self.subfolder}/" if self.subfolder else ""
        repo, _, revision = self.hub.partition("@")
        names = (f"{inside}config.json", f"{inside}{WEIGHTS}")
        return Origin(repo, revision or "main", names)

    def _revision(self, found: Found, how: str) -> str:
        """Return weights, configuration and library, with `how` the model is used between them."""
        config = {k: v for k, v in self._config(found).items() if k != "_diffusers_version"}
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
        return f"sha256:{found.sha256} config:{digest[:16]} {how} diffusers-{version('diffusers')}"

    def _config(self, found: Found) -> dict[str, Any]:
        path = found.files[0].parent / "config.json"
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ReedError(
                f"{self.name}: cannot read {path}, which describes the weights beside it ({error})"
            ) from error
        if not isinstance(config, dict):
            problem = f"{path} holds {type(config).__name__}, not a table of settings"
            raise ReedError(f"{self.name}: {problem}; download it again")
        return config

    def _state(self, found: Found) -> dict[str, Any]:
        return {_renamed(key): value for key, value in files.read(found.files[0]).items()}

    def _option(self, name: str, value: object) -> str:
        """Return how a setting is given; an encoder with a colon in its name has another column."""
        return f"--set {'COLUMN' if ':' in self.name else self.name}.{name}={value}"

    def _built(self, model_class: Any, found: Found, config: Mapping[str, Any]) -> Any:
        """Make the model that config.json describes, with random weights."""
        try:
            return model_class.from_config(config)
        except Exception as error:  # whatever diffusers does with settings that do not fit together
            path, family = found.files[0].parent / "config.json", model_class.__name__
            said = " ".join(str(error).split())
            raise ReedError(
                f"{self.name}: diffusers makes no {family} of the settings in {path} "
                f"({type(error).__name__}: {said}); download it again"
            ) from error

    def _filled(self, model: Any, state: dict[str, Any], found: Found, device: str) -> Any:
        """Fill in the weights, so that a missing or superfluous tensor is an error."""
        fill(model, state, f"{self.name}: {found.files[0]}")
        return model.requires_grad_(False).eval().to(device)


def _renamed(key: str) -> str:
    """Return the current name of a parameter in diffusers."""
    match = re.fullmatch(r"(.*\.attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)", key)
    return f"{match[1]}.{RENAMED[match[2]]}.{match[3]}" if match else key
