"""Without a hub, or without a library, what is missing is said at once, in one line."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest

from reed import hub, weights
from reed.build import early
from reed.encoders import ENCODERS
from reed.errors import ReedError
from reed.weights import Origin

CODE = """
import sys
from reed import hub, weights
from reed.errors import ReedError
hub.PROBE_SECONDS = 0.5
try:
    weights.prefetch("mine", weights.Origin("some/model"))
except ReedError as error:
    print(error)
"""


@pytest.fixture
def closed():
    """A local address at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def mute():
    """A local address that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(8)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def asked(address, tmp_path):
    """What is said of weights that a hub at this address is asked for, and the seconds it took."""
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    setting = kept | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path)}
    setting.pop("HF_HUB_OFFLINE", None)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, env=setting, timeout=100
    )
    return done, time.monotonic() - began


@pytest.mark.parametrize("place", ["closed", "mute"])
def test_a_hub_that_does_not_answer_is_told_at_once(tmp_path, place, request):
    """It took half a minute and thirteen lines of retries."""
    address = request.getfixturevalue(place)
    done, seconds = asked(address, tmp_path)
    assert done.stderr == "" and done.stdout.count("\n") == 1, done
    assert "mine: some/model at main is not in the hub's cache and cannot be fetched" in done.stdout
    assert f"{address} does not answer: " in done.stdout
    assert done.stdout.endswith("--set mine.weights=PATH\n")
    assert seconds < 9  # 0.5 of them are the request; a busy machine starts Python in some


def test_cached_weights_need_no_hub(tmp_path, closed, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", closed)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "unreachable", lambda: f"{closed} does not answer")
    revision = "0" * 40
    snapshot = tmp_path / "models--some--model" / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"1234")
    found = weights.prefetch("mine", Origin("some/model", revision))
    assert found.files == (snapshot / "model.safetensors",)


def test_a_missing_library_is_told_before_the_weights(monkeypatch):
    """The hub was asked first, so that one learned of the library only after a download."""
    asked_for = []
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    monkeypatch.setattr(weights, "prefetch", lambda *words: asked_for.append(words))
    for name, library, extra in (
        ("dinov2-b", "timm", "images"),
        ("sd-vae", "diffusers", "images"),
        ("esm2-8m", "transformers", "proteins"),
        ("esm-if1", "esm", "proteins"),
    ):
        encoder = ENCODERS.get(name)()
        with pytest.raises(ReedError) as caught:
            list(early.open_files(name, encoder, True))
        said = str(caught.value)
        assert f"{name} needs {library}, which is not installed; install it with: pip" in said
        assert f"[{extra}]" in said and "\n" not in said
    assert asked_for == []


def test_every_encoder_names_libraries_that_an_extra_installs():
    for name in ENCODERS.names():
        kind = ENCODERS.get(name)
        kind = getattr(kind, "func", kind)
        for library in getattr(kind, "libraries", ()):
            hub.require(name, [library], kind.extra)  # the tests have every extra
            assert kind.extra in ("images", "proteins", "molecules")
