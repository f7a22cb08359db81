"""Images in an object store: an S3 server on a real socket, reached as Airflow reaches it, by a connection."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest
from botocore.exceptions import EndpointConnectionError

from squorflow.config import WorkflowConfig
from squorflow.errors import ConfigurationError, ErrorCategory, SystemFault
from squorflow.products.image_store import ImageStore
from squorflow.recovery.policy import categorise
from support.image_server import picture
from support.s3 import BUCKET

PICTURE = picture("PNG")
KEY = f"{sha256(PICTURE).hexdigest()[:2]}/{sha256(PICTURE).hexdigest()}.png"


def store_at(root: str) -> ImageStore:
    return ImageStore(WorkflowConfig(image_store=root))


def keys(bucket: object) -> list[str]:
    return [one.key for one in bucket.objects.all()]  # type: ignore[attr-defined]


def test_an_image_is_stored_once_under_its_hash_and_read_back(bucket: object) -> None:
    store = store_at(f"s3://aws_default@{BUCKET}/images")
    first = store.put(PICTURE, mime_type="image/png")
    written = [one.last_modified for one in bucket.objects.all()]  # type: ignore[attr-defined]
    second = store_at(f"s3://aws_default@{BUCKET}/images").put(PICTURE, mime_type="image/png")
    assert first == second
    assert first.stored_at == KEY
    assert keys(bucket) == [f"images/{KEY}"]
    assert [one.last_modified for one in bucket.objects.all()] == written  # type: ignore[attr-defined]
    assert store.read(first.sha256, "image/png") == PICTURE


def test_an_altered_object_is_not_handed_out(bucket: object) -> None:
    store = store_at(f"s3://aws_default@{BUCKET}")
    stored = store.put(PICTURE, mime_type="image/png")
    bucket.put_object(Key=KEY, Body=b"something else")  # type: ignore[attr-defined]
    with pytest.raises(SystemFault, match="is damaged"):
        store.read(stored.sha256, "image/png")


def test_a_missing_object_is_a_fault_of_the_system(bucket: object) -> None:
    del bucket
    with pytest.raises(SystemFault, match="cannot be read from the store") as caught:
        store_at(f"s3://aws_default@{BUCKET}").read("0" * 64, "image/png")
    assert caught.value.code == "image_store_read"


def test_a_bucket_that_is_not_there_is_a_fault_of_the_system(bucket: object) -> None:
    del bucket
    with pytest.raises(SystemFault, match="cannot be written") as caught:
        store_at("s3://aws_default@nowhere").put(PICTURE, mime_type="image/png")
    assert caught.value.code == "image_store_write"
    assert "testing" not in str(caught.value)


def test_a_server_that_is_away_may_well_answer_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = {
        "conn_type": "aws",
        "login": "testing",
        "password": "testing",
        "extra": {"endpoint_url": "http://127.0.0.1:1", "config_kwargs": {"retries": {"max_attempts": 0}}},
    }
    monkeypatch.setenv("AIRFLOW_CONN_AWS_AWAY", json.dumps(connection))
    with pytest.raises(EndpointConnectionError) as caught:
        store_at(f"s3://aws_away@{BUCKET}").put(PICTURE, mime_type="image/png")
    assert categorise(caught.value) is ErrorCategory.TRANSIENT


def test_a_kind_of_store_nobody_installed_is_said_in_words() -> None:
    with pytest.raises(ConfigurationError, match="names a kind of store that is not installed"):
        store_at("abfs://container/images").put(PICTURE, mime_type="image/png")
