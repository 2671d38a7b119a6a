"""The webhook: which addresses it takes, and what its receiver gets."""

import logging
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from txn_platform.errors import UserError
from txn_platform.settings import load_settings
from txn_platform.webhook import Message, Webhook
from txn_platform_tests.support.served_handler import served_by
from txn_platform_tests.support.webhook_receiver import receiving

_MESSAGE = Message("a title", "a\ntext", good=False, fields={"subject": "2026-11-01-05:00"})


@pytest.mark.parametrize(
    ("address", "service"),
    [
        ("https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ", "Slack"),
        ("https://discord.com/api/webhooks/4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js", "Discord"),
        (
            (
                "https://prod-15.uksouth.logic.azure.com:443/workflows/3XXX5/triggers/manual/paths/"
                "invoke?api-version=2016-06-01&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig=iXXXU"
            ),
            "Power Automate / Workflows (for MSTeams)",
        ),
        ("https://example.com/hook?token=a", "JSON"),
        ("http://[::1]:8080", "JSON"),
        ("json://localhost/hook", "JSON"),
    ],
)
def test_services_are_known_by_their_address(address: str, service: str) -> None:
    assert Webhook(address).service == service


@pytest.mark.parametrize(
    "address", ["slack://a-secret", "nothing://a-secret", "http:///a-secret", "http://[a-secret/"]
)
def test_other_addresses_are_refused_without_being_shown(
    address: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="TXN_ALERT_WEBHOOK cannot be used") as refused:
        Webhook(address)
    output = capfd.readouterr()
    assert "a-secret" not in f"{refused.value}{output.out}{output.err}"


@pytest.mark.parametrize("value", ["example.com/a-secret", "https://a-secret https://other", "://"])
def test_a_value_that_is_no_address_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TXN_ALERT_WEBHOOK", value)
    with pytest.raises(UserError, match="TXN_ALERT_WEBHOOK: must be one address") as refused:
        load_settings()
    assert "a-secret" not in str(refused.value)


def test_a_server_gets_the_message_whole_and_in_parts() -> None:
    with receiving() as receiver:
        webhook = Webhook(receiver.url)
        assert webhook.deliver(_MESSAGE) is None
        assert webhook.deliver(Message("another", "text", good=True)) is None
    first, second = receiver.accepted
    assert first["title"] == "a title"
    assert first["message"] == "a\ntext"
    assert first["type"] == "failure"
    assert first["subject"] == "2026-11-01-05:00"
    assert second["type"] == "success"
    assert "subject" not in second
    assert receiver.paths == ["/hooks/a-secret-path?token=secret-too"] * 2


def test_a_delivery_that_failed_says_why_and_shows_no_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "apprise")
    with receiving() as receiver:
        receiver.status = 404
        assert Webhook(receiver.url).deliver(_MESSAGE) == "it answered with status 404"
        url = receiver.url
    # Nobody listens there any more.
    assert Webhook(url).deliver(_MESSAGE) == "it did not answer"
    assert "secret" not in caplog.text
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


@pytest.fixture
def redirecting() -> Iterator[str]:
    """A server that answers a POST with a redirect, and a GET with success."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with served_by(Handler) as address:
        yield f"{address}/hook"


def test_a_redirect_is_no_delivery(redirecting: str) -> None:
    assert Webhook(redirecting).deliver(_MESSAGE) == "it answered with status 302"
