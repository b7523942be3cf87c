"""What is registered keeps its protocol: registering is testing."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from reed import pipelines, stage_one
from reed.cache import schema
from reed.cache.codecs import codecs
from reed.domains.base import DOMAINS
from reed.encoders import ENCODERS
from reed.errors import ReedError
from reed.sources import SOURCES


@pytest.mark.parametrize("name", ENCODERS.names())
def test_an_encoder_says_what_it_reads_and_writes_without_its_weights(name):
    encoder = stage_one.make_encoder(name, Path(), {})
    assert encoder.reads and all(isinstance(place, str) for place in encoder.reads)
    assert isinstance(encoder.licence, str) and encoder.batch_size >= 1
    names = [field.name for field in encoder.fields]
    assert names and len(set(names)) == len(names)
    for field in encoder.fields:
        assert field.kind in schema.KINDS
        assert codecs.codec_of(field).parts(field)
        assert None not in field.shape[1:]
    assert schema.is_column_name(name)


@pytest.mark.parametrize("name", ENCODERS.names())
def test_an_encoder_refuses_a_setting_that_it_lacks(name):
    with pytest.raises(ReedError, match="wieghts"):
        stage_one.make_encoder(name, Path(), {"wieghts": "x"})


@pytest.mark.parametrize("name", SOURCES.names())
def test_a_source_can_be_sent_to_another_process(name):
    source = stage_one.make_source(name, None, {})
    assert source.views in (1, 2)
    assert len(pickle.dumps(source)) < 10_000


@pytest.mark.parametrize("name", DOMAINS.names())
def test_a_domain_names_its_roles_and_losses(name):
    domain = DOMAINS.get(name)
    assert domain.roles and domain.losses
    assert not set(domain.roles) & set(domain.losses)


@pytest.mark.parametrize("name", pipelines.names())
def test_a_pipeline_names_what_there_is(name):
    found = pipelines.load(name)
    assert found.domain in DOMAINS.names() and found.source in SOURCES.names()
    for column in (*found.base, *found.encoders):
        assert ENCODERS.get(column.rpartition("=")[2]), column
    assert found.shard_size >= 1 and pipelines.recipe(name)["steps"] >= 1
