"""`mmfeat serve`."""

from __future__ import annotations

import click
from mmfeat.cli.printing import echo_next
from mmfeat.cli.strict import Command

from mmfeat.config.schema import DEVICES, ENGINES
from mmfeat.serving.limits import Limits


@click.command(
    "serve",
    cls=Command,
    in_project=False,
    prints=False,
    free=("host", "allow_hosts", "allow_origins"),
    short_help="Answer HTTP requests with an exported model.",
)
@click.argument("folder", metavar="DIR")
@click.option(
    "--host",
    default="127.0.0.1",
    metavar="ADDRESS",
    help="The address to listen on. 0.0.0.0: all addresses of this machine. [default: 127.0.0.1]",
)
@click.option(
    "--port",
    default=8000,
    type=click.IntRange(0, 65535),
    metavar="N",
    help="The port to listen on. 0: a free one. [default: 8000]",
)
@click.option(
    "--allow-host",
    "allow_hosts",
    multiple=True,
    metavar="NAME",
    help="A further name to accept in the Host header, or *. Repeatable.",
)
@click.option(
    "--allow-origin",
    "allow_origins",
    multiple=True,
    metavar="ORIGIN",
    help="An origin whose pages may send requests, such as http://localhost:3000, or *. Repeatable.",
)
@click.option(
    "--engine",
    default="auto",
    metavar="VALUE",
    help=f"The library that executes encoders. auto: the fastest. One of: {', '.join(('auto', *ENGINES))}.",
)
@click.option(
    "--device", default="auto", metavar="VALUE", help=f"The device to compute on. One of: {', '.join(DEVICES)}."
)
@click.option(
    "--max-mb",
    default=Limits.megabytes,
    type=click.FloatRange(min=0, min_open=True),
    show_default=True,
    metavar="MB",
    help="Largest size of a request's body.",
)
@click.option(
    "--max-megapixels",
    default=Limits.megapixels,
    type=click.FloatRange(min=0, min_open=True),
    show_default=True,
    metavar="N",
    help="Largest size of an image.",
)
@click.option(
    "--max-waiting",
    default=Limits.waiting,
    type=click.IntRange(min=1),
    show_default=True,
    metavar="N",
    help="Maximum number of requests at a time. Further requests are asked to retry.",
)
@click.option("--verbose", is_flag=True, help="Log each request on stderr.")
def serve_command(
    folder: str,
    host: str,
    port: int,
    allow_hosts: tuple[str, ...],
    allow_origins: tuple[str, ...],
    engine: str,
    device: str,
    max_mb: float,
    max_megapixels: float,
    max_waiting: int,
    verbose: bool,
) -> None:
    """Answer POST /predict with the exported model in DIR. Ctrl-C ends it.

    Requires: pip install 'mmfeat[serve]'.
    """
    from mmfeat.common.text import counted, shown
    from mmfeat.workflows.serve import serve

    limits = Limits(megabytes=max_mb, megapixels=max_megapixels, waiting=max_waiting)
    answered = serve(
        folder,
        host=host,
        port=port,
        engine=engine,
        device=device,
        limits=limits,
        verbose=verbose,
        allow_hosts=allow_hosts,
        allow_origins=allow_origins,
    )
    echo_next(f"Stopped after {counted(answered, 'answer')}.", f"mmfeat serve {shown(folder, 200)}")
