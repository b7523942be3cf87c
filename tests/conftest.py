"""Fixtures that several test modules share; import mode is importlib, so they cannot import."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FAKES = Path(__file__).with_name("reed_fakes.py")

# What the command line of `make test` set would also count in a make that a test runs.
for name in [name for name in os.environ if name.startswith("MAKE") or name == "MFLAGS"]:
    del os.environ[name]
for name in ("LOCK", "VENV", "PYTHON", "ARGS"):
    os.environ.pop(name, None)


@pytest.fixture(scope="session")
def fakes():
    """The module of tiny sources and encoders, importable as reed_fakes in this process."""
    if "reed_fakes" not in sys.modules:
        spec = importlib.util.spec_from_file_location("reed_fakes", FAKES)
        sys.modules["reed_fakes"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.path.append(str(FAKES.parent))  # reading processes are sent a fake source
    return sys.modules["reed_fakes"]


@pytest.fixture
def ranks() -> Callable[..., list[subprocess.Popen]]:
    """A function that starts a Python command as two processes of one launch, as torchrun does."""

    def start(*words: str, **environment: str) -> list[subprocess.Popen]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        launch = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        launch["OMP_NUM_THREADS"] = "1"
        return [
            subprocess.Popen(
                [sys.executable, *words],
                env=os.environ | launch | environment | {"RANK": rank, "LOCAL_RANK": rank},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for rank in "01"
        ]

    return start


@pytest.fixture(scope="session")
def fakes_path() -> Path:
    """The same as a program."""
    return FAKES


@pytest.fixture(scope="session")
def whole(fakes, tmp_path_factory) -> Path:
    """A complete cache of 60 samples in 4 shards; not to be changed (`cache` is a copy)."""
    return fakes.build(tmp_path_factory.mktemp("whole") / "fake")


@pytest.fixture(scope="session")
def odd(fakes, tmp_path_factory):
    """Fields of every kind and of unusual shapes, text that no font has, two views."""
    import numpy as np

    from reed.cache.schema import Field

    path = tmp_path_factory.mktemp("odd") / "odd"
    fields = {
        "latent": Field("latent", "moments", (8, 4, 4)),
        "two": Field("two", "data", (2, 4, 4)),
        "rgb": Field("rgb", "data", (3, 4, 4), scale=(2.0,), shift=(0.5,)),
        "line": Field("line", "data", (30, 3)),
        "many": Field("many", "token", (9, 5), "pca:4"),
        "ragged": Field("ragged", "token", (None, 5)),
        "none": Field("none", "token", (None, 5)),
        "thin": Field("thin", "token", (4, 1)),
        "pair": Field("pair", "pair", (5, 4, 3)),
        "text": Field("text", "text", (), "utf8"),
    }

    class Odd(fakes.Encoder):
        reads = ("pixels",)

        def one(self, sample):
            noise = fakes.random(sample["pixels"].tobytes()).standard_normal
            shapes = [f.shape for f in list(fields.values())[:-1]]
            sizes = [tuple(n or 7 for n in shape) for shape in shapes]
            sizes[6] = (0, 5)
            arrays = [noise(size).astype(np.float32) for size in sizes]
            return *arrays, "costs $5_000$ \n" + "語 and a long line of words " * 30

    Odd.fields = tuple(fields.values())
    fakes.engines.run(fakes.job(path, "odd", None, Odd()), fakes.Share(), progress=False)
    return path


@pytest.fixture
def cache(whole, tmp_path) -> Path:
    """A complete cache that a test may damage."""
    import shutil

    return shutil.copytree(whole, tmp_path / "fake")


@pytest.fixture
def edit_json():
    """Change a JSON file of a cache, its own hash too: edit_json(path, key=value)."""
    from reed.cache import sealed

    def edit(path: Path, **changes) -> None:
        path.write_bytes(sealed.dump(json.loads(path.read_text()) | changes))

    return edit


@pytest.fixture
def one_thread():
    """Undo the thread count that the training command sets."""
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """A headless Chromium that may not use the network."""
    import shutil

    webdriver = pytest.importorskip("selenium.webdriver")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("chromium and chromedriver are not installed: `make browser`")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    profile = tmp_path_factory.mktemp("chromium")
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "disable-dev-shm-usage",
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(driver)
    browser = webdriver.Chrome(options, service)
    yield browser
    browser.quit()


@pytest.fixture
def open_page(chromium):
    """Open a page from disk: open_page(path, width=1200, dark=False) -> the browser.

    When the test is over: nothing was asked of the network, the console has no error.
    """

    wait = pytest.importorskip("selenium.webdriver.support.wait")

    def opened(path: Path, width: int = 1200, dark: bool = False):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        chromium.get(path.resolve().as_uri())
        # under load it may return before the page is parsed
        whole = "return document.readyState === 'complete' && !!document.querySelector('footer')"
        wait.WebDriverWait(chromium, 60).until(lambda browser: browser.execute_script(whole))
        return chromium

    chromium.get_log("performance"), chromium.get_log("browser")  # of earlier tests
    yield opened
    asked = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    urls = [
        each["params"]["request"]["url"]
        for each in asked
        if each["method"] == "Network.requestWillBeSent"
    ]
    assert any(url.startswith("file:") for url in urls)
    assert not [url for url in urls if url.startswith(("http", "ws"))]
    assert not [e for e in chromium.get_log("browser") if e["level"] == "SEVERE"]
