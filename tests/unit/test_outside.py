"""The guard: whatever form an address takes, nothing private is connected to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import httpx
import pytest

from squorflow.config import WorkflowConfig
from squorflow.errors import DataError
from squorflow.products import addresses, guarded_transport
from squorflow.products.images import ImageFetcher
from squorflow.products.outside import outside_client
from squorflow.products.public_networks import why_not_public
from squorflow.stages.context import Cancellation
from support.image_server import Answer, ImageServer
from support.outside import PUBLIC, Form, Listener, Resolver, recorded_connections, refused_forms

FORMS = refused_forms()
GROUPS = tuple(dict.fromkeys(form.group for form in FORMS))
NAMES_PUBLIC = {"public.example": [[PUBLIC]]}


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with ImageServer() as running:
        yield running


@pytest.fixture
def fetcher(server: ImageServer) -> Iterator[ImageFetcher]:
    made = ImageFetcher(WorkflowConfig(image_allow=(server.host,)))
    yield made
    made.close()


def resolve(monkeypatch: pytest.MonkeyPatch, names: dict[str, list[list[str]]]) -> Resolver:
    resolver = Resolver({**NAMES_PUBLIC, **names})
    monkeypatch.setattr("socket.getaddrinfo", resolver)
    return resolver


def resolve_form(monkeypatch: pytest.MonkeyPatch, form: Form) -> None:
    host = re.search(r"//([^/:]*)", addresses.web_address(form.url) or "")
    resolve(monkeypatch, {host[1]: [list(form.leads_to)]} if host and form.leads_to else {})


def why_refused(fetcher: ImageFetcher, url: str) -> DataError:
    with pytest.raises(DataError) as caught:
        fetcher.fetch(url, cancellation=Cancellation())
    return caught.value


def test_there_are_forms_of_every_kind() -> None:
    counts = Counter(form.group for form in FORMS)
    lines = [f"{group:<50} {count:>4} tried, 0 through" for group, count in counts.items()]
    print("\n".join([*lines, f"{'all':<50} {len(FORMS):>4}"]))  # noqa: T201 - pytest -rP shows it
    assert len({(form.url, form.leads_to) for form in FORMS}) == len(FORMS) >= 150


@pytest.mark.parametrize("group", GROUPS)
def test_a_form_is_refused_and_nothing_is_connected_to(
    group: str, fetcher: ImageFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    for form in (form for form in FORMS if form.group == group):
        resolve_form(monkeypatch, form)
        with recorded_connections() as connections:
            error = why_refused(fetcher, form.url)
        assert (error.code, str(error)) == ("address_not_admitted", f"address not admitted: {form.refused}"), form
        assert connections == [], form


@pytest.mark.parametrize("group", GROUPS)
def test_the_client_itself_refuses_every_form(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with outside_client(allow=()) as client:
        for form in (form for form in FORMS if form.group == group):
            resolve_form(monkeypatch, form)
            with recorded_connections() as connections, pytest.raises((DataError, httpx.InvalidURL)):
                client.get(form.url)
            assert connections == [], form


@pytest.mark.parametrize("group", GROUPS)
def test_a_redirect_to_a_form_leads_nowhere(
    group: str, fetcher: ImageFetcher, server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, form in enumerate(form for form in FORMS if form.group == group and "\n" not in form.url):
        resolve_form(monkeypatch, form)
        location = form.url.encode().decode("latin-1")
        url = server.serve(f"/{number}", Answer(status=302, headers={"Location": location}))
        with recorded_connections() as connections:
            why_refused(fetcher, url)
        host, port = server.host.split(":")
        assert set(connections) == {(host, int(port))}, form


def test_a_listener_on_loopback_is_visited_by_none_of_the_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    with Listener() as listener, outside_client(allow=(), connect_timeout=timedelta(seconds=1)) as client:
        monkeypatch.setattr(addresses, "_PUBLIC_PORTS", frozenset({listener.port}))
        tried = 0
        for form in FORMS:
            with_port = re.sub(r"^(\s*https?://[^/\\?#:]+|https?://\[[^/\]]*\])/", rf"\1:{listener.port}/", form.url)
            if with_port == form.url:
                continue
            resolve_form(monkeypatch, form)
            with recorded_connections() as connections, pytest.raises((DataError, httpx.InvalidURL)):
                client.get(with_port)
            assert connections == [], form
            tried += 1
        assert (tried > 100, listener.visits) == (True, 0)
        with outside_client(allow={"127.0.0.1"}) as trusting, pytest.raises(httpx.TransportError):
            trusting.get(f"http://127.0.0.1:{listener.port}/")
        assert listener.visits == 1, "the listener counts those that do come"


def test_a_name_is_looked_up_once_and_its_changed_answer_is_never_used(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = resolve(monkeypatch, {"turncoat.example": [[PUBLIC], ["127.0.0.1"]]})
    with outside_client(allow=()) as client, recorded_connections() as connections, pytest.raises(httpx.ConnectError):
        client.get("http://turncoat.example/a.png")
    assert connections == [(PUBLIC, 80)]
    assert resolver.lookups == {"turncoat.example": 1}


def test_a_name_whose_second_answer_is_private_is_refused_at_the_second_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolve(monkeypatch, {"turncoat.example": [[PUBLIC], ["127.0.0.1"]]})
    with outside_client(allow=()) as client, recorded_connections() as connections:
        with pytest.raises(httpx.ConnectError):
            client.get("http://turncoat.example/a.png")
        with pytest.raises(DataError, match=r"leads to 127\.0\.0\.1, which is loopback"):
            client.get("http://turncoat.example/a.png")
    assert connections == [(PUBLIC, 80)]


def test_every_hop_is_looked_up_and_checked_when_the_client_follows_redirects(
    server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(monkeypatch, {"inside.example": [["10.0.0.1"]]})
    url = server.serve("/a", Answer(status=302, headers={"Location": "http://inside.example/"}))
    with (
        outside_client(allow={server.host}) as client,
        recorded_connections() as connections,
        pytest.raises(DataError, match=r"inside\.example leads to 10\.0\.0\.1"),
    ):
        client.get(url, follow_redirects=True)
    assert {host for host, _ in connections} == {"127.0.0.1"}


def test_the_server_learns_the_name_although_the_connection_goes_to_an_address(
    server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(monkeypatch, {"pictures.example": [["127.0.0.1"]]})
    port = server.host.split(":")[1]
    server.serve("/a", Answer(body=b"hello"))
    with outside_client(allow={"pictures.example"}) as client:
        assert client.get(f"http://pictures.example:{port}/a").content == b"hello"
    assert server.hosts == [f"pictures.example:{port}"]


def test_the_next_address_of_a_name_is_tried_when_one_does_not_answer(
    server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(monkeypatch, {"pictures.example": [["127.0.0.2", "127.0.0.1"]]})
    server.serve("/a", Answer(body=b"hello"))
    with outside_client(allow={"pictures.example"}) as client:
        assert client.get(f"http://pictures.example:{server.host.split(':')[1]}/a").content == b"hello"


def test_no_more_than_a_few_addresses_of_a_name_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, {"many.example": [[f"192.0.43.{last}" for last in range(1, 60)]]})
    with outside_client(allow=()) as client, recorded_connections() as connections, pytest.raises(httpx.ConnectError):
        client.get("http://many.example/")
    assert len(connections) == guarded_transport._MAX_TRIED


@pytest.mark.parametrize("name", ["nowhere.example", "a" * 64 + ".example", "empty.example"])
def test_a_name_that_cannot_be_looked_up_cannot_be_connected_to(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, {"empty.example": [[]]})
    with outside_client(allow=()) as client, pytest.raises((httpx.ConnectError, DataError)):
        client.get(f"http://{name}/")


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "93.184.215.14", "100.63.255.255", "172.32.0.1", "2606:4700::1111", "2a00::1"]
)
def test_an_ordinary_address_is_public(address: str) -> None:
    assert why_not_public(address) is None


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"])
def test_a_proxy_from_the_environment_is_not_used(
    variable: str, server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    with outside_client(allow={server.host}) as client:
        assert client.get(server.serve("/a", Answer(body=b"hello"))).content == b"hello"


def test_a_drip_without_length_ends_with_an_error_and_not_as_a_whole_answer(server: ImageServer) -> None:
    url = server.serve("/a", Answer(body=b"x" * 5_000, declared_length=None, drip=True))
    with (
        outside_client(allow={server.host}, total_timeout=timedelta(milliseconds=300)) as client,
        pytest.raises(httpx.ReadTimeout),
    ):
        client.get(url)
