"""Notifications as a person asks for them: where to, for which ends of runs. No Prefect here."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import SplitResult, parse_qs, urlsplit

from pipeline.errors import UsageError

STATES = {
    "failed": ("Failed", "CompletedWithFailures", "Crashed", "TimedOut", "Skipped"),
    "finished": ("Completed", "OutOfTime"),
}
"""Names of the states that runs end in, by the word that asks for them."""

PREFIX = "upres-notify-"
"""How the names of all of them begin."""

_SLACK_HOSTS = ("hooks.slack.com",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """What is sent where, when a run ends."""

    on: tuple[str, ...]
    to: str
    body: str = "auto"

    def __post_init__(self) -> None:
        unknown = [word for word in self.on if word not in STATES]
        if unknown or not self.on:
            raise UsageError(
                f"--on is {','.join(self.on)!r}, expected failed, finished, or failed,finished"
            )
        url = parts_of(self.to)
        if url.scheme in ("smtp", "smtps"):
            addresses_of(url)

    @property
    def by_mail(self) -> bool:
        """Return whether it is an e-mail."""
        return parts_of(self.to).scheme in ("smtp", "smtps")

    @property
    def name(self) -> str:
        """Return a name that says nothing of what is secret, and is another for each address."""
        return f"{PREFIX}{sha256(self.to.encode()).hexdigest()[:8]}"

    @property
    def shown(self) -> str:
        """Return where it goes, without what is secret in that."""
        url = parts_of(self.to)
        return f"{url.scheme}://{url.hostname}"

    @property
    def slack(self) -> bool:
        """Return whether the body is to be one that Slack understands."""
        return self.body == "slack" or (
            self.body == "auto" and parts_of(self.to).hostname in _SLACK_HOSTS
        )

    @property
    def states(self) -> tuple[str, ...]:
        """Return the names of the states that it is sent for."""
        return tuple(name for word in self.on for name in STATES[word])


def parts_of(to: str) -> SplitResult:
    """Return an address in parts.

    Raises:
        UsageError: if it is none of a webhook or a mail server.
    """
    try:
        url = urlsplit(to)
        _ = url.port
    except ValueError:
        url = urlsplit("")
    if url.scheme not in ("http", "https", "smtp", "smtps") or not url.hostname:
        # Not shown as it is: what was mistyped may hold a password.
        raise UsageError(
            "--to is not an address of a webhook (https://...) or of a mail server "
            "(smtp://USER:PASSWORD@HOST:587/?from=ADDRESS&to=ADDRESS)"
        )
    return url


def addresses_of(url: SplitResult) -> tuple[str, list[str]]:
    """Return who sends a mail, and to whom.

    Raises:
        UsageError: if the address of a mail server does not say it.
    """
    asked = parse_qs(url.query)
    sender, receivers = asked.get("from", [""])[0], asked.get("to", [])
    if not receivers or not all("@" in one and one.isprintable() for one in (sender, *receivers)):
        raise UsageError("--to needs from=ADDRESS and to=ADDRESS: smtp://HOST/?from=A@B&to=C@D")
    return sender, receivers
