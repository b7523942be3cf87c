"""The image domain: what it feeds the net, what it asks of it, and what it draws from it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reed import config
from reed.cache.schema import Field
from reed.domains.base import DOMAINS, Batch, Noised
from reed.domains.image import ImageDomain, SampleOptions
from reed.errors import ReedError
from reed.flows.paths import get_path
from reed.flows.samplers import Guidance
from reed.nets import sit_public
from reed.seeding import Draws

GOLDEN = Path(__file__).parent / "golden"
TINY = {"patch_size": 4, "hidden_size": 16, "depth": 2, "num_heads": 2}
DOMAIN = ImageDomain(classes=10, net_settings=TINY)
PIXELS = Field("pixels", "data", (4, 8, 8))
MOMENTS = Field("moments", "moments", (8, 8, 8), scale=(0.18215,))
LABEL = Field("label", "label", (), "int64")


def fields(x=PIXELS):
    return {"x": x, "label": LABEL}


def load(name):
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        return {k: torch.from_numpy(file[k]) for k in file.files if not k.endswith("json")}


class Recorded:
    """Draws that hands out given numbers and checks the order in which they are asked for."""

    def __init__(self, *calls):
        self._calls = list(calls)

    def _next(self, kind, shape):
        wanted, numbers = self._calls.pop(0)
        assert (wanted, shape) == (kind, tuple(numbers.shape[1:]))
        return numbers

    def uniform(self, *shape):
        return self._next("uniform", shape)

    def normal(self, *shape):
        return self._next("normal", shape)


def batch_of(rows=8, x=None):
    torch.manual_seed(0)
    x = torch.randn(rows, 4, 8, 8) if x is None else x
    return Batch({"x": x, "label": torch.arange(len(x)) % 10})


def draws(rows=8, step=3, mine=None, seed=5):
    return Draws(seed, step, rows, mine or slice(0, rows))


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize("times", ["uniform", "lognormal"])
def test_corruption_and_loss_are_those_of_the_public_code(path, times):
    golden, name = load("loss"), f"{times}.{path}"
    domain = replace(DOMAIN, label_dropout=0.0, path=path, times=times)
    numbers = {
        "uniform": ("uniform", golden["in/u_uniform"].flatten()),
        "lognormal": ("normal", golden["in/n_lognormal"].flatten()),
    }[times]
    batch = batch_of(x=golden["in/x"])
    noised = domain.corrupt(batch, Recorded(numbers, ("normal", golden["in/noise"])))
    torch.testing.assert_close(noised.t, golden[f"{name}.t"], rtol=0, atol=1e-6)
    assert noised.inputs["t"] is noised.t and torch.equal(noised.inputs["y"], batch.data["label"])
    torch.testing.assert_close(noised.inputs["x"], golden[f"{name}.model_input"], rtol=0, atol=5e-6)
    for prediction, key in [(golden["in/v_out"], "loss"), (golden["in/v_out"] * 0, "loss_v0")]:
        losses = domain.loss(prediction, noised, batch)
        wanted = golden[f"{name}.denoising_{key}"]
        torch.testing.assert_close(losses, {"diffusion": wanted}, rtol=0, atol=5e-6)


@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_a_net_that_predicts_x_has_the_loss_of_its_velocity(path):
    """By the definition: the squared difference of two velocities, both with the floor."""
    domain = replace(DOMAIN, predict="x", floor=0.2, path=path, label_dropout=0.0)
    noised = domain.corrupt(batch_of(), draws())
    assert torch.equal(noised.target, batch_of().data["x"])
    c = get_path(path).at(noised.t.view(-1, 1, 1, 1))
    noise = (noised.inputs["x"] - c.alpha * noised.target) / c.sigma
    exact = c.d_alpha * noised.target + c.d_sigma * noise
    wrong = torch.randn_like(noise)
    other = c.d_alpha * wrong + c.d_sigma * (noised.inputs["x"] - c.alpha * wrong) / c.sigma
    expected = ((other - exact) * c.sigma / c.sigma.clamp(min=0.2)).square().mean((1, 2, 3))
    loss = domain.loss(wrong, noised, batch_of())["diffusion"]
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    assert (noised.t < 0.2).any() and (noised.t > 0.2).any()


@pytest.mark.parametrize("sampler", ["euler", "heun"])
@pytest.mark.parametrize("times", ["uniform", "shift:4.9"])
def test_a_net_that_predicts_x_draws_the_data_that_it_predicts(sampler, times):
    """A net that always predicts the same x: every straight line ends there, but for the floor."""
    domain = replace(DOMAIN, predict="x", floor=0.01, times=times)
    net = domain.net(fields()).eval()
    torch.nn.init.normal_(net.final_layer.linear.bias)
    with torch.no_grad():
        x = net(torch.zeros(1, 4, 8, 8), torch.ones(1), torch.zeros(1, dtype=torch.int64))[0][0]
    options = SampleOptions(sampler, 20, Guidance(2.0))
    ours = drawn(net, range(3), options, domain=domain)["x"]
    np.testing.assert_allclose(ours, x.expand(3, -1, -1, -1), rtol=0, atol=1e-5)
    floored = replace(domain, floor=0.9)  # the last step is shorter than the way that is left
    assert np.abs(drawn(net, range(3), options, domain=floored)["x"] - x.numpy()).max() > 0.01


@pytest.mark.parametrize("sampler", ["euler", "sde"])
def test_a_net_that_predicts_x_draws_what_its_velocity_draws(net, sampler):
    class Velocity(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x, t, y):
            return (x - self.net(x, t, y)[0]) / t.clamp(min=0.3).view(-1, 1, 1, 1), {}

    options = SampleOptions(sampler, 8, Guidance(1.5))
    ours = drawn(net, range(3), options, domain=replace(DOMAIN, predict="x", floor=0.3))["x"]
    np.testing.assert_allclose(ours, drawn(Velocity(), range(3), options)["x"], rtol=0, atol=1e-3)


def test_the_loss_is_float32_for_a_bfloat16_prediction():
    prediction = torch.full((2, 4, 8, 8), 1 / 3, dtype=torch.bfloat16)
    noised = Noised({}, torch.zeros(2), torch.zeros(2, 4, 8, 8))
    loss = DOMAIN.loss(prediction, noised, batch_of(2))["diffusion"]
    assert loss.dtype == torch.float32 and loss.shape == (2,)
    assert loss[0].item() == pytest.approx(float(prediction[0, 0, 0, 0]) ** 2, rel=1e-6)


def posterior_sample(field, golden):
    """The latents that the net would see at time 0 for the recorded posterior noise."""
    values = {"x": golden["in/moments"], "label": torch.tensor([1, 2])}
    batch = DOMAIN.collate(values, fields(field), {})
    noise, zero = golden["in/noise"], torch.zeros(2)
    numbers = [("normal", noise), ("uniform", zero), ("normal", noise), ("uniform", zero + 0.5)]
    return DOMAIN.corrupt(batch, Recorded(*numbers)).inputs["x"]


def test_latents_are_sampled_from_their_moments():
    golden = load("latents")
    torch.testing.assert_close(posterior_sample(MOMENTS, golden), golden["out/z"])
    scale, bias = golden["in/scale2"].flatten(), golden["in/bias2"].flatten()
    field = replace(MOMENTS, scale=tuple(scale.tolist()), shift=tuple((-bias / scale).tolist()))
    wanted = golden["out/z_scale2_bias2"]
    torch.testing.assert_close(posterior_sample(field, golden), wanted, rtol=0, atol=1e-5)


def test_plain_data_is_shifted_and_scaled_and_not_sampled():
    field = replace(PIXELS, scale=(0.125,), shift=(1.0, 2.0, 3.0, 4.0))
    x, targets = torch.full((2, 4, 8, 8), 9.0), {"dino": torch.ones(2, 3)}
    batch = DOMAIN.collate({"x": x, "label": torch.tensor([3, 4])}, fields(field), targets)
    assert batch.data["x"][1, :, 5, 5].tolist() == [1.0, 0.875, 0.75, 0.625]
    assert "std" not in batch.data and batch.targets == targets and batch.mask is None


def test_labels_are_dropped_at_the_stated_rate():
    rows = 4000
    batch = batch_of(rows, torch.zeros(rows, 1, 1, 1))

    def dropped(step, domain=DOMAIN):
        return domain.corrupt(batch, draws(rows, step)).inputs["y"] == 10

    share = dropped(1).float().mean().item()
    assert abs(share - 0.1) < 4 * (0.1 * 0.9 / rows) ** 0.5
    assert torch.equal(dropped(1), dropped(1)) and not torch.equal(dropped(1), dropped(2))
    assert not dropped(1, replace(DOMAIN, label_dropout=0.0)).any()
    kept = ~dropped(1)
    labels = DOMAIN.corrupt(batch, draws(rows, 1)).inputs["y"]
    assert torch.equal(labels[kept], batch.data["label"][kept])


@pytest.mark.parametrize("cuts", [(0, 8), (0, 3, 8), (0, 1, 2, 6, 8)])
def test_a_row_gets_the_same_numbers_however_the_batch_is_cut(cuts):
    batch = batch_of()
    data = batch.data | {"std": torch.rand(8, 4, 8, 8)}
    whole = DOMAIN.corrupt(Batch(data), draws())
    for begin, end in zip(cuts, cuts[1:], strict=False):
        mine = slice(begin, end)
        part = DOMAIN.corrupt(Batch({k: v[mine] for k, v in data.items()}), draws(mine=mine))
        assert torch.equal(part.t, whole.t[mine]) and torch.equal(part.target, whole.target[mine])
        for name, value in part.inputs.items():
            assert torch.equal(value, whole.inputs[name][mine]), name


def test_noise_depends_on_the_seed_and_the_step_only():
    def x_t(**place):
        return DOMAIN.corrupt(batch_of(), draws(**place)).inputs["x"]

    torch.manual_seed(99)
    first = x_t()
    torch.rand(7)
    assert torch.equal(x_t(), first)
    assert not torch.equal(x_t(step=4), first) and not torch.equal(x_t(seed=6), first)


@pytest.fixture(scope="module")
def net():
    """A small net whose output depends on everything that it is given."""
    torch.manual_seed(0)
    net = DOMAIN.net(fields()).eval()
    for parameter in net.parameters():
        parameter.data.normal_(std=0.3)
    return net


def drawn(net, indices, options=None, field=PIXELS, domain=DOMAIN):
    with torch.no_grad():
        return domain.generate(net, fields(field), indices, options or SampleOptions(steps=4))


@pytest.mark.parametrize("sampler", ["euler", "heun", "sde"])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_sample_depends_on_seed_and_number_alone(net, sampler, scale):
    options = SampleOptions(sampler, 4, Guidance(scale, 0.2, 0.8), "random", seed=3)
    whole = drawn(net, range(10), options)
    parts = [drawn(net, range(a, b), options) for a, b in [(0, 1), (1, 7), (7, 10)]]
    for name, values in whole.items():
        cut = np.concatenate([part[name] for part in parts])
        # A matrix product rounds by its shape, and the weights of this net amplify that.
        np.testing.assert_allclose(cut, values, rtol=1e-5, atol=1e-4)
    other = drawn(net, range(10), replace(options, seed=4))
    assert np.abs(other["x"] - whole["x"]).reshape(10, -1).max(1).min() > 0.1
    assert np.unique(whole["x"][:, 0, 0, 0]).size == 10


def test_samplers_and_guidance_change_the_samples(net):
    base = drawn(net, range(3))["x"]
    changes = [
        {"sampler": "heun"},
        {"sampler": "sde"},
        {"steps": 5},
        {"guidance": Guidance(2.0)},
    ]
    for change in changes:
        other = drawn(net, range(3), replace(SampleOptions(steps=4), **change))["x"]
        assert np.abs(other - base).max() > 1e-3, change


def test_samples_have_the_labels_that_the_policy_gives(net):
    balanced = drawn(net, range(8, 25))
    assert balanced["label"].tolist() == [i % 10 for i in range(8, 25)]
    assert balanced["label"].dtype == np.int64
    random = drawn(net, range(200), SampleOptions(steps=1, labels="random"))["label"]
    assert set(random) == set(range(10)) and random.tolist() != sorted(random)


def test_samples_are_in_the_scale_of_the_stored_data():
    fresh = DOMAIN.net(fields())  # its velocity is zero, so it draws the noise itself
    noise = drawn(fresh, range(4))["x"]
    assert noise.dtype == np.float32 and abs(noise.std() - 1) < 0.1
    field = replace(PIXELS, scale=(0.5,), shift=(1.0, 2.0, 3.0, 4.0))
    x = drawn(fresh, range(4), field=field)["x"]
    shift = np.array(field.shift, np.float32).reshape(4, 1, 1)
    np.testing.assert_allclose(x, noise / 0.5 + shift, rtol=0, atol=1e-5)
    values = {"x": torch.from_numpy(x), "label": torch.zeros(4)}
    back = DOMAIN.collate(values, fields(field), {}).data["x"]
    np.testing.assert_allclose(back, noise, rtol=0, atol=1e-5)


def test_the_net_follows_the_field():
    latents = DOMAIN.net(fields(MOMENTS)).config
    assert (latents.in_channels, latents.input_size, latents.num_classes) == (4, 8, 10)
    assert latents.null_class and latents.hidden_size == 16
    gray = replace(DOMAIN, label_dropout=0.0).net(fields(Field("p", "data", (1, 16, 16)))).config
    assert (gray.in_channels, gray.input_size, gray.null_class) == (1, 16, False)


def test_a_published_size_may_be_named_and_changed():
    domain = replace(DOMAIN, size="SiT-B/4", net_settings={"qk_norm": True, "depth": 1})
    with torch.device("meta"):
        net = domain.net(fields()).config
    assert (net.hidden_size, net.patch_size, net.depth, net.qk_norm) == (768, 4, 1, True)
    with pytest.raises(ReedError, match=r"'SiT-B/3'.*mean 'SiT-B/"):
        replace(DOMAIN, size="SiT-B/3").net(fields())


@pytest.mark.parametrize(
    ("field", "parts"),
    [
        (Field("wide", "data", (4, 8, 16)), ["square", "'wide'", "8x16"]),
        (Field("vector", "sample", (24,)), ["data.x", "'vector'", "'token'"]),
        (Field("tokens", "token", (15, 24)), ["data.x", "'tokens'", "15 tokens are no square"]),
        (Field("tokens", "token", (17, 24)), ["16 of them are one: leave out the class token"]),
        (Field("tokens", "token", (None, 24)), ["'tokens', whose number varies", "square grid"]),
        (Field("t", "token", (16, 24), "pca:8+int8"), ["'pca:8+int8'", "as int8 or float16"]),
        (Field("t", "token", (16, 24), "standard"), ["'standard'", "as int8 or float16"]),
        (Field("flat", "data", (64,)), ["data.x", "'flat'", "(64,)"]),
        (Field("odd", "moments", (7, 8, 8)), ["data.x", "'odd'", "7"]),
        (Field("small", "data", (4, 6, 6)), ["input_size 6", "multiple of 4"]),
    ],
)
def test_data_that_no_net_fits_is_refused(field, parts):
    with pytest.raises(ReedError) as caught:
        DOMAIN.net(fields(field))
    assert all(part in str(caught.value) for part in parts), caught.value


def test_a_label_that_is_none_is_refused():
    with pytest.raises(ReedError, match=r"data.label.*'pixels'.*'data'"):
        DOMAIN.net({"x": PIXELS, "label": PIXELS})


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"classes": 0}, ["num_classes", "0"]),
        ({"path": "quadratic"}, ["'quadratic'", "linear"]),
        ({"times": "gaussian"}, ["'gaussian'", "uniform"]),
        ({"times": "shift:2", "path": "cosine"}, ["times are 'shift:2'", "path linear"]),
        ({"predict": "noise"}, ["predict is 'noise'", "'v', 'x'"]),
        ({"floor": 0.0}, ["floor is 0.0", "between 0 and 1"]),
        ({"label_dropout": 1.5}, ["label_dropout", "1.5"]),
        ({"net_settings": {"num_classes": 3}}, ["net_settings.num_classes", "drop it"]),
        ({"net_settings": {"depht": 3}}, ["net_settings.depht", "'depth'"]),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_a_step(settings, parts):
    with pytest.raises(ReedError) as caught:
        config.build(ImageDomain, {"classes": 10} | settings, "domain").net(fields())
    assert all(part in str(caught.value) for part in parts), caught.value


@pytest.mark.parametrize(
    ("option", "parts"),
    [
        ({"sampler": "ddim"}, ["sampler is 'ddim'", "heun"]),
        ({"labels": "all"}, ["labels is 'all'", "balanced"]),
    ],
)
def test_unknown_sample_options_are_refused(option, parts):
    with pytest.raises(ReedError) as caught:
        SampleOptions(**option)
    assert all(part in str(caught.value) for part in parts), caught.value


@pytest.mark.parametrize("steps", [0, -1])
def test_sampling_needs_a_step(net, steps):
    with pytest.raises(ReedError, match=f"steps is {steps}"):
        drawn(net, range(2), SampleOptions(steps=steps))


def test_guidance_needs_a_null_class():
    domain = replace(DOMAIN, label_dropout=0.0)
    with pytest.raises(ReedError, match=r"guidance scale 1.5.*null class"):
        options = SampleOptions(steps=1, guidance=Guidance(1.5))
        drawn(domain.net(fields()), range(2), options, domain=domain)


@pytest.mark.parametrize("changes", [{"predict": "x", "floor": 0.1}, {"times": "shift:4.9"}])
def test_an_export_says_how_its_net_is_sampled(changes):
    domain = replace(DOMAIN, **changes)
    state = domain.net(fields()).state_dict()
    said = sit_public.domain_settings(Path("x.pt"), state, domain.published(), "repa")
    read = config.build(ImageDomain, said, "domain")
    names = ("predict", "floor", "times", "path", "classes")
    assert [getattr(read, n) for n in names] == [getattr(domain, n) for n in names]
    assert "prediction" not in DOMAIN.published()
    with pytest.raises(ReedError, match=r"x.pt has path linear and predicts x: no velocity"):
        others = {"num_heads": 2, "prediction": "x"}
        sit_public.domain_settings(Path("x.pt"), state, others, "repa")


def test_the_domain_is_registered():
    assert DOMAINS.get("image") is ImageDomain
