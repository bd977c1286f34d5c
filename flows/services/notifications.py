"""Notifications when runs end: by a webhook, or by e-mail.

A webhook is called by the server, as an automation of Prefect's, so that runs which crashed are
heard of too. Its own blocks for e-mail need a mail service; so a mail is sent by the process of the
run, or by the one that finds it dead, and the server only keeps where to. Addresses can hold
passwords: they are kept in blocks of secrets, and shown by their host alone.
"""

from __future__ import annotations

import json
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.blocks.system import Secret
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.logging.loggers import flow_run_logger

from flows.services.deployments import TAG
from flows.services.mail import MailError, logged_in, send
from flows.services.notification import PREFIX, Notification, addresses_of, parts_of
from flows.terminal.printing import visible

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prefect import Flow
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import Flow as StoredFlow
    from prefect.client.schemas.objects import FlowRun, State

_LOOK_S = 10.0
_TEXT = (
    "(deployment.name ~ ': ' ~ flow.name ~ ' ended ' ~ flow_run.state.name"
    " ~ ((': ' ~ flow_run.state.message) if flow_run.state.message else ''))"
)
_SLACK = f'{{"text": {{{{ {_TEXT}|tojson }}}}}}'
_JSON = f"""{{
  "text": {{{{ {_TEXT}|tojson }}}},
  "flow": {{{{ flow.name|tojson }}}},
  "deployment": {{{{ deployment.name|tojson }}}},
  "run": {{{{ flow_run.name|tojson }}}},
  "state": {{{{ flow_run.state.name|tojson }}}},
  "message": {{{{ (flow_run.state.message or '')|tojson }}}},
  "job": {{{{ (flow_run.parameters.job_dir or '')|string|tojson }}}},
  "page": {{{{ flow_run|ui_url|tojson }}}}
}}"""


def set_up(client: SyncPrefectClient, notification: Notification) -> None:
    """Let a notification be sent from now on; one to the same address is replaced."""
    forget(client, notification.name)
    about = {"on": notification.on, "to": notification.to}
    if notification.by_mail:
        Secret(value=json.dumps(about)).save(notification.name, overwrite=True)  # type: ignore[arg-type]
        return
    webhook = Webhook.model_validate(
        {"url": notification.to, "headers": {"Content-Type": "application/json"}}
    )
    identifier = UUID(str(webhook.save(notification.name, overwrite=True)))
    client.create_automation(
        AutomationCore(
            name=notification.name,
            description=f"{', '.join(notification.on)}: {notification.shown}",
            trigger=EventTrigger(
                expect={f"prefect.flow-run.{state}" for state in notification.states},
                match={"prefect.resource.id": "prefect.flow-run.*"},
                match_related={
                    "prefect.resource.role": "tag",
                    "prefect.resource.id": f"prefect.tag.{TAG}",
                },
                for_each={"prefect.resource.id"},
                posture=Posture.Reactive,
                threshold=1,
            ),
            actions=[
                CallWebhook(
                    block_document_id=identifier, payload=_SLACK if notification.slack else _JSON
                )
            ],
        )
    )


def trouble_with(notification: Notification) -> str:
    """Return why no mail can be sent by a mail server at the moment; "" where one can."""
    try:
        with logged_in(parts_of(notification.to), timeout_s=_LOOK_S):
            return ""
    except MailError as error:
        return str(error)


def known(client: SyncPrefectClient) -> dict[str, str]:
    """Return what is set up: what each is for, by its name."""
    mails = {name: f"{', '.join(mail.on)}: {mail.shown}" for name, mail in _mails(client).items()}
    automations = [one for one in client.read_automations() if one.name.startswith(PREFIX)]
    return mails | {one.name: one.description for one in automations}


def forget(client: SyncPrefectClient, name: str) -> bool:
    """Set up no longer what has this name; return whether there was something."""
    found = False
    for automation in client.read_automations_by_name(name):
        client.delete_automation(automation.id)
        found = True
    for block in (Secret, Webhook):
        try:
            block.delete(name)
            found = True
        except ValueError:
            continue
    return found


def tell(flow: Flow[..., Any] | StoredFlow, flow_run: FlowRun, state: State[Any]) -> None:
    """Send the mails that are asked for when a run ends so; a hook of all flows.

    A mail that cannot be sent is logged, and changes nothing of the run.
    """
    with get_client(sync_client=True) as client:
        mails = [mail for mail in _mails(client).values() if state.name in mail.states]
        if mails:  # A run got its name after the hook got the run.
            flow_run = client.read_flow_run(flow_run.id)
    for mail in mails:
        try:
            _send(mail, flow.name, flow_run, state)
        except MailError as error:
            flow_run_logger(flow_run, flow_name=flow.name).error("not notified: %s", error)


notified: dict[str, Any] = {
    "on_completion": [tell],
    "on_failure": [tell],
    "on_crashed": [tell],
}
"""Attributes of a flow that sends notifications when it ends."""


def _mails(client: SyncPrefectClient) -> dict[str, Notification]:
    kept = client.read_block_documents(include_secrets=True, limit=200)
    texts: Iterable[tuple[str, Any]] = (
        (str(one.name), one.data.get("value"))
        for one in kept
        if str(one.name).startswith(PREFIX) and "value" in one.data
    )
    about = {name: json.loads(text) if isinstance(text, str) else text for name, text in texts}
    return {name: Notification(on=tuple(one["on"]), to=one["to"]) for name, one in about.items()}


def _send(mail: Notification, flow: str, run: FlowRun, state: State[Any]) -> None:
    url = parts_of(mail.to)
    sender, receivers = addresses_of(url)
    job = run.parameters.get("job_dir") or ""
    message = EmailMessage()
    message["From"], message["To"] = sender, ", ".join(receivers)
    message["Subject"] = f"upres: {flow} ended {state.name}"
    lines = [f"{flow} ended {state.name}.", state.message or "", f"Job: {job}", f"Run: {run.name}"]
    message.set_content("\n".join(visible(part) for line in lines for part in line.splitlines()))
    send(url, message)
