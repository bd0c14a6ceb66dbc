"""The commands of VQ: a saved split transformer in use."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.deploy.commands import HOME, Folder

vq_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="""A split transformer that a run saved: codes of a text cross the network (docs/vq.md).

    Example: [bold]python -m experiments run text --scale smoke --set save=true[/bold]""",
)
File = Annotated[Path, typer.Option(help="File in `final-models` of a run of workload vq, the same on both machines.")]


@vq_app.command()
def cloud(
    model: File,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Address at which devices reach it.")
    ] = "0.0.0.0:7071",
    folder: Folder = HOME,
) -> None:
    """Serve the cloud half of a model to the devices that are registered here, over TLS.

    Example: [bold]python -m experiments vq cloud --model final-models/fedavg-default-seed1.safetensors[/bold]

    Before: [bold]deploy certificates lab.local; deploy register pi0.pub --serving[/bold]
    """
    from experiments.serving.vq import run_cloud

    run_cloud(model, listen, folder)


@vq_app.command()
def device(
    model: File,
    cloud: Annotated[str, typer.Option(metavar="HOST:PORT", help="Address of `vq cloud`.")],
    key: Annotated[str, typer.Option(help="Name of this device's key; by default the only one in FOLDER/keys.")] = "",
    folder: Folder = HOME,
) -> None:
    """Classify each line of input: the device half runs here, and codes go to the cloud half.

    Example: [bold]python -m experiments vq device --model fedavg.safetensors --cloud lab.local:7071[/bold]
    """
    from experiments.serving.vq import run_device

    run_device(model, cloud, key, folder)
