"""Twenty steps of the public REED trainer, repeated by ours on the recorded random numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from reed import config
from reed.cache.schema import Field
from reed.cache.stream import Stored
from reed.domains.image import ImageDomain
from reed.train import checkpoint, log, loop, noised
from reed.train.align import check_target
from reed.train.checkpoint import Checkpoint
from reed.train.curriculum import Schedule
from reed.train.recipe import Setup, TrainConfig
from reed.train.run_data import RunData

GOLDEN = Path(__file__).parent / "golden"
STEPS, BATCH = 20, 4
TABLE = {
    "shards": "none",
    "steps": STEPS,
    "batch": BATCH,
    "precision": "fp32",
    "ema_decay": 0.9,
    "data": {"x": "vae/moments", "label": "vae/label"},
    "domain": {
        "classes": 10,
        "net_settings": {"patch_size": 2, "hidden_size": 64, "depth": 4, "num_heads": 4},
    },
    "align": {
        "z0": {"target": "dino/tokens", "tap": 2, "hidden": 96},
        "z1": {"target": "qwen/embedding", "tap": 3, "hidden": 96},
    },
    # their proj-coeff 0.5 times repa-coeff [1, 0.5], and eight steps of diffusion warm-up
    "curriculum": {
        "diffusion": {"kind": "linear", "start": 0.0, "end": 1.0, "ends": 8},
        "z0": 0.5,
        "z1": 0.25,
    },
    "every": {"log": 1, "save": 0},
}
FIELDS = {
    "x": Field("moments", "moments", (8, 8, 8), scale=(0.18215,)),
    "label": Field("label", "label", (), "int64"),
}
TARGETS = {"z0": Field("tokens", "token", (16, 48)), "z1": Field("embedding", "sample", (32,))}


def load(name):
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        return {k: file[k] for k in file.files}


class RecordedStream:
    """The recorded batches in place of a cache."""

    samples = 1000

    def __init__(self, golden):
        names = {"x": "moments", "label": "y", "z0": "z0", "z1": "z1"}
        self._data = {ours: torch.from_numpy(golden[f"data/{n}"]) for ours, n in names.items()}

    def batches(self, start):
        for step in range(start, STEPS):
            yield Stored(step, np.arange(BATCH), 0, BATCH, {})

    def decode(self, stored, device):
        return {name: values[stored.step] for name, values in self._data.items()}


def recorded_draws(golden):
    """A stand-in for reed.seeding.Draws that hands out the recorded numbers in their order."""

    class RecordedDraws:
        def __init__(self, seed, step, total, rows, device):
            assert (total, rows) == (BATCH, slice(0, BATCH))
            of = {
                n: golden[f"data/{n}"][step].reshape(BATCH, -1).squeeze()
                for n in ("t_uniform", "drop_u")
            }
            self._uniform = iter([of["t_uniform"], of["drop_u"]])
            self._normal = iter(golden[f"data/{n}"][step] for n in ("posterior_noise", "noise"))

        def uniform(self, *shape):
            return self._next(self._uniform, shape)

        def normal(self, *shape):
            return self._next(self._normal, shape)

        def _next(self, numbers, shape):
            drawn = torch.from_numpy(next(numbers))
            assert drawn.shape == (BATCH, *shape)
            return drawn

    return RecordedDraws


def our_name(key):
    """projectors.0.2.weight -> heads.z0.2.weight, blocks.0... -> net.blocks.0..."""
    is_head = key.startswith("projectors.")
    return key.replace("projectors.", "heads.z") if is_head else f"net.{key}"


def weights(arrays, prefix):
    return {
        our_name(key.removeprefix(prefix)): torch.from_numpy(value)
        for key, value in arrays.items()
        if key.startswith(prefix)
    }


def recorded_setup(golden, run):
    settings = config.build(TrainConfig, TABLE | {"run": str(run)})
    domain = config.build(ImageDomain, settings.domain)
    net = domain.net(FIELDS)
    targets = {n: check_target(n, settings.align[n], f, net) for n, f in TARGETS.items()}
    schedules = {
        name: Schedule.of(weight, name).resolve(STEPS, BATCH, 1000)
        for name, weight in settings.curriculum.items()
    }
    stream = RecordedStream(golden)
    lr = Schedule.of(1.0, "lr")
    data = RunData("image", "imagenet", stream.samples, FIELDS, {})
    return Setup(settings, domain, data, targets, schedules, lr, None, stream)


@pytest.fixture(scope="module")
def golden():
    return load("train20")


@pytest.fixture(scope="module")
def run(golden, tmp_path_factory):
    """The folder of our run, which starts from a checkpoint of step 0 with their weights."""
    folder = tmp_path_factory.mktemp("train20")
    start = weights(golden, "sd/")
    net = {k.removeprefix("net."): v for k, v in start.items() if k.startswith("net.")}
    checkpoint.save(folder, Checkpoint(0, start, net, {}, {"scaler": None, "samples": 0}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noised, "Draws", recorded_draws(golden))
        trainer = loop.Trainer(recorded_setup(golden, folder), Accelerator(cpu=True))
        trainer.resume()
        trainer.run(progress=False)
    return folder


@pytest.mark.parametrize(
    ("ours", "theirs", "factor"),
    [
        ("diffusion", "denoising_loss_mean", 1),
        ("loss", "total", 1),
        ("grad_norm", "grad_norm", 1),
        ("weight/diffusion", "diffusion_weight", 1),
        ("cos/z0", "img_proj_loss", -1),
        ("cos/z1", "text_proj_loss", -1),
    ],
)
def test_the_curve_is_theirs(run, golden, ours, theirs, factor):
    curve = [line[ours] * factor for line in log.read(run)]
    np.testing.assert_allclose(curve, golden[f"curve/{theirs}"], rtol=0, atol=2e-5)


def test_the_final_weights_are_theirs(run):
    theirs = weights(load("train20_final_state"), "final/")
    ours = checkpoint.load(run, STEPS).model
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        mine, width = ours[name], value.shape[0] // 3
        if name.endswith("qkv.bias"):  # the gradient of its key part is zero up to rounding
            mine, value = (torch.cat([v[:width], v[2 * width :]]) for v in (mine, value))
        torch.testing.assert_close(mine, value, rtol=0, atol=5e-6, msg=lambda m, n=name: n + m)


def test_the_average_is_theirs(run, golden):
    ours = checkpoint.load(run, STEPS).ema
    compared = 0
    for i, key in enumerate(json.loads(str(golden["keys_json"]))):
        if key in ours and not key.endswith("qkv.bias"):
            mine = ours[key].flatten()[torch.from_numpy(golden["probe_index"][i])].numpy()
            theirs = golden["probe/ema_decay0.9"][i]
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=5e-6, err_msg=key)
            compared += 1
    assert compared == len(ours) - 4


def test_the_run_has_moved_the_weights(run, golden):
    """Or the comparison above would hold for a trainer that does nothing."""
    start, theirs = weights(golden, "sd/"), weights(load("train20_final_state"), "final/")
    moved = [n for n in start if (theirs[n] - start[n]).abs().max() > 1e-4]
    assert len(moved) > 50
