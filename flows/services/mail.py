"""Sending a mail by a mail server's address, and saying in a line why that fails.

An address holds a password. No message of this module holds it, nor what a server answers to it.
"""

from __future__ import annotations

import smtplib
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote

from pipeline.errors import UpresError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import EmailMessage
    from urllib.parse import SplitResult

TIMEOUT_S = 30.0
_HERE = ("localhost", "127.0.0.1", "::1")


class MailError(UpresError):
    """A mail server takes no mail; the message says why, without what is secret."""


def send(url: SplitResult, message: EmailMessage) -> None:
    """Send a message by a mail server.

    Raises:
        MailError: if the server does not take it.
    """
    with logged_in(url) as server:
        server.send_message(message)


@contextmanager
def logged_in(url: SplitResult, *, timeout_s: float = TIMEOUT_S) -> Iterator[smtplib.SMTP]:
    """Connect to a mail server, and log in if the address has a user.

    smtps is by TLS from the start; smtp by TLS if the server offers it. Certificates are checked
    against the authorities that this machine trusts, or those in the file SSL_CERT_FILE.

    Raises:
        MailError: if that fails, or the block does, or a password would be sent without TLS.
    """
    try:
        with _connected(url, timeout_s) as server:
            if url.username:
                server.login(unquote(url.username), unquote(url.password or ""))
            yield server
    except (OSError, UnicodeError, smtplib.SMTPException) as error:
        # What a server answers may repeat what it was sent: the cause is not kept.
        raise MailError(
            f"{url.scheme}://{url.hostname} does not accept mail: {_why(error)}"
        ) from None


def _connected(url: SplitResult, timeout_s: float) -> smtplib.SMTP:
    host, context = str(url.hostname), ssl.create_default_context()
    if url.scheme == "smtps":
        return smtplib.SMTP_SSL(host, url.port or 465, timeout=timeout_s, context=context)
    server = smtplib.SMTP(host, url.port or 587, timeout=timeout_s)
    try:
        _secure(server, url, context)
    except BaseException:
        server.close()
        raise
    return server


def _secure(server: smtplib.SMTP, url: SplitResult, context: ssl.SSLContext) -> None:
    server.ehlo()
    if server.has_extn("starttls"):
        server.starttls(context=context)
    elif url.username and url.hostname not in _HERE:
        raise smtplib.SMTPNotSupportedError("it offers no TLS, and a password needs it")


def _why(error: Exception) -> str:
    """Return in a few words why a mail was not sent, and what to change where that is known."""
    match error:
        case smtplib.SMTPAuthenticationError():
            return f"it refuses the user or the password (answer {error.smtp_code})"
        case smtplib.SMTPRecipientsRefused():
            return f"it refuses to send to {', '.join(error.recipients)}"
        case smtplib.SMTPSenderRefused():
            return f"it refuses {error.sender} as sender (answer {error.smtp_code})"
        case smtplib.SMTPNotSupportedError():
            return str(error)
        case smtplib.SMTPResponseException():
            return f"it answers {error.smtp_code}"
        case ssl.SSLCertVerificationError():
            return (
                f"its certificate is refused ({error.verify_message.rstrip('.')}); name the "
                "authority that signed it in a file SSL_CERT_FILE"
            )
        case ssl.SSLError() | smtplib.SMTPServerDisconnected():
            return (
                "it ends the connection; use smtps:// where TLS is spoken from the start (port "
                "465), and smtp:// elsewhere (port 587)"
            )
        case UnicodeError():
            return "its login takes only ASCII letters; choose another user name or password"
        case TimeoutError():
            return "it does not answer in time"
        case OSError():
            return f"it cannot be reached ({error.strerror or type(error).__name__})"
    return type(error).__name__
