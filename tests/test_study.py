"""reed-cache study and info: known features give known numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from reed.bytes import human
from reed.cache import schema
from reed.cache.schema import Field
from reed.cli import cache as cli
from reed.errors import ReedError
from reed.view import info, study


def run(*words):
    return CliRunner().invoke(cli.main, [str(word) for word in words])


@pytest.fixture(scope="module")
def known(fakes, tmp_path_factory):
    """Tokens that are whole numbers (exact), of rank two (flat), and with an outlier (loud)."""
    path = tmp_path_factory.mktemp("known") / "fake"
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]

    class Known(fakes.Encoder):
        reads = ("pixels",)
        fields = (
            Field("exact", "token", (6, 8)),
            Field("flat", "token", (6, 8)),
            Field("loud", "token", (6, 8)),
            Field("mean", "sample", (8,)),
            Field("lossy", "token", (6, 8), "int8"),
            Field("few", "token", (6, 8), "pca:2"),
            Field("x", "data", (6, 8)),
        )

        def one(self, sample):
            noise = fakes.random(sample["pixels"].tobytes()).standard_normal((6, 8))
            exact = np.rint(20 * noise)
            flat = noise[:, :2] * [3, 1] @ axes[:2]
            loud = noise + 400 * (np.arange(8) == 5)
            found = exact, flat, loud, noise[0], noise, noise, noise
            return tuple(np.asarray(each, np.float32) for each in found)

    fakes.build(path, ["pixels"])
    fakes.engines.run(fakes.job(path, "known", None, Known()), fakes.Share(), progress=False)
    return path


def rows(cache, name, *names, **settings):
    column, field = study.targets(cache, f"known/{name}")[0]
    found = study.study(cache, column, field, names=names, progress=False, **settings)
    return found, {row.codec: row for row in found.rows}


def test_what_a_codec_holds_exactly_has_cosine_one_and_no_error(known):
    found, by_name = rows(known, "exact")
    assert list(by_name) == list(study.NAMES)
    assert (found.place, found.calibrated, found.measured) == ("known/exact", 30, 30)
    for name, size in (("float32", 4), ("float16", 2), ("bfloat16", 2)):
        row = by_name[name]
        assert row.bytes == 6 * 8 * size and not row.problem
        assert row.cosine == pytest.approx(1, abs=1e-12) and row.worst > 1 - 1e-12
        assert row.similarity_error == 0 and row.similarity_correlation == pytest.approx(1)
        assert row.encode_rate > 0 and row.decode_rate > 0
    assert by_name["int8"].bytes == 6 * (8 + 4)
    assert 0.999 < by_name["int8"].worst < by_name["int8"].cosine < 1
    assert "8 channels; keep at most as many" in by_name["pca:128"].problem


def test_components_hold_what_has_their_rank_and_no_more(known):
    _, by_name = rows(known, "flat", "pca:2", "pca:1", "pca:2+int8")
    assert by_name["pca:2"].worst > 0.9999 and by_name["pca:2"].similarity_error < 1e-3
    assert by_name["pca:2"].bytes == 6 * 2 * 2 and by_name["pca:2+int8"].bytes == 6 * (2 + 4)
    # along the first of two axes the cosine of (a, b) is |a| / sqrt(a^2 + b^2), with 3:1 variances
    a, b = np.random.default_rng(1).standard_normal((2, 100_000)) * [[3], [1]]
    assert by_name["pca:1"].cosine == pytest.approx((abs(a) / np.hypot(a, b)).mean(), abs=0.08)
    assert by_name["pca:1"].similarity_error > 0.05
    assert by_name["pca:1"].similarity_correlation < 0.999


def test_an_outlier_drowns_int8_without_a_calibration(known):
    _, by_name = rows(known, "loud", "int8", study.PLAIN)
    plain, ours = by_name[study.PLAIN], by_name["int8"]
    assert plain.bytes == ours.bytes and ours.cosine > plain.cosine
    assert ours.similarity_error < plain.similarity_error / 10
    assert ours.similarity_correlation > 0.999 > plain.similarity_correlation


def test_samples_are_compared_with_one_another(known):
    found, by_name = rows(known, "mean", "float32", "pca:8")
    assert found.kind == "sample" and by_name["float32"].similarity_error == 0
    assert by_name["float32"].similarity_correlation == pytest.approx(1)
    assert by_name["pca:8"].worst > 0.99
    assert "between the records" in "\n".join(study.table(found))


def test_too_few_records_for_the_components_are_a_line(known):
    _, by_name = rows(known, "mean", "pca:8", "float16", samples=16)
    assert "8 components to 8 vectors" in by_name["pca:8"].problem
    assert by_name["float16"].cosine > 0.999


def test_a_value_that_does_not_fit_is_a_line(fakes, tmp_path):
    class Large(fakes.Encoder):
        reads = ("pixels",)
        fields = (Field("z", "sample", (8,)),)

        def one(self, sample):
            return (np.full(8, 1e6, np.float32),)

    fakes.engines.run(fakes.job(tmp_path, "known", None, Large()), fakes.Share(), progress=False)
    found, by_name = rows(tmp_path, "z", "float16", "float32")
    assert "does not fit float16: values from 1e+06" in by_name["float16"].problem
    assert by_name["float32"].cosine == pytest.approx(1)
    assert by_name["float32"].similarity_correlation is None
    lines = list(study.table(found))
    assert "does not fit float16" in lines[-2] and lines[-1].split()[5] == "-"


def test_the_table_says_what_it_compares(known):
    lines = list(study.table(rows(known, "lossy", "float32", "pca:4")[0]))
    assert lines[0].startswith("known/lossy: token, 8 channels, stored as int8; calibrated on 30")
    assert lines[1] == "the column itself is int8: what is called the original has that loss"
    assert "un-whitened back to 8 channels" in lines[3]
    assert len({len(line) for line in lines[5:]}) == 1
    assert len(list(study.table(rows(known, "exact", "float32")[0]))) == 5


def test_the_command_prints_every_target_and_writes_json(known, tmp_path):
    out = tmp_path / "new" / "study.json"
    words = ("--codec", "float32", "--codec", "int8", "--samples", 20, "--json", out)
    done = run("study", known, "known/exact", *words)
    assert done.exit_code == 0, done.output
    assert "float32" in done.stdout and "known/exact: token" in done.stdout
    (found,) = json.loads(out.read_text())
    assert [row["codec"] for row in found["rows"]] == ["float32", "int8"]
    assert (found["calibrated"], found["measured"]) == (10, 10)


def test_a_column_stands_for_its_targets(whole):
    found = study.targets(whole, "tokens")
    assert [field.name for _, field in found] == ["tokens", "mean"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["known/exakt"], ["no field 'exakt'", "Did you mean 'exact'?"]),
        (["knwon"], ["no column 'knwon'", "Did you mean 'known'?"]),
        (["known/x"], ["known/x is of kind 'data'"]),
        (["known/few"], ["stored as pca:2", "--codec known/few=float32"]),
        (["pixels"], ["data, label: no target"]),
        (["known/exact", "--codec", "int9"], ["unknown codec 'int9'", "'int8'"]),
        (["known/exact", "--codec", "pca:9"], ["8 channels"]),
    ],
)
def test_what_cannot_be_studied_is_refused_in_one_line(known, words, parts):
    done = run("study", known, *words)
    assert done.exit_code == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and all(part in done.stderr for part in parts), done.stderr


def test_one_record_is_not_enough(fakes, tmp_path):
    fakes.build(tmp_path, ["tokens"], fakes.Source(1))
    with pytest.raises(ReedError, match="tokens/tokens has 1 records, a study takes two"):
        study.study(tmp_path, *study.targets(tmp_path, "tokens/tokens")[0], progress=False)


def test_info_shows_how_a_column_is_stored(fakes, known):
    lines = run("info", known).output.splitlines()
    column = schema.load_column(known, "known")
    assert "views 1" in lines[1] and "segments 60" in lines[1] and "extended" not in lines[1]
    assert any(line.startswith("known: complete, 4/4 shards, 60 samples, ") for line in lines)
    assert f"  calibration {column.calibration[:16]}" in lines
    assert f"  container tar, identity {column.identity()}" in lines
    place = lines.index("  known/few: token, 6x8, pca:2")
    assert lines[place + 1] == "    decodes to 6x2"
    assert lines[place + 2].startswith("    cosine to the original, on the calibration records: ")
    with np.load(known / "known" / "calibration.npz") as state:
        mean, worst = state["lossy/cosine"]
    assert f"records: mean {mean:.6f}, worst {worst:.6f}" in "\n".join(lines)
    source = fakes.Source()
    pixels = np.stack([source.read(key)["pixels"] for key in source.keys])
    place = next(i for i, line in enumerate(lines) if line.startswith("  pixels/x: data"))
    channels = np.moveaxis(pixels, 1, 0).reshape(2, -1).astype(np.float64)
    mean, std = channels.mean(1), channels.std(1)
    assert lines[place + 1] == (
        f"    mean {mean.mean():.4g} (channels {mean.min():.4g} to {mean.max():.4g}), "
        f"std {std.mean():.4g} (channels {std.min():.4g} to {std.max():.4g})"
    )


def test_info_names_a_broken_calibration(cache):
    column = schema.load_column(cache, "tokens")
    with open(cache / "tokens" / "calibration.npz", "r+b") as file:
        file.write(b"\xff\xff\xff\xff")
    text = "\n".join(info.lines(cache))
    assert "  CALIBRATION BROKEN: " in text and column.calibration[:12] in text


def test_info_shows_a_few_failures_and_counts_the_others(fakes, tmp_path):
    bad = tuple(range(12))
    fakes.build(tmp_path, ["caption"], fakes.Source(2000, bad=bad), shard_size=2000)
    lines = run("info", tmp_path).output.splitlines()
    left = [line for line in lines if line.startswith("  left out")]
    assert len(left) == info.FAILURES and lines[-1] == "  … and 7 more were left out"
    assert any(line.endswith(", 12 failed") for line in lines)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (1_234_567, "1.2 MB"),
        (999_960, "1.0 MB"),
        (5.04e11, "504.0 GB"),
        (2e19, "20000.0 PB"),
    ],
)
def test_sizes_have_human_units(count, text):
    assert human(count) == text


def test_codecs_are_listed_with_their_patterns():
    listed = run("list", "codecs").output.split()
    assert {"int8", "pca:K", "pca:K+int8"} <= set(listed)
