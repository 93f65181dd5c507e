"""`blemish teachers`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blemish.cli.interruptions import when_interrupted
from blemish.cli.listings import Json, show
from blemish.cli.train import Device, Preset, parse_settings

Weights = Annotated[Path | None, typer.Option(help="Folder of weights. \\[default: BLEMISH_WEIGHTS]")]

teachers = typer.Typer(name="teachers", invoke_without_command=True)


@teachers.callback()
def list_teachers(context: typer.Context, weights: Weights = None, as_json: Json = False) -> None:
    """List the teachers and whether their weights are on this machine.

    Example: `blemish teachers --weights weights/`
    """
    if context.invoked_subcommand:
        return
    from blemish.teachers import list_teachers as known

    rows = [
        {
            "name": row.name,
            "here": row.path is not None,
            "source": row.source,
            "licence": row.licence,
            "note": row.note,
        }
        for row in known(weights)
    ]
    show(rows, as_json)
    if not as_json:
        typer.echo("Any timm model whose weights are in the weights folder or in timm's cache works too.", err=True)


@teachers.command()
@when_interrupted("The distillation goes on from its last saved state when the same command is given again")
def distill(
    images: Annotated[Path, typer.Option(help="Folder of images to learn on; thousands, of many things, are best.")],
    out: Annotated[Path, typer.Option(help="The file to write, NAME.safetensors.")],
    teacher: Annotated[str, typer.Option("--from", help="`blemish teachers` lists them; any timm name.")] = (
        "tf_efficientnet_lite0"
    ),
    size: Annotated[str, typer.Option(help="S or M, as EfficientAD's.")] = "S",
    preset: Annotated[Preset, typer.Option(help="Whose schedule; auto is fast without a GPU.")] = Preset.AUTO,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="steps, batch_size, ...; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same machine: the same file.")] = 0,
    device: Annotated[Device, typer.Option(help="Where to train.")] = Device.AUTO,
    weights: Weights = None,
) -> None:
    """Distil a patch description network from a teacher, for EfficientAD.

    Example: `blemish teachers distill --from wide_resnet101_2 --images imagenet/ --out pdn.safetensors`, then
    `blemish train parts/ --method efficientad --teacher wide_resnet101_2 --set pdn=pdn.safetensors --out part.blemish`

    A killed distillation goes on where it was when the same command is given again.
    """
    from blemish.console import console

    with console() as listener:
        listener.say("Starting torch.")
        from blemish.distilling import distil

        settings = {"size": size, **parse_settings(set_ or [])}
        distil(
            images,
            out,
            teacher=teacher,
            preset=preset.value,
            settings=settings,
            seed=seed,
            device=device.value,
            weights=weights,
            listener=listener,
        )
