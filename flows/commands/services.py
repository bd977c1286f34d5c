"""Every night on the command line: serve, schedule."""

from __future__ import annotations

from contextlib import chdir, contextmanager
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from flows.commands.jobs import upscale
from flows.terminal import options
from pipeline.jobs.request import UpscaleRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from flows.services.deployments import Listed
    from flows.services.scheduling import ScheduledJob
    from flows.services.server import Server

_PORT = 4200


@click.command()
@click.option(
    "--job-config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A TOML file of jobs to schedule: a table for each.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=_PORT,
    show_default=True,
    envvar="UPRES_PORT",
    help="Port of the Prefect server's pages, on 127.0.0.1 only.",
)
@click.option(
    "--nights",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many scheduled jobs run at once; the others wait for their turn.  [default: 1, or "
    "what the server at PREFECT_API_URL has]",
)
@options.reported_with(again="`upres serve`")
def serve(job_config: Path | None, port: int, nights: int | None) -> None:
    """Run what is scheduled, for as long as this command runs.

    It starts a Prefect server, whose database is kept in UPRES_HOME (~/.local/share/upres). If
    PREFECT_API_URL is set, it uses that server instead. All flows can be started from the pages of
    the server.
    """
    from flows.services.server import home, password_file, serving_server
    from flows.terminal.printing import number_of

    jobs_asked = None if job_config is None else _read(job_config)
    click.echo("starting: the server takes up to a minute, and longer the first time", err=True)
    with serving_server(port) as server, chdir(home() if server.process else "."):
        from flows.services.dead_runs import cancel_missed_runs, mark_dead_runs
        from flows.services.deployments import (
            client_of_server,
            forget_ended_jobs,
            jobs_of_file,
            let_nights_take_turns,
            register_flows,
            scheduled_jobs,
        )
        from flows.services.serving import work_until_told

        own = server.process is not None
        with client_of_server() as client:
            register_flows(client)
            if jobs_asked is not None:
                jobs_of_file(client, jobs_asked)
            let_nights_take_turns(client, nights or (1 if own else None))
            dead = mark_dead_runs(client, alone=own)
            missed = cancel_missed_runs(client) if own else 0
            forget_ended_jobs(client)
            jobs = scheduled_jobs(client)
        if dead:
            _say(f"{number_of(len(dead), 'run')} without a living process, marked as crashed")
        if missed:
            _say(f"{number_of(missed, 'run')} missed meanwhile; the last of each job begins now")
        for job in jobs:
            _say(_line(job))
        _say(f"serving {number_of(len(jobs), 'scheduled job')}; pages: {server.page}")
        if own:
            _say(f"user and password of the pages: upres:PASSWORD, which is in {password_file()}")
        work_until_told(server)
    _say("ended; nothing runs until `upres serve` is started again")


@click.command()
@click.argument("src", metavar="[SRC", required=False)
@click.argument("job_dir", metavar="JOB]", required=False, type=click.Path(path_type=Path))
@click.option("--at", metavar="TIME", help="When to begin every night, such as 02:00.")
@click.option("--list", "listed", is_flag=True, help="List the scheduled jobs.")
@click.option("--remove", metavar="NAME", help="Remove a job from the schedule; its folder stays.")
@options.json_option
@options.reported
def schedule(
    src: str | None,
    job_dir: Path | None,
    at: str | None,
    listed: bool,
    remove: str | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Upscale SRC into JOB every night, while `upres serve` runs.

    Nothing runs until `upres serve` is started. Jobs can be scheduled before that; it then takes up
    to a minute. Repeat the command with the same JOB to change its schedule. The other options are
    those of `upres upscale`.
    """
    from pipeline.errors import UsageError

    adds = any(one is not None for one in (src, job_dir, at)) or _is_typed(asked)
    if adds + listed + (remove is not None) != 1:
        raise UsageError("expected either SRC JOB --at TIME, or --list, or --remove NAME")
    if not adds:
        _list_or_remove(remove, as_json=as_json)
    elif src is None or job_dir is None or at is None:
        missing = "SRC" if src is None else "JOB" if job_dir is None else "--at TIME"
        raise UsageError(f"{missing} is missing: upres schedule SRC JOB --at TIME")
    else:
        _add(UpscaleRequest(src=src, job_dir=job_dir, **asked), at, as_json=as_json)


def _is_typed(names: Iterable[str]) -> bool:
    """Return whether a person typed one of these options of the running command."""
    source_of = click.get_current_context().get_parameter_source
    return any(source_of(name) is ParameterSource.COMMANDLINE for name in names)


def _of_night(option: click.Option) -> click.Option:
    """Return an option of `upres upscale`, which for a schedule may mean a little more."""
    helps = {
        "until": "When to stop every night, such as 06:30; the next night goes on. What is "
        "finished is still scored and exported, for at most 15 minutes more.",
        "timezone": "Time zone of --at and --until, such as Europe/Berlin.  [default: that of this "
        "machine]",
    }
    option = copy(option)
    option.help = helps.get(str(option.name), option.help)
    return option


schedule.params[-1:-1] = [
    _of_night(one)
    for one in upscale.params
    if isinstance(one, click.Option) and one.name != "as_json"
]


@click.command()
@click.option("--on", "words", metavar="WORDS", help="failed, finished, or failed,finished.")
@click.option(
    "--to",
    metavar="URL",
    help="A webhook (https://...), or a mail server: "
    "smtp://USER:PASSWORD@HOST:587/?from=ADDRESS&to=ADDRESS (smtps:// for TLS from the start).",
)
@click.option(
    "--body",
    type=click.Choice(["auto", "slack", "json"]),
    default="auto",
    show_default=True,
    help="Format of what a webhook gets; auto is slack for webhooks of Slack, otherwise json.",
)
@click.option("--list", "listed", is_flag=True, help="List the notifications.")
@click.option("--remove", metavar="NAME", help="Remove a notification.")
@options.json_option
@options.reported
def notify(
    words: str | None, to: str | None, body: str, listed: bool, remove: str | None, as_json: bool
) -> None:
    """Send a webhook or an e-mail when runs end.

    A run with failed tiles counts as failed. The Prefect server keeps the address, which is never
    shown or logged. Repeat the command with the same address to change which runs it is used for.
    """
    from flows.services.notification import Notification
    from pipeline.errors import UsageError

    adds = words is not None or to is not None
    if adds + listed + (remove is not None) != 1 or (adds and not (words and to)):
        raise UsageError("expected either --on WORDS --to URL, or --list, or --remove NAME")
    asked = None
    if words and to:
        on = tuple(word.strip() for word in words.split(",") if word.strip())
        asked = Notification(on=on, to=to, body=body)
    with _server():
        from flows.services.deployments import client_of_server
        from flows.services.notifications import forget, known, set_up, trouble_with

        with client_of_server() as client:
            if asked is not None:
                set_up(client, asked)
                if asked.by_mail and (trouble := trouble_with(asked)):
                    _say(f"upres: it is set up, but at the moment {trouble}")
            elif remove is not None and not forget(client, remove):
                raise UsageError(f"no notification is called {remove!r}; --list shows all")
            _print_known(known(client), as_json=as_json)


def _print_known(notifications: dict[str, str], *, as_json: bool) -> None:
    """Print what each notification is for, by its name."""
    if not as_json:
        for name, about in sorted(notifications.items()):
            click.echo(f"{name}: {about}")
        return
    parts = {name: about.split(": ", 1) for name, about in sorted(notifications.items())}
    rows = [{"name": n, "on": on.split(", "), "to": to} for n, (on, to) in parts.items()]
    options.print_json({"notifications": rows})


@contextmanager
def _server() -> Iterator[Server]:
    """Yield the server; where none runs it is started for this command, and that is said."""
    from flows.services.server import home, server_at_hand

    with server_at_hand() as server:
        if server.process is None:
            yield server
            return
        with chdir(home()):  # Prefect reads settings wherever it is started.
            yield server
    _say("upres: nothing runs until `upres serve` is started (docs/schedule.md)")


def _read(file: Path) -> list[ScheduledJob]:
    from flows.services.job_config import read_jobs

    return read_jobs(file, warn=lambda line: _say(f"upres: {line}"))


def _add(request: UpscaleRequest, at: str, *, as_json: bool) -> None:
    from flows.services.scheduling import scheduled

    job = scheduled(request, at=at, timezone=request.timezone, folder=Path.cwd())
    _check(job.request, job.at)
    with _server() as server:
        listed = _scheduled(job, server)
        if as_json:
            options.print_json(listed.to_json())
            return
        click.echo(_line(listed))
        if server.process is None:
            click.echo(f"pages: {server.page}")


def _scheduled(job: ScheduledJob, server: Server) -> Listed:
    from flows.services.deployments import (
        await_runs,
        client_of_server,
        has_worker,
        schedule_job,
        scheduled_jobs,
    )

    with client_of_server() as client:
        before = {one.name: one for one in scheduled_jobs(client)}
        name = schedule_job(client, job)
        await_runs(client, name)
        if old := before.get(name):
            _say(f"upres: {name} was scheduled at {old.at} {old.timezone}, which this replaces")
        if server.process is None and not has_worker(client):
            _say("upres: nothing runs it yet; start `upres serve`, or a worker of the pool upres")
        return next(one for one in scheduled_jobs(client) if one.name == name)


def _check(request: UpscaleRequest, at: str) -> None:
    """Refuse what cannot be; places may be those of the machine of a server that is configured."""
    from flows.services.scheduling import check_job, check_writable
    from flows.services.server import configured
    from pipeline.errors import NoSourceError

    try:
        check_job(request, at)
        check_writable(request)
    except NoSourceError as error:
        if not configured():
            raise
        _say(f"upres: {error}; it has to be there on the machine whose worker runs the job")


def _list_or_remove(name: str | None, *, as_json: bool) -> None:
    with _server():
        from flows.services.deployments import client_of_server, remove_job, scheduled_jobs

        with client_of_server() as client:
            if name is not None:
                remove_job(client, name)
            jobs = scheduled_jobs(client)
    if as_json:
        options.print_json({"jobs": [job.to_json() for job in jobs]})
        return
    for job in jobs:
        click.echo(_line(job))
    if not jobs:
        click.echo("no job is scheduled")


def _line(job: Listed) -> str:
    next_day = " the next day" if job.until.zfill(5) < job.at else ""
    until = f" until {job.until}{next_day}" if job.until else ""
    last = f"; last run: {job.last_state}" if job.last_state else ""
    start = f"; next: {job.next_start:%Y-%m-%d %H:%M} UTC" if job.next_start else ""
    return f"{job.name}: {job.at}{until} {job.timezone}, {job.src} into {job.job_dir}{start}{last}"


def _say(line: str) -> None:
    click.echo(line, err=True)
