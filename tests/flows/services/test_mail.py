"""Mails by TLS from the start and by STARTTLS, to a real server, and why one cannot be sent."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import socket
import socketserver
import ssl
import threading
from contextlib import contextmanager
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from flows.services.mail import MailError, logged_in, send

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSWORD = "s3cret&50%/@"


class Receiver(socketserver.StreamRequestHandler):
    """As much of a mail server as smtplib speaks to; `server` says how it is set up."""

    server: MailServer

    def setup(self) -> None:
        self.secure = self.server.from_start
        if self.secure:
            self.request = self.server.context.wrap_socket(self.request, server_side=True)
        super().setup()

    def handle(self) -> None:
        self.say("220 here")
        while line := self.rfile.readline().decode():
            word, _, rest = line.strip().partition(" ")
            if word == "QUIT":
                return self.say("221 bye")
            getattr(self, word.lower(), self.other)(rest)
        return None

    def finish(self) -> None:
        super().finish()
        self.connection.close()

    def ehlo(self, _rest: str) -> None:
        offers_tls = self.server.starttls and not self.secure
        self.say("250-here", *(["250-STARTTLS"] if offers_tls else []), "250 AUTH PLAIN")

    def starttls(self, _rest: str) -> None:
        self.say("220 go")
        self.rfile.close()
        self.connection = self.server.context.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.secure = True

    def auth(self, rest: str) -> None:
        _, user, password = base64.b64decode(rest.split()[1]).decode().split("\0")
        self.server.logins.append((self.secure, user))
        right = (user, password) == ("me", PASSWORD)
        # Some repeat what they were sent.
        self.say("235 in" if right else f"535 not with {password}")

    def rcpt(self, rest: str) -> None:
        self.say("550 nobody" if "nobody" in rest else "250 ok")

    def data(self, _rest: str) -> None:
        self.say("354 go")
        lines = []
        while (line := self.rfile.readline()) != b".\r\n":
            lines.append(line.decode())
        self.server.heard.append("".join(lines))
        self.say("250 ok")

    def other(self, _rest: str) -> None:
        self.say("250 ok")

    def say(self, *lines: str) -> None:
        self.connection.sendall("".join(f"{line}\r\n" for line in lines).encode())


class MailServer(socketserver.ThreadingTCPServer):
    """A mail server of the test's own, and what it heard."""

    allow_reuse_address = True

    def __init__(self, certificate: Path, *, from_start: bool, starttls: bool) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate)
        self.from_start, self.starttls = from_start, starttls
        self.heard: list[str] = []
        self.logins: list[tuple[bool, str]] = []

    def handle_error(self, *_about: Any) -> None:
        """A client that refuses the certificate ends the connection."""

    @contextmanager
    def serving(self) -> Iterator[MailServer]:
        thread = threading.Thread(target=self.serve_forever, args=[0.05], daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()
            thread.join()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the key and the certificate of 127.0.0.1, which signs itself."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file = tmp_path_factory.mktemp("tls") / "own.pem"
    file.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return file


@pytest.fixture
def _trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))


def address(scheme: str, port: int, *, password: str = PASSWORD, to: str = "c@d.org") -> Any:
    secret = quote(password, safe="")
    return urlsplit(f"{scheme}://me:{secret}@127.0.0.1:{port}/?from=a@b.org&to={to}")


def letter(to: str = "c@d.org") -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@b.org", to, "upres: Übersee"
    message.set_content("17 tiles failed: Übersee/日本.png")
    return message


def refusal(url: Any, message: EmailMessage | None = None) -> str:
    """Return why no mail is sent, having made sure that nothing secret is in that."""
    with pytest.raises(MailError) as refused:
        send(url, message or letter())
    said = str(refused.value)
    assert PASSWORD not in said
    assert len(said.splitlines()) == 1
    # A traceback would show the cause and the context as well.
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__
    return said


@pytest.mark.usefixtures("_trusted")
@pytest.mark.parametrize(("scheme", "from_start"), [("smtps", True), ("smtp", False)])
def test_a_mail_is_sent_by_tls_and_so_is_the_password(
    scheme: str, from_start: bool, certificate: Path
) -> None:
    with MailServer(certificate, from_start=from_start, starttls=True).serving() as server:
        port = server.server_address[1]
        send(address(scheme, port), letter())
        assert server.logins == [(True, "me")]
        assert len(server.heard) == 1
        assert "From: a@b.org" in server.heard[0]
        said = refusal(address(scheme, port, password=f"{PASSWORD}!"))
        assert said == (
            f"{scheme}://127.0.0.1 does not accept mail: it refuses the user or the password "
            "(answer 535)"
        )
        said = refusal(address(scheme, port), letter("nobody@d.org"))
        assert said.endswith("it refuses to send to nobody@d.org")
        assert len(server.heard) == 1


@pytest.mark.parametrize(("scheme", "from_start"), [("smtps", True), ("smtp", False)])
def test_nothing_secret_goes_to_a_server_whose_certificate_is_refused(
    scheme: str, from_start: bool, certificate: Path
) -> None:
    with MailServer(certificate, from_start=from_start, starttls=True).serving() as server:
        said = refusal(address(scheme, server.server_address[1]))
        assert "its certificate is refused (self-signed certificate); " in said
        assert "SSL_CERT_FILE" in said
        assert server.logins == server.heard == []


@pytest.mark.usefixtures("_trusted")
def test_a_password_does_not_go_to_another_machine_without_tls(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.services.mail._HERE", ())
    with MailServer(certificate, from_start=False, starttls=False).serving() as server:
        url = address("smtp", server.server_address[1])
        assert refusal(url).endswith("it offers no TLS, and a password needs it")
        assert server.logins == []


@pytest.mark.usefixtures("_trusted")
def test_tls_that_is_spoken_too_early_or_too_late_is_said(certificate: Path) -> None:
    with MailServer(certificate, from_start=False, starttls=True).serving() as server:
        said = refusal(address("smtps", server.server_address[1]))
        assert "use smtps:// where TLS is spoken from the start (port 465), and smtp://" in said
    with MailServer(certificate, from_start=True, starttls=False).serving() as server:
        url = address("smtp", server.server_address[1])
        with pytest.raises(MailError, match=r"does not answer in time|ends the connection"), (
            logged_in(url, timeout_s=1)
        ):  # fmt: skip
            pass


def test_a_server_that_is_not_there_and_a_password_that_no_login_carries_are_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Nobody listens.
        said = refusal(address("smtps", taken.getsockname()[1]))
        assert said.endswith("it cannot be reached (Connection refused)")
    said = refusal(urlsplit("smtps://me:x@no-such-host.invalid/?from=a@b.org&to=c@d.org"))
    assert said.startswith(
        "smtps://no-such-host.invalid does not accept mail: it cannot be reached ("
    )


@pytest.mark.usefixtures("_trusted")
def test_a_password_that_smtplib_cannot_send_is_said_without_it(certificate: Path) -> None:
    with MailServer(certificate, from_start=True, starttls=False).serving() as server:
        said = refusal(address("smtps", server.server_address[1], password="pässwörd"))
        assert said.endswith("its login takes only ASCII letters; choose another user name or "
                             "password")  # fmt: skip
        assert "pässwörd" not in said
