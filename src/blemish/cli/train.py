"""`blemish train`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from blemish.cli.interruptions import when_interrupted
from blemish.errors import UsageError


class Preset(StrEnum):
    """Whose schedule."""

    AUTO = "auto"
    FAST = "fast"
    PAPER = "paper"


class Device(StrEnum):
    """Where to train."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Depth(StrEnum):
    """What the image files hold."""

    UINT8 = "uint8"
    UINT16 = "uint16"
    FLOAT32 = "float32"


@when_interrupted(
    "No model file was written. The training goes on from its last saved state when the same command is given again"
)
def train(
    source: Annotated[Path, typer.Argument(help="Folder or csv file with images of good parts.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The model file to write, NAME.blemish.")],
    method: Annotated[
        str | None,
        typer.Option(help="`blemish methods` lists them; auto lets the images choose. \\[default: rd]"),
    ] = None,
    contaminated: Annotated[
        bool | None,
        typer.Option("--contaminated", help="Bad parts are among the images; means --method auto."),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="`blemish teachers` lists them; any timm name. \\[default: tf_efficientnet_lite0]"),
    ] = None,
    layout: Annotated[str | None, typer.Option(help="`blemish layouts` lists them. \\[default: auto]")] = None,
    preset: Annotated[Preset | None, typer.Option(help="Whose schedule; auto is fast without a GPU.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A hyper-parameter of the method; repeatable."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file with these options by name, and `set:` with hyper-parameters.")
    ] = None,
    false_alarm_rate: Annotated[
        float | None,
        typer.Option(help="Share of good parts that may be called NG. \\[default: 0.01 or the smallest reachable]"),
    ] = None,
    review_rate: Annotated[
        float | None,
        typer.Option(help="Share of good parts that may be NG or REVIEW. \\[default: 0.05 or twice the above]"),
    ] = None,
    hold_out: Annotated[
        float | None, typer.Option(help="Share of the images that calibrate instead of training. \\[default: 0.2]")
    ] = None,
    folds: Annotated[
        int | None, typer.Option(help="Calibrate by cross-conformal folds and train on all; cheap methods only.")
    ] = None,
    depth: Annotated[Depth | None, typer.Option(help="What the image files hold. \\[default: uint8]")] = None,
    range_: Annotated[
        tuple[float, float] | None,
        typer.Option("--range", metavar="LOW HIGH", help="Range of pixel values that maps onto [0, 1]."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same machine: the same file. \\[default: 0]")] = None,
    device: Annotated[Device | None, typer.Option(help="Where to train. \\[default: auto]")] = None,
    devices: Annotated[
        int | None, typer.Option(help="GPUs that share the training, or processes on the CPU. \\[default: 1]")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Folder of teachers' weights. \\[default: BLEMISH_WEIGHTS]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the model file's summary as JSON.")] = False,
) -> None:
    """Learn what good parts look like and write one model file.

    Example: `blemish train photos/good_bottles --out bottle.blemish --false-alarm-rate 0.01`

    A killed training goes on where it was when the same command is given again.
    """
    given: dict[str, Any] = {
        "method": method,
        "contaminated": contaminated,
        "teacher": teacher,
        "layout": layout,
        "preset": preset,
        "false_alarm_rate": false_alarm_rate,
        "review_rate": review_rate,
        "hold_out": hold_out,
        "folds": folds,
        "depth": depth,
        "value_range": range_,
        "seed": seed,
        "device": device,
        "devices": devices,
        "weights": weights,
    }
    options = read_config(config, given) if config else {}
    settings = {**options.pop("settings", {}), **parse_settings(set_ or [])}
    options |= {
        name: value.value if isinstance(value, StrEnum) else value for name, value in given.items() if value is not None
    }
    if options.get("contaminated"):
        options.setdefault("method", "auto")

    from blemish.cli.info import print_summary
    from blemish.console import console

    with console() as listener:
        listener.say("Starting torch.")
        from blemish import assembly

        detector = assembly.train(source, out, settings=settings, listener=listener, **options)
        path = assembly.model_path(out)
    if detector.manifest is None:
        raise AssertionError("a trained detector has a manifest")
    if as_json:
        print_summary(path, detector.manifest, as_json=True)
    else:
        typer.echo(f"{path}\nNext: blemish inspect {path} IMAGE ... --heatmaps out/", err=True)


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """`["steps=300", "sigma=2.5"]` -> values by name; a value is read as JSON where it is JSON, else as text."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"'{pair}' is not of the form KEY=VALUE", where="--set")
        try:
            settings[name.strip()] = json.loads(text)
        except ValueError:
            settings[name.strip()] = text
    return settings


def read_config(path: Path, given: dict[str, Any]) -> dict[str, Any]:
    """The options of a YAML file.

    Raises
    ------
    UsageError
        If the file is not there, is not a mapping, or names an option that does not exist or cannot have this value.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"it cannot be read: {error.strerror}", where=path) from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"it cannot be read as YAML: {error}", where=path) from error
    if not isinstance(content, dict):
        raise UsageError("it is not a mapping of options", where=path)
    names = {"range" if name == "value_range" else name: name for name in given} | {"set": "settings"}
    options: dict[str, Any] = {}
    for name, value in content.items():
        known = names.get(str(name).replace("-", "_"))
        if known is None:
            raise UsageError(f"there is no option '{name}'", where=path, todo=f"Options are {', '.join(names)}")
        if wanted := unlike(known, value):
            raise UsageError(f"`{name}` is not {wanted}", where=path)
        options[known] = value
    return options


TEXTS = {"method", "teacher", "layout", "weights"}
WHOLE = {"folds", "seed", "devices"}
CHOICES: dict[str, type[StrEnum]] = {"preset": Preset, "depth": Depth, "device": Device}


def unlike(option: str, value: object) -> str:
    """What the value of an option in a file should be and is not, in words; nothing if it is."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if option == "settings":
        fits, wanted = isinstance(value, dict), "a mapping of hyper-parameters"
    elif option == "contaminated":
        fits, wanted = isinstance(value, bool), "true or false"
    elif option in TEXTS:
        fits, wanted = isinstance(value, str), "a text"
    elif option in WHOLE:
        fits, wanted = number and isinstance(value, int), "a whole number"
    elif option in CHOICES:
        names = [str(choice) for choice in CHOICES[option]]
        fits, wanted = value in names, f"one of {', '.join(names)}"
    elif option == "value_range":
        fits = isinstance(value, list) and len(value) == 2 and not any(unlike("", one) for one in value)
        wanted = "two numbers, [LOW, HIGH]"
    else:
        fits, wanted = number, "a number"
    return "" if fits else wanted
