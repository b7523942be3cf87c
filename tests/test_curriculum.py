"""Schedules and time weights against the public code: its values, and what it meant."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from reed.errors import ReedError
from reed.flows.time_weight import KINDS, TimeWeight, time_weight
from reed.train.curriculum import Ramp, Schedule

GOLDEN = Path(__file__).parent / "golden"
RECORDED = json.loads((GOLDEN / "curriculum.json").read_text())
DECAYS = {"constant": "constant", "linear": "linear", "cosine": "cosine_as_meant"}


def diffusion(start, top, total, decay):
    """The diffusion weight of REED as configuration data."""
    tables = [{"kind": "linear", "start": 0, "end": 1, "begins": start, "ends": top}]
    if decay != "constant":
        tables.append({"kind": decay, "start": 1, "end": 0, "begins": top, "ends": total})
    return tables


def alignment(end, decay):
    """The alignment weight of REED as configuration data."""
    return 1.0 if decay == "constant" else {"kind": decay, "start": 1, "end": 0, "ends": end}


def image_cases():
    for case in RECORDED["image"]:
        o = case["options"]
        start, total = o["start_diffusion_steps"], o["max_train_steps"]
        weights = {
            "diffusion_weight": lambda d, s=start, c=case, n=total: diffusion(s, c["top"], n, d),
            "repa_weight": lambda d, o=o: alignment(o["repa_steps"], d),
        }
        yield case, weights, lambda data, n=total: Schedule.of(data, "x").resolve(n, 1, 1), 1


def protein_cases():
    for case in RECORDED["protein"]:
        o = case["options"]
        start, total = o["start_diffusion_epoch"], o["num_epochs"]
        weights = {
            "diffusion_weight": lambda d, s=start, c=case, n=total: diffusion(
                f"{s} epochs", f"{c['top']} epochs", f"{n} epochs", d
            ),
            "repa_weight": lambda d, o=o: alignment(f"{o['repa_epoch']} epochs", d),
        }
        # 56 samples in batches of 8 are 7 steps per epoch
        yield case, weights, lambda data, n=total: Schedule.of(data, "x").resolve(7 * n, 8, 56), 7


CASES = [*image_cases(), *protein_cases()]


def is_protein_edge(case, at):
    """Without warm-up the published protein loop gives 0 at the first epoch, the image loop 1."""
    o = case["options"]
    return o.get("diffusion_warm_up_epoch") == 0 and at == o["start_diffusion_epoch"]


@pytest.mark.parametrize(("case", "weights", "resolve", "per_unit"), CASES)
def test_recorded_schedules(case, weights, resolve, per_unit):
    for weight, data in weights.items():
        for decay, key in DECAYS.items():
            schedule = resolve(data(decay))
            for at, expected in zip(case["grid"], case[weight][key], strict=True):
                ours = schedule(at * per_unit)
                if expected == "ZeroDivisionError":
                    assert at == case["top"] and ours == 0  # the decay has no length: it is over
                elif weight == "diffusion_weight" and is_protein_edge(case, at):
                    assert expected == 0 and ours == 1
                else:
                    assert ours == pytest.approx(expected, abs=1e-9)


def test_the_public_cosines_slip_and_ours_do_not():
    case, weights, resolve, _ = CASES[0]
    assert case["options"]["repa_steps"] == 400_000 and case["top"] == 50_000
    expected = {  # step: (as written, as meant)
        "diffusion_weight": {50_000: (0.49106137, 1.0), 1_000_000: (0.43062385, 0.0)},
        "repa_weight": {525_000: (0.22221488, 0.0), 1_000_000: (0.5, 0.0)},
    }
    for weight, points in expected.items():
        schedule = resolve(weights[weight]("cosine"))
        for step, (written, meant) in points.items():
            recorded = case[weight]["cosine_as_written"][case["grid"].index(step)]
            assert recorded == pytest.approx(written, abs=1e-6)
            assert schedule(step) == pytest.approx(meant, abs=1e-9)
            assert abs(schedule(step) - recorded) > 0.1


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_decay_is_monotone_and_clamped(kind):
    ramp = {"kind": kind, "start": 1, "end": 0, "begins": 10, "ends": 90}
    schedule = Schedule.of(ramp, "x").resolve(100, 1, 1)
    values = [schedule(step) for step in range(300)]
    assert values[:11] == [1.0] * 11 and values[90:] == [0.0] * 210
    assert all(a > b for a, b in zip(values[10:90], values[11:91], strict=True))
    assert schedule(50) == pytest.approx(0.5)


def test_places_in_every_unit():
    def at(place):
        ramp = {"kind": "step", "start": 2, "end": 5, "begins": place}
        schedule = Schedule.of(ramp, "x").resolve(total_steps=1000, batch_size=256, samples=25_600)
        return next(step for step in range(2000) if schedule(step) == 5)

    places = ["3 epochs", "1 epoch", "0.5 epochs", "25600 samples", "70 steps", "10%", "2.5 %", 7]
    assert [at(place) for place in places] == [300, 100, 50, 100, 70, 100, 25, 7]


def test_step_and_zero_length_ramps_jump():
    step = Ramp("step", 0.0, 1.0, begins=5)
    line = Ramp("linear", 0.0, 1.0, begins=5, ends=5)
    for ramp in (step, line):
        schedule = Schedule((ramp,)).resolve(10, 1, 1)
        assert [schedule(i) for i in (0, 4, 5, 6)] == [0, 0, 1, 1]


def test_numbers_and_products():
    assert Schedule.of(0.5, "x")(123) == 0.5
    half = {"kind": "constant", "start": 0.5}
    line = {"kind": "linear", "start": 0, "end": 1, "ends": 10}
    assert Schedule.of([half, line], "x")(5) == 0.25


@pytest.mark.parametrize(
    ("data", "off"),
    [
        (0, True),
        (0.0, True),
        (1, False),
        ({"kind": "linear", "start": 0, "end": 1, "ends": 10}, False),
        ({"kind": "linear", "start": 1, "end": 0, "ends": 10}, False),
        ({"kind": "linear", "start": 1, "end": 0, "ends": 0}, True),
        ({"kind": "linear", "start": 1, "end": 0, "ends": "0%"}, True),
        ({"kind": "step", "start": 0, "end": 0, "begins": 10}, True),
        (
            [{"kind": "constant", "start": 0}, {"kind": "step", "start": 0, "end": 1, "begins": 3}],
            1,
        ),
    ],
)
def test_is_off(data, off):
    schedule = Schedule.of(data, "x").resolve(100, 1, 1)
    assert schedule.is_off() == off
    assert off == all(schedule(step) == 0 for step in range(100))


LINE = {"kind": "linear", "start": 0, "end": 1, "ends": 10}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("linear", "loss.a: it is 'linear', it must be a number"),
        (True, "loss.a: it is True"),
        (-1, "loss.a: it is -1"),
        (float("nan"), "loss.a: it is nan"),
        ([], "loss.a is an empty list"),
        ({"start": 1}, "loss.a has no 'kind'"),
        ({**LINE, "kind": "liner"}, "unknown kind 'liner'. Did you mean 'linear'"),
        ({**LINE, "kind": ["linear"]}, "unknown kind"),
        ({**LINE, "begin": 3}, "no key 'begin'. Did you mean 'begins'"),
        ({"kind": "constant", "start": 1, "ends": 3}, "constant ramp has no key 'ends'"),
        ({"kind": "step", "start": 1, "end": 0}, "step ramp needs 'begins'"),
        ({"kind": "linear", "start": 1, "end": 0}, "linear ramp needs 'ends'"),
        ({**LINE, "start": "0"}, "start is '0'"),
        ({**LINE, "end": float("inf")}, "end is inf"),
        ({**LINE, "ends": "10 eons"}, "ends is '10 eons'.*30 epochs"),
        ({**LINE, "ends": "ten epochs"}, "ends is 'ten epochs'"),
        ({**LINE, "ends": 10.5}, "ends is 10.5"),
        ({**LINE, "ends": True}, "ends is True"),
        ({**LINE, "begins": -1}, "begins is -1"),
        ({**LINE, "ends": "inf epochs"}, "ends is 'inf epochs'"),
    ],
)
def test_bad_schedules(data, message):
    with pytest.raises(ReedError, match=message):
        Schedule.of(data, "loss.a")


def test_a_ramp_that_ends_before_it_begins():
    late = {"kind": "linear", "start": 1, "end": 0, "begins": 50_000, "ends": "100%"}
    with pytest.raises(ReedError, match=r"loss.a: .*50000 .*'100%' \(step 1000\)"):
        Schedule.of(late, "loss.a").resolve(1000, 1, 1)


# --- time weights ---------------------------------------------------------------------------

SPECS = {**{kind: kind for kind in KINDS}, "cutoff": {"kind": "cutoff", "low": 0.2, "high": 0.7}}
TIMES = ["uniform.linear", "uniform.cosine", "lognormal.linear", "lognormal.cosine"]


@pytest.fixture(scope="module")
def losses():
    with np.load(GOLDEN / "loss.npz", allow_pickle=False) as file:
        arrays = {k: torch.from_numpy(file[k]) for k in file.files if not k.endswith("json")}
        return arrays, json.loads(str(file["cfg_json"]))


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("name", SPECS)
def test_time_weights_and_what_the_public_code_makes_of_them(name, times, losses):
    golden, config = losses
    w = time_weight(SPECS[name], golden[f"{times}.t"])
    assert w.shape == (6,)
    close = {"rtol": 0, "atol": 5e-6}
    torch.testing.assert_close(w, golden[f"{times}.{name}.time_weight"], **close)

    align = []
    for i in range(2):
        similarity = torch.cosine_similarity(golden[f"in/z{i}"], golden[f"in/ztilde{i}"], dim=-1)
        align.append(-similarity.reshape(6, -1).mean(1))
        torch.testing.assert_close(align[i], golden[f"align_per_sample/z{i}"], **close)
    scales = [config["loss_weights"][encoder] for encoder in config["enc_names"]]
    meant = sum(s * (a * w).mean() for s, a in zip(scales, align, strict=True))
    written = sum(s * a.mean() * w.mean() for s, a in zip(scales, align, strict=True))
    recorded = golden[f"{times}.{name}.proj_loss"]
    torch.testing.assert_close(meant, golden[f"{times}.{name}.proj_loss_meant"], **close)
    torch.testing.assert_close(written, recorded, **close)
    assert (abs(meant - recorded) > 1e-3) == (name != "constant")
    for key, value in (("img", align[0]), ("text", align[1])):
        torch.testing.assert_close(value.mean(), golden[f"{times}.{name}.{key}_proj_loss"], **close)


@pytest.mark.parametrize("name", ["constant", "linear"])
def test_the_public_weight_of_zero_is_one(name, losses):
    """Ours is off: with the text weight at 0 only the image term is left."""
    golden, _ = losses
    image, text = golden["align_per_sample/z0"].mean(), golden["align_per_sample/z1"].mean()
    w = time_weight(name, golden["uniform.linear.t"])
    recorded = golden[f"zero_weight.uniform.linear.{name}.proj_loss"]
    torch.testing.assert_close(image * w.mean() + text, recorded, rtol=0, atol=5e-6)
    off = Schedule.of(0.0, "x")
    ours = image * w.mean() + off(0) * text
    assert off.is_off() and abs(ours - recorded) > 0.1


def test_window_ends_are_inside():
    t = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    w = time_weight({"kind": "cutoff", "low": 0.25, "high": 0.75}, t)
    assert w.tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("name", SPECS)
def test_time_weights_stay_in_range_and_fall_from_data_to_noise(name):
    w = time_weight(SPECS[name], torch.linspace(0, 1, 101))
    assert w.min() >= 0 and w.max() <= 1
    if name != "cutoff":
        assert (w.diff() <= 0).all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sigmiod", "align.a: unknown time weight 'sigmiod'. Did you mean 'sigmoid'"),
        (3, "unknown time weight 3"),
        ({"low": 0.1}, "unknown time weight None"),
        ({"kind": "linear", "low": 0.1}, "'linear' has no key 'low'"),
        ({"kind": "cutoff", "lo": 0.1, "high": 1}, "no key 'lo'. Did you mean 'low'"),
        ("cutoff", "low is None"),
        ({"kind": "cutoff", "low": 0.7, "high": 0.2}, "low is 0.7 and high is 0.2"),
        ({"kind": "cutoff", "low": 0.7, "high": True}, "high is True"),
    ],
)
def test_bad_time_weights(spec, message):
    with pytest.raises(ReedError, match=message):
        TimeWeight.of(spec, "align.a")


def test_per_sample_times_only():
    with pytest.raises(AssertionError):
        TimeWeight("linear")(torch.rand(6, 1, 1, 1))
