"""What an encoder needs from elsewhere: an answer of the hub, and installed libraries."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from reed.errors import ReedError
from reed.extras import pip_install

PROBE_SECONDS = 4.0  # timeout of the first request


def unreachable() -> str:
    """Return why the hub does not answer; empty if it does, or if it must not be asked."""
    try:
        constants = import_module("huggingface_hub.constants")
    except ImportError:  # told when it is used
        return ""

    # Any answer will do: what it says is for the hub's library to judge.
    if constants.HF_HUB_OFFLINE:  # its library says so itself
        return ""
    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError:  # an answer, whatever it says
        return ""
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        # The hub's library has certificates of its own.
        is_there = isinstance(reason, ssl.SSLError)
        return "" if is_there else f"{constants.ENDPOINT} does not answer: {reason}"
    return ""


def require(name: str, modules: Iterable[str], extra: str) -> None:
    """Raise ReedError for the first module that an encoder needs and that is not installed."""
    for module in modules:
        if find_spec(module) is None:
            raise ReedError(
                f"{name} needs {module}, which is not installed; "
                f"install it with: {pip_install(extra)}"
            )


def library(name: str, purpose: str = "encoding images", extra: str = "images") -> Any:
    """Import a module that `extra` installs; ReedError with the command to install it if absent."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ReedError(
            f"{purpose} needs {name.partition('.')[0]}, which cannot be imported "
            f"({error}); install it with: {pip_install(extra)}"
        ) from error
