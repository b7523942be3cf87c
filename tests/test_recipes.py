"""Every shipped recipe, with every variant, against a cache of the columns that it names."""

import functools
import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from reed import pipelines, stage_one
from reed.build import column, engines
from reed.cache import plan
from reed.cli import train as cli_train
from reed.stage_one import Request

SAMPLES = 6


class Anything:
    """An encoder that stores random values in the fields of another."""

    licence, batch_size, reads = "", 2, ("number",)

    def __init__(self, fields):
        # principal components need more samples than there are here
        self.fields = tuple(
            replace(f, codec="float32") if f.codec.startswith("pca") else f for f in fields
        )

    def revision(self):
        return "1"

    def encode(self, samples):
        return {
            field.name: [self._value(field, s["number"]) for s in samples] for field in self.fields
        }

    def _value(self, field, number):
        rng = np.random.default_rng(number)
        if field.kind == "text":
            return "words"
        if field.kind == "label":
            return number % 2  # of the two classes that every recipe has at least
        shape = tuple(5 + number if size is None else size for size in field.shape)
        return (
            rng.integers(0, 5, shape)
            if "int" in field.codec[:4] and field.kind == "data"
            else rng.standard_normal(shape).astype(np.float32)
        )


class Numbers:
    """A source of numbers."""

    entries, views = ("number",), 1

    def listing(self):
        return {f"s{i}": "1" for i in range(SAMPLES)}

    def read(self, key, view=0):
        return {"number": int(key[1:])}


def named(pipeline):
    """The columns that the recipe of a pipeline and its variants need."""
    recipes = [pipelines.recipe(pipeline, v) for v in ("", *pipelines.variants(pipeline))]
    places = [place for recipe in recipes for place in recipe["data"].values()]
    places += [each["target"] for recipe in recipes for each in recipe["align"].values()]
    return {place.partition("/")[0] for place in places}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Pipeline -> a cache with the columns of its recipe, in their true shapes."""

    def build(name):
        cache = tmp_path_factory.mktemp(name) / name
        pipeline = pipelines.load(name)
        frozen = plan.freeze(
            cache,
            Numbers().listing(),
            pipeline=name,
            domain=pipeline.domain,
            source=pipeline.source,
            shard_size=4,
        )
        wanted = named(name)
        base = {text.partition("=")[0] for text in pipeline.base}
        texts = (*pipeline.encoders, *(t for each in pipeline.optional.values() for t in each))
        own = {text.partition("=")[0]: text for text in texts}
        encoders = tuple(own.get(n, n) for n in sorted(wanted - base))
        options = ("af3.structure=true",) if "af3" in wanted else ()
        request = Request(name, cache, encoders=encoders, options=options)
        for job in stage_one.chosen(request):
            about = job.describe()
            if about.name in wanted:
                made = column.open_job(cache, frozen, about.name, Anything(about.fields), Numbers())
                engines.run(made, engines.Share(), progress=False)
        return cache

    return functools.cache(build)


EVERY = [(name, v) for name in pipelines.names() for v in ("", *pipelines.variants(name))]


@pytest.mark.parametrize(("name", "variant"), EVERY)
def test_a_dry_run_of_every_recipe_is_sound(built, name, variant):
    words = ["--shards", str(built(name)), "--variant", variant, "--dry-run"]
    found = CliRunner().invoke(cli_train.main, words)
    assert found.exit_code == 0, found.output
    settings = json.loads(found.stdout)
    assert settings["shards"] == str(built(name))
    # The weights of the losses come first, then when each guide's representation enters.
    said = "".join(x for x in found.stderr.splitlines(True) if not x.startswith("disk: "))
    weights, _, shares = said.partition("share of the samples with z")
    aligned, _, weights = weights.partition("weights over")
    assert all(line.startswith("align  ") for line in aligned.splitlines())
    sketched = [line.split()[0] for line in weights.splitlines()[1:]]
    off = [n for n, weight in settings["curriculum"].items() if weight == 0.0]
    heads = {n for n, guide in settings["guide"].items() if guide["read"] != "bank"}
    assert set(sketched) == ({*settings["curriculum"], "lr"} | heads) - set(off)
    assert {line.split()[0] for line in shares.splitlines()[1:]} == settings["guide"].keys()
