"""Training on the command line: train a network, and evaluate it."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

import click

from flows.terminal import options
from flows.terminal.printing import visible
from pipeline.constants import MEMORIES
from pipeline.training.request import TrainRequest

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.storage.store import Place
    from pipeline.training.run import TrainResult


@click.command()
@click.argument("src", metavar="DATASET|SRC")
@options.asked(TrainRequest, "recipe", "--recipe", metavar="NAME|FILE")
@options.asked(TrainRequest, "out_dir", "--out", type=options.PLACE)
@options.settings_option
@options.features_option
@options.asked(TrainRequest, "device", "--device", metavar=options.DEVICES)
@options.asked(TrainRequest, "readers", "--readers", type=click.IntRange(min=0))
@options.asked(TrainRequest, "memory", "--memory", type=click.Choice(MEMORIES))
@options.asked(TrainRequest, "resume", "--resume", is_flag=True)
@options.json_option
@options.reported_with(again="repeat the command, with --resume if a step was made,")
def train(as_json: bool, **asked: Any) -> None:
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

    # Warnings during a training are logged, by each of its processes.
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    request = TrainRequest(**asked)
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
        click.echo(
            "upres: stopped; repeat the command with --resume to continue exactly there", err=True
        )


@click.command()
@click.argument("model", metavar="MODEL")
@click.argument("hr_dirs", metavar="HR_DIR|DATASET...", nargs=-1, required=True, type=options.PLACE)
@click.option(
    "--degradation",
    default="bicubic",
    show_default=True,
    metavar="NAME|FILE",
    help="What makes LR from HR: a preset such as jpeg-75 or archive, or a TOML file of your own.",
)
@options.device_options("fp32")
@options.features_option
@options.json_option
@options.reported
def evaluate(
    model: str,
    hr_dirs: tuple[Place, ...],
    degradation: str,
    features: tuple[Path, ...],
    device: str,
    backend: str,
    precision: str,
    as_json: bool,
) -> None:
    """Measure a model by the published protocol.

    MODEL is a name, a file, or auto, which chooses for each picture. HR_DIR is a folder of HR
    pictures. LR is made by antialiased bicubic reduction, or by another --degradation. Every model
    gets the same LR. For a DATASET made by `upres prepare`, each LR version is scored on the
    patches of the test split (or else of the validation split).

    PSNR and SSIM are computed on the Y channel, without a border of `scale` pixels. The default
    precision is fp32, so that figures do not depend on the machine.
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
    # A checkpoint has the name of its recipe, as the shipped weights do.
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
