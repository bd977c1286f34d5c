"""Training on the command line: train, and evaluate what came of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from flows.terminal import options
from flows.terminal.printing import visible


@click.command()
@click.argument("src", metavar="DATASET|SRC")
@click.option(
    "--recipe",
    metavar="NAME|FILE",
    help="What to train, and how.  [with --resume: as it was begun]",
)
@click.option(
    "--out", "out_dir", required=True, type=click.Path(path_type=Path), help="Where it is left."
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a value of the recipe."
)
@options.features_option
@click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]", help="To train on."
)
@click.option(
    "--readers",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Processes that read patches, where these do not fit into memory.",
)
@click.option(
    "--memory",
    type=click.Choice(["auto", "disk", "ram", "gpu"]),
    default="auto",
    show_default=True,
    help="Where patches are kept; auto is the fastest that they fit.",
)
@click.option("--resume", is_flag=True, help="Go on exactly where the training in DIR stopped.")
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

    DATASET is what `upres prepare` made; pictures (SRC) are prepared by the recipe first, into
    DIR/patches, and --set prepare.KEY=VALUE says how. Under torchrun several processes share one
    training.

    Leaves in --out: best.safetensors and last.safetensors (models that --model takes),
    checkpoints/, metrics.csv, curves.png, samples/, events/ for TensorBoard, recipe.toml as
    resolved, and state.safetensors for --resume.
    """
    from flows.train import TrainRequest, run_training, sheet

    request = TrainRequest(
        source=src, recipe=recipe, settings=settings, out_dir=out_dir, resume=resume
    )
    with options.interruptible() as stop:
        document, leads = run_training(
            request,
            features=features,
            device=device,
            workers=readers,
            memory=memory,
            stop=stop,
        )
    ended = document["steps"] == document["of_steps"]
    if leads and as_json:
        options.print_json(document)
    elif leads:
        click.echo(sheet(document))
    if leads and not ended:
        click.echo("upres: stopped; the same command with --resume goes on exactly there", err=True)
    sys.exit(options.DONE if ended else options.INTERRUPTED)


@click.command()
@click.argument("model", metavar="MODEL")
@click.argument(
    "hr_dirs", metavar="HR_DIR|DATASET...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@options.device_options("fp32")
@options.features_option
@options.json_option
@options.reported
def evaluate(
    model: str,
    hr_dirs: tuple[Path, ...],
    features: tuple[Path, ...],
    device: str,
    backend: str,
    precision: str,
    as_json: bool,
) -> None:
    """Measure a model by the published protocol.

    MODEL is a name or a file, HR_DIR a folder of HR pictures: LR is made by antialiased bicubic
    reduction. Of a DATASET that `upres prepare` made, each LR version is scored, on the patches
    held out for test (or validation).

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
    )
    if as_json:
        options.print_json(document)
        return
    name = document["model"]
    # A checkpoint bears the name of its recipe, as the shipped weights do.
    shown = visible(name if name.startswith(model) else f"{model} ({name})")
    click.echo(f"{shown}, x{document['scale']}, {document['precision']}, {document['backend']}")
    for found in document["sets"]:
        click.echo(_set_scores(found))


def _set_scores(found: dict[str, Any]) -> str:
    psnr = "infinite" if found["psnr_y"] is None else f"{found['psnr_y']:.3f} dB"
    words = [f"{visible(found['name']):16} {found['images']:>4} pictures", f"PSNR-Y {psnr}"]
    words.append(f"SSIM-Y {found['ssim_y']:.4f}")
    if found["lpips"] is not None:
        words.append(f"LPIPS {found['lpips']:.4f}")
    if found["equal"]:
        words.append(f"({found['equal']} equal to HR, left out of PSNR)")
    if found["left_out"]:
        words.append(f"({sum(found['left_out'].values())} files that are not pictures left out)")
    return "  ".join(words)
