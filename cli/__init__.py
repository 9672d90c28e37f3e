"""The command line: one file for each command, without logic. Results go to stdout, progress and messages to stderr."""

from __future__ import annotations

import os
import sys
import warnings

import click
from mmfeat.cli.audit import audit_command
from mmfeat.cli.compare import compare_command
from mmfeat.cli.demo import demo_command
from mmfeat.cli.encoders import encoders_command
from mmfeat.cli.ensemble import ensemble_command
from mmfeat.cli.evaluate import evaluate_command
from mmfeat.cli.export import export_command
from mmfeat.cli.extract import extract_command
from mmfeat.cli.finetune import finetune_command
from mmfeat.cli.fuse import fuse_command
from mmfeat.cli.init import init_command
from mmfeat.cli.predict import predict_command
from mmfeat.cli.report import report_command
from mmfeat.cli.reproduce import reproduce_command
from mmfeat.cli.review import review_command
from mmfeat.cli.runs import runs_command
from mmfeat.cli.search import search_command
from mmfeat.cli.selftrain import selftrain_command
from mmfeat.cli.serve import serve_command
from mmfeat.cli.status import status_command
from mmfeat.cli.store import store_command
from mmfeat.cli.strict import refuse_repeated
from mmfeat.cli.sweep import sweep_command

from mmfeat import __version__
from mmfeat.common.errors import MmfeatError
from mmfeat.common.text import shown

LONGEST = 2000  # characters of a message
COMMANDS = (
    init_command,
    encoders_command,
    finetune_command,
    extract_command,
    status_command,
    fuse_command,
    sweep_command,
    ensemble_command,
    selftrain_command,
    audit_command,
    review_command,
    predict_command,
    evaluate_command,
    compare_command,
    runs_command,
    report_command,
    search_command,
    export_command,
    serve_command,
    store_command,
    reproduce_command,
    demo_command,
)


class _InOrder(click.Group):
    """Lists the commands in the order of their use."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read `--project`, once and not empty."""
        words = list(args)
        rest = super().parse_args(ctx, args)
        refuse_repeated(ctx, words)
        if not ctx.params.get("folder", "."):
            raise click.UsageError("--project is empty: leave it out, or give a folder", ctx)
        return rest

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [command.name for command in COMMANDS]


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--project", "folder", default=".", metavar="DIR", help="The project's folder. [default: the current folder]"
)
@click.version_option(__version__, prog_name="mmfeat")
@click.pass_context
def group(context: click.Context, folder: str) -> None:
    """Multi-label classification of images with captions.

    mmfeat encodes each image and caption once and keeps the features in a store. Heads train on cached features in
    seconds. To see it work: mmfeat demo. With your own data: mmfeat init SOURCE.
    """
    context.obj = folder


for _command in COMMANDS:
    group.add_command(_command)


def main() -> None:
    """Run the command line. A mistake is one line on stderr and exit 1; a usage error exit 2; an interruption exit 130.

    A command that returns an exit code ends with it, as `mmfeat audit --fail-on` does.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # those of libraries are for developers; users get mmfeat's messages
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads leave the cores to decoding
    try:
        code = group.main(standalone_mode=False)
        sys.stdout.flush()
        if code:
            sys.exit(code)
    except click.Abort:
        _stop("Interrupted. Finished work is kept. To continue, type the command again.", 130)
    except KeyboardInterrupt:
        _stop("Interrupted. Finished work is kept. To continue, type the command again.", 130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except MmfeatError as error:
        _stop(f"Error: {shown(' '.join(str(error).split()), LONGEST)}", 1)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate memory" not in str(
            error
        ):  # torch's allocator has no own type
            raise
        _stop(f"Error: out of memory{_detail(error)}. Use fewer rows or smaller batches, or a machine with more", 1)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of the output has ended
        sys.exit(1)
    except OSError as error:
        _stop(f"Error: {_file_of(error)}: {error.strerror or ' '.join(str(error).split())}", 1)


def _file_of(error: OSError) -> str:
    """The file of an error. If it has none: the last file that was read or written."""
    if error.filename is not None:
        return shown(str(error.filename), LONGEST)
    found, trace = "standard output", error.__traceback__
    while trace is not None:
        for name in ("self", "path", "file"):
            value = trace.tb_frame.f_locals.get(name)
            if isinstance(value, os.PathLike):
                found = shown(os.fspath(value), LONGEST)
        trace = trace.tb_next
    return found


def _detail(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f" ({shown(text, 200)})" if text else ""


def _stop(message: str, code: int) -> None:
    click.echo(message, err=True)
    sys.exit(code)
