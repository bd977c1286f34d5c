"""Notifications for real: a webhook and a mail server of the test's own hear how runs end."""

from __future__ import annotations

import json
import socketserver
from email import message_from_string
from http.server import HTTPServer
from typing import TYPE_CHECKING

import pytest

from tests.services.nights import Night
from tests.services.receivers import MailServer, Webhook, heard_by
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import SavePicture, TakePhoto

pytestmark = [pytest.mark.services, pytest.mark.slow]


def test_webhooks_and_mails_tell_how_runs_end_and_their_secrets_stay_secret(
    tmp_path: Path, photo: TakePhoto, save: SavePicture, named_cluster: dict[str, str]
) -> None:
    night = Night(tmp_path)
    save(tmp_path / "photos" / "a.png", photo(40, 40))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    save(tmp_path / "broken" / "a.png", photo(40, 40))
    with (
        heard_by(HTTPServer(("127.0.0.1", 0), Webhook)) as web,
        heard_by(socketserver.ThreadingTCPServer(("127.0.0.1", 0), MailServer)) as mail,
        night.served() as serving,
    ):
        serving.ready()
        hook = f"http://127.0.0.1:{web.server_port}"
        smtp = f"smtp://me:s3cret@127.0.0.1:{mail.server_address[1]}/?from=a@b.org&to=c@d.org"
        for on, to, *more in (
            ("failed", f"{hook}/T0KEN-failed"),
            ("failed,finished", f"{hook}/T0KEN-slack", "--body", "slack"),
            ("failed", smtp),
        ):
            said = night.typed("notify", "--on", on, "--to", to, *more)
            assert (said.returncode, said.stderr) == (0, "")
        assert len(mail.logins) == 1  # It was tried whether the server takes mails.
        nobody = "smtp://me:s3cret@127.0.0.1:9/?from=a@b.org&to=c@d.org"
        said = night.typed("notify", "--on", "failed", "--to", nobody)
        why = "smtp://127.0.0.1 does not accept mail: it cannot be reached (Connection refused)"
        assert said.returncode == 0
        assert said.stderr == f"upres: it is set up, but at the moment {why}\n"
        listed = night.typed("notify", "--list").stdout
        assert len(listed.splitlines()) == 4
        assert "failed: smtp://127.0.0.1" in listed
        assert "failed, finished: http://127.0.0.1" in listed
        assert "s3cret" not in listed
        assert "T0KEN" not in listed
        assert {one["name"] for one in night.api("deployments/filter")} == {"upres"}
        for source in ("photos", "broken"):
            asked = {
                "src": str(tmp_path / source),
                "job_dir": str(tmp_path / f"job of {source}"),
                "model": "bicubic-x2",
            }
            night.begin(parameters=asked | named_cluster)
        not_notified = f"not notified: {why}\n"
        until(lambda: len(web.heard) == 3 and mail.heard, serving.log)
        until(lambda: not_notified in serving.said, serving.log)
        slack = [body["text"] for path, body in web.heard if path == "/T0KEN-slack"]
        assert sorted(text.split(":")[1] for text in slack) == [
            " nightly ended Completed", " nightly ended CompletedWithFailures"
        ]  # fmt: skip
        (plain,) = [body for path, body in web.heard if path == "/T0KEN-failed"]
        assert plain["state"] == "CompletedWithFailures"
        assert plain["message"].startswith("1 of 2 files was rejected")
        assert plain["job"] == str(tmp_path / "job of broken")
        assert plain["page"].startswith(f"http://127.0.0.1:{night.port}/runs/flow-run/")
        (text,) = mail.heard
        message = message_from_string(text)
        assert (message["From"], message["To"]) == ("a@b.org", "c@d.org")
        assert message["Subject"] == "upres: nightly ended CompletedWithFailures"
        assert "1 of 2 files was rejected" in text
        assert "Run: nightly job of broken 20" in text
        assert len(mail.logins) == 2
        assert serving.said.count(not_notified) == 1
        assert "Traceback" not in serving.said
        for secret in ("s3cret", "T0KEN"):
            assert secret not in serving.said
            assert secret not in (night.home / "server.log").read_text()
        document = json.loads(night.typed("notify", "--list", "--json").stdout)
        assert [one["to"] for one in document["notifications"]].count("smtp://127.0.0.1") == 2
        name = listed.splitlines()[0].split(":")[0]
        assert len(night.typed("notify", "--remove", name).stdout.splitlines()) == 3
        assert night.typed("notify", "--remove", name).returncode == 2
