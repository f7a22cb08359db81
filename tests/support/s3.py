"""An S3 server on a real socket, reached as Airflow reaches it, by the connection `aws_default`."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

BUCKET = "squorflow-tests"


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """One server for the session: Airflow keeps what leads to a connection's store as long as its process lives."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """An empty bucket, and the Airflow connection `aws_default` that leads to it."""
    connection = {
        "conn_type": "aws",
        "login": "testing",
        "password": "testing",
        "extra": {"endpoint_url": endpoint, "region_name": "us-east-1"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
    import boto3

    resource = boto3.resource(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",  # noqa: S106 - the fake's
        region_name="us-east-1",
    )
    made = resource.create_bucket(Bucket=BUCKET)
    yield made
    made.objects.all().delete()
    made.delete()
