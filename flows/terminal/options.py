"""Options that several commands share, and the exit codes they all keep."""

from __future__ import annotations

import functools
import math
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from flows.terminal.printing import guarded, json_text, visible
from flows.terminal.utf8 import restart_in_utf8
from pipeline.compute.request import LimitedWorkersRequest, WorkersRequest
from pipeline.constants import CODECS, LEAST_LIMIT_S, LEAST_TILE_PX, MOST_LIMIT_S, MOST_TILE_PX
from pipeline.dataset.request import PrepareRequest
from pipeline.errors import UsageError
from pipeline.jobs.export.names import CHOICES
from pipeline.jobs.export.request import ExportRequest
from pipeline.jobs.request import IngestRequest, UpscaleRequest, check_halo
from pipeline.request_fields import field_of, help_of, is_needed
from pipeline.sources.request import SourceRequest
from pipeline.storage.store import is_address, place_of
from pipeline.training.request import TrainRequest

if TYPE_CHECKING:
    from types import FrameType

    from pipeline.compute.stop import Stop

F = TypeVar("F", bound=Callable[..., Any])

DONE, FAILED, USAGE, INCOMPLETE, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes: all done; the command failed; wrong usage; some items or tiles failed; Ctrl-C."""

BACKENDS = click.Choice(["auto", "torch", "openvino"])
DEVICES = "auto|cpu|cuda[:N]"


class OneLineErrors(click.Group):
    """A group that reports wrong usage in one line; click would print the usage first."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line; leave with the exit code of the command."""
        run = functools.partial(super().main, args, prog_name, complete_var, **extra)
        if not standalone_mode:
            return run(standalone_mode=False)
        if args is None:
            restart_in_utf8()
        with guarded():
            self._run(run)
        return None

    def _run(self, run: Callable[..., Any]) -> NoReturn:
        try:
            code: Any = run(standalone_mode=False)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.ClickException as error:
            context = getattr(error, "ctx", None)
            path = context.command_path if context else "upres"
            line = visible(" ".join(error.format_message().split()))
            click.echo(f"upres: {line.rstrip('.')}; see `{path} --help`", err=True)
            sys.exit(error.exit_code)
        except click.Abort:
            sys.exit(INTERRUPTED)
        sys.exit(code if isinstance(code, int) else DONE)


class HaloType(click.ParamType[str | int]):
    """``auto``, or a number of pixels."""

    name = "PX|auto"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | int:
        """Return "auto" or the number."""
        from pipeline.errors import UsageError

        try:
            check_halo(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)
        return "auto" if value == "auto" else int(value)


class SecondsType(click.FloatRange):
    """A number of seconds; "nan" is none."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number."""
        found = float(super().convert(value, param, ctx))
        if math.isnan(found):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return found


class EncodingType(click.ParamType[str]):
    """An encoding that file names can be in."""

    name = "ENCODING"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name of the encoding."""
        from pipeline.errors import UsageError
        from pipeline.sources.zip_names import check_encoding

        try:
            check_encoding(str(value))
        except UsageError as error:
            self.fail(str(error).removeprefix("--names is "), param, ctx)
        return str(value)


def asked(request: type[Any], name: str, *declarations: str, **attributes: Any) -> Callable[[F], F]:
    """Return an option that fills the field `name` of a request, which has default and help."""
    field = field_of(request, name)
    if is_needed(field):
        attributes = {"required": True, **attributes}
    else:
        shown = not isinstance(field.default, bool) and field.default not in (None, "", ())
        attributes = {"default": field.default, "show_default": shown, **attributes}
    return click.option(*declarations, name, help=help_of(request, name), **attributes)


def asked_together(*added: Callable[[F], F]) -> Callable[[F], F]:
    """Return a decorator that adds several options, which the help lists in this order."""

    def add(function: F) -> F:
        for option in reversed(added):
            function = option(function)
        return function

    return add


def json_option(function: F) -> F:
    """Add ``--json``."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON document on stdout, nothing else."
    )(function)


names_option = asked(SourceRequest, "names", "--names", type=EncodingType(), metavar="ENCODING")

codec_option = asked(IngestRequest, "codec", "--codec", type=click.Choice(CODECS))

reference_option = asked(UpscaleRequest, "reference", "--reference", metavar="HR")

format_option = asked(UpscaleRequest, "file_format", "--format", type=click.Choice(CHOICES))

cluster_options = asked_together(
    asked(
        WorkersRequest,
        "cluster",
        "--cluster",
        metavar="local|ADDRESS|NAME",
        envvar="UPRES_CLUSTER",
        show_envvar=True,
    ),
    asked(
        WorkersRequest,
        "clusters",
        "--clusters",
        type=click.Path(path_type=Path),
        metavar="FILE",
        envvar="UPRES_CLUSTERS",
        show_envvar=True,
    ),
    asked(WorkersRequest, "workers", "--workers", type=click.IntRange(min=1)),
)

replacing_options = asked_together(
    asked(ExportRequest, "overwrite", "--overwrite", is_flag=True),
    asked(ExportRequest, "prune", "--prune", is_flag=True),
)

tile_options = asked_together(
    asked(
        UpscaleRequest,
        "tile_px",
        "--tile",
        type=click.IntRange(LEAST_TILE_PX, MOST_TILE_PX),
        metavar="PX",
    ),
    asked(UpscaleRequest, "halo", "--halo", type=HaloType()),
)

limit_option = asked(
    LimitedWorkersRequest,
    "limit_s",
    "--time-limit",
    type=SecondsType(LEAST_LIMIT_S, MOST_LIMIT_S),
    metavar="S",
)


def device_options(precision: str = UpscaleRequest.precision) -> Callable[[F], F]:
    """Return a decorator that adds device, backend and precision."""
    precisions = click.Choice(["auto", "fp32", "bf16"])
    return asked_together(
        asked(UpscaleRequest, "device", "--device", metavar=DEVICES),
        asked(UpscaleRequest, "backend", "--backend", type=BACKENDS),
        asked(UpscaleRequest, "precision", "--precision", type=precisions, default=precision),
    )


class PlaceType(click.Path):
    """A local path, or an address such as ``s3://bucket/prefix``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the place."""
        if not isinstance(value, str) or not is_address(value):
            return super().convert(value, param, ctx)
        try:
            return place_of(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class LocalType(click.Path):
    """A path of this machine: an address would be taken for a folder called ``s3:``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        if isinstance(value, str) and is_address(value):
            self.fail(f"{value} is not on this machine, expected a local path", param, ctx)
        return super().convert(value, param, ctx)


LOCAL = LocalType(path_type=Path)
PLACE = PlaceType(path_type=Path)
FILE_PLACE = PlaceType(path_type=Path, dir_okay=False)


class FeaturesType(click.Path):
    """A file or folder, or the word ``torchvision``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; the word stays as it is."""
        word = str(value) == "torchvision" and not Path(value).exists()
        return Path(value) if word else super().convert(value, param, ctx)


settings_option = asked(PrepareRequest, "settings", "--set", multiple=True, metavar="KEY=VALUE")

features_option = asked(
    TrainRequest,
    "features",
    "--features",
    multiple=True,
    type=FeaturesType(exists=True, path_type=Path),
    metavar="FILE|DIR|torchvision",
)


def reported(command: F, *, again: str = "repeat the command") -> F:
    """Turn our errors into one line on stderr and an exit code; a bug keeps its traceback.

    `again` says what to do to continue after an interruption.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        from pipeline.errors import UpresError, UsageError

        interrupted = f"upres: interrupted; {again} to continue"
        try:
            return command(*args, **kwargs)
        except UpresError as error:
            line = " ".join(str(error).split())
            click.echo(f"upres: {line}", err=True)
            sys.exit(USAGE if isinstance(error, UsageError) else FAILED)
        except RuntimeError as error:
            # Python wraps a Ctrl-C that comes while a module defines its classes.
            if not isinstance(error.__cause__, KeyboardInterrupt):
                raise
            click.echo(interrupted, err=True)
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            raise
        except OSError as error:
            # A full disk or a folder that may not be written is not a bug: one line is enough.
            click.echo(
                f"upres: {visible(str(error))}; fix that, then {again} to continue", err=True
            )
            sys.exit(FAILED)
        except KeyboardInterrupt:
            click.echo(interrupted, err=True)
            sys.exit(INTERRUPTED)

    return run  # type: ignore[return-value]


def reported_with(*, again: str) -> Callable[[F], F]:
    """Return `reported` for a command that is continued by another command."""
    return functools.partial(reported, again=again)


@contextmanager
def interruptible() -> Iterator[Stop]:
    """Yield a stop that the first Ctrl-C (or SIGTERM) requests; the second interrupts at once."""
    from pipeline.compute.stop import Stop

    stop = Stop()

    def ask(number: int, _frame: FrameType | None) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.request()
        name = signal.Signals(number).name
        click.echo(
            f"upres: {name}: finishing the work in progress; a second signal stops at once",
            err=True,
        )

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def print_json(document: Any) -> None:
    """Print one JSON document on stdout."""
    click.echo(json_text(document))
