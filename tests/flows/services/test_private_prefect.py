"""The demonstration's Prefect: its server answers this run alone; no foreign setting reaches it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

RUN = """
import json, logging, os, subprocess, sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from flows.services.private_prefect import own_prefect

home = Path("home").absolute()
with own_prefect(home):
    import httpx
    get, post = (partial(ask, timeout=300) for ask in (httpx.get, httpx.post))
    from prefect.client.orchestration import get_client
    from prefect.server.api.server import SubprocessASGIServer

    with get_client(sync_client=True) as client:
        flows = [flow.name for flow in client.read_flows()]
        (server,) = SubprocessASGIServer._instances.values()
        url = f"{server.api_url}/flows/filter"
        codes = {
            "nobody": post(url, json={}).status_code,
            "wrong": post(url, json={}, auth=("upres", "guess")).status_code,
            "admin": get(f"{server.api_url}/admin/settings").status_code,
        }
        password = os.environ["PREFECT_SERVER_API_AUTH_STRING"]
        codes["own"] = post(url, json={}, auth=tuple(password.split(":"))).status_code
        lines = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(FileNotFoundError, ProcessLookupError):  # It has just ended.
                lines.append(path.read_bytes().decode(errors="replace"))
        try:
            environ = subprocess.run(
                ["cat", f"/proc/{server.server_process.pid}/environ"], user=65534, group=65534,
                extra_groups=[], capture_output=True, text=True).stdout
        except PermissionError:
            environ = ""
    from prefect.logging.configuration import setup_logging

    setup_logging()  # As the server does, too.
    levels = {
        name: logging.getLevelName(logging.getLogger(name).getEffectiveLevel())
        for name in ("sqlalchemy.pool", "pipeline.jobs", "prefect")
    }
    files = [p for p in home.rglob("*") if p.is_file()]
    kept = [p.name for p in files if password.encode() in p.read_bytes()]
print(json.dumps({
    "flows": flows, "codes": codes, "kept": kept, "home": sorted(p.name for p in files),
    "shown": password in environ or any(password in line for line in lines),
    "mode": home.stat().st_mode & 0o777, "password": password, "levels": levels,
}))
"""


def test_the_server_answers_only_whoever_knows_the_password_and_no_foreign_setting_counts(
    tmp_path: Path,
) -> None:
    poison = "http://127.0.0.1:9/api"
    (tmp_path / ".env").write_text(
        f"PREFECT_API_URL={poison}\nPREFECT_PROFILES_PATH=bad.toml\nPREFECT_SERVER_API_PORT=none\n"
    )
    (tmp_path / "prefect.toml").write_text(f'[api]\nurl = "{poison}"\n')
    (tmp_path / "pyproject.toml").write_text("this is not TOML [")
    (tmp_path / "uvicorn.py").write_text("raise SystemExit('mine')\n")
    proxy = "http://127.0.0.1:9"
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUN],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PYTHONSAFEPATH": "1",
            "PREFECT_API_URL": poison,
            "http_proxy": proxy,
            "HTTPS_PROXY": proxy,
            "all_proxy": proxy,
            "no_proxy": "example.org",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["flows"] == []
    assert said["codes"] == {"nobody": 401, "wrong": 401, "admin": 401, "own": 200}
    assert "prefect.db" in said["home"]
    assert (said["kept"], said["shown"], said["mode"]) == ([], False, 0o700)
    assert said["password"] not in done.stderr
    # A traceback of a server that ends is nobody's concern; what upres itself warns of is shown.
    assert said["levels"] == {
        "sqlalchemy.pool": "CRITICAL", "pipeline.jobs": "WARNING", "prefect": "WARNING"
    }  # fmt: skip
