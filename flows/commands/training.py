"""Training on the command line: train, and evaluate what came of it."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.terminal import options
from flows.terminal.printing import visible

if TYPE_CHECKING:
    from pipeline.training.run import TrainResult


@click.command()
@click.argument("src", metavar="DATASET|SRC")
@click.option(
    "--recipe",
    metavar="NAME|FILE",
    help="What to train, and how.  [with --resume: as it was begun]",
)
@click.option(
    "--out",
    "out_dir",
    required=True,
    type=click.Path(path_type=Path),
    help="Result folder.",
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a value of the recipe."
)
@options.features_option
@click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda[:N]",
    help="Training device.",
)
@click.option(
    "--readers",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Processes that read patches which do not fit into memory.",
)
@click.option(
    "--memory",
    type=click.Choice(["auto", "disk", "ram", "gpu"]),
    default="auto",
    show_default=True,
    help="Where patches are kept; auto is the fastest place that holds them.",
)
@click.option("--resume", is_flag=True, help="Continue exactly where the training in DIR stopped.")
@options.json_option
@options.reported_with(again="the same command, with --resume if a step was made,")
def train(
    src: str,
    recipe: str | None,
    out_dir: Path,
    settings: tuple[str, ...],
    features: tuple[Path, ...],
    device: str,
    readers: int,
    memory: str,
    resume: bool,
    as_json: bool,
) -> None:
    """Train a network by a recipe.

    DATASET was made by `upres prepare`. Pictures (SRC) are first prepared by the recipe, into
    DIR/patches; --set prepare.KEY=VALUE changes how. Under torchrun, several processes share one
    training.

    Written to --out: best.safetensors and last.safetensors (models that --model takes),
    checkpoints/, metrics.csv, curves.png, samples/, events/ for TensorBoard, recipe.toml as
    resolved, and state.safetensors for --resume.
    """
    from flows.terminal.trainings import TrainTerminal
    from pipeline.reports.dataset_report import write_dataset_report
    from pipeline.training import run
    from pipeline.training.request import TrainRequest

    # What is worth a warning on the way comes by logging, and in all processes of a training.
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    request = TrainRequest(
        source=src,
        out_dir=out_dir,
        recipe=recipe,
        settings=settings,
        features=features,
        device=device,
        readers=readers,
        memory=memory,
        resume=resume,
    )
    with options.interruptible() as stop:
        result = run.run_training(
            request, stop=stop, write_report=write_dataset_report, listener=TrainTerminal()
        )
    if result.leads:
        _print_result(result, as_json=as_json)
    sys.exit(options.DONE if result.ended else options.INTERRUPTED)


def _print_result(result: TrainResult, *, as_json: bool) -> None:
    from flows.terminal.trainings import result_text

    if as_json:
        options.print_json(result.to_json())
    else:
        click.echo(result_text(result))
    if not result.ended:
        click.echo("upres: stopped; the same command with --resume goes on exactly there", err=True)


@click.command()
@click.argument("model", metavar="MODEL")
@click.argument(
    "hr_dirs", metavar="HR_DIR|DATASET...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--degradation",
    default="bicubic",
    show_default=True,
    metavar="NAME|FILE",
    help="What makes LR from HR: a preset such as jpeg-75 or archive, or a file with one's table.",
)
@options.device_options("fp32")
@options.features_option
@options.json_option
@options.reported
def evaluate(
    model: str,
    hr_dirs: tuple[Path, ...],
    degradation: str,
    features: tuple[Path, ...],
    device: str,
    backend: str,
    precision: str,
    as_json: bool,
) -> None:
    """Measure a model by the published protocol.

    MODEL is a name, a file, or auto, which chooses for each picture; HR_DIR is a folder of HR
    pictures. LR is made by antialiased bicubic reduction, or by another --degradation, which gives
    every model the same LR. Of a DATASET that `upres prepare` made, each LR version is scored, on
    the patches held out for test (or validation).

    PSNR and SSIM are of the Y channel, a border of `scale` pixels left out. The default precision
    is fp32, so that figures do not depend on the machine.
    """
    from pipeline.evaluation.evaluate import evaluate_model
    from pipeline.training.objective import FeatureFiles

    document = evaluate_model(
        model,
        hr_dirs,
        device=device,
        precision=precision,
        backend=backend,
        features=FeatureFiles.named(features),
        degradation=degradation,
    )
    if as_json:
        options.print_json(document)
        return
    name = document["model"]
    # A checkpoint bears the name of its recipe, as the shipped weights do.
    shown = visible(name if name.startswith(model) else f"{model} ({name})")
    how = (document[key] for key in ("degradation", "precision", "backend"))
    click.echo(f"{shown}, x{document['scale']}, {', '.join(how)}")
    if "chosen" in document:
        many = (f"{one['model']} for {one['pictures']}" for one in document["chosen"])
        click.echo(f"chosen by the pixels of each picture: {', '.join(many)}")
    for scores in document["sets"]:
        click.echo(_set_scores(scores))


def _set_scores(scores: dict[str, Any]) -> str:
    psnr = "infinite" if scores["psnr_y"] is None else f"{scores['psnr_y']:.3f} dB"
    words = [f"{visible(scores['name']):16} {scores['images']:>4} pictures", f"PSNR-Y {psnr}"]
    words.append(f"SSIM-Y {scores['ssim_y']:.4f}")
    if scores["lpips"] is not None:
        words.append(f"LPIPS {scores['lpips']:.4f}")
    if scores["equal"]:
        words.append(f"({scores['equal']} equal to HR, left out of PSNR)")
    if scores["left_out"]:
        words.append(f"({sum(scores['left_out'].values())} files that are not pictures left out)")
    return "  ".join(words)
