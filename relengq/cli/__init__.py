# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: ``relengq VERB …``.

A verb's module is imported when the verb is called, so that help and completion are quick. Whatever goes wrong ends
here: a fault of the user's or of the surroundings gives one line on standard error and the exit code of its class in
``relengq.errors``; anything else is a bug, whose traceback goes to a file.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import click

from relengq import __version__
from relengq.cli.options import Options, one_line
from relengq.cli.verbs import LazyGroup
from relengq.errors import RelengqError, UsageFault

BUG = 70
INTERRUPTED = 130
_EPILOG = """\
\b
Exit codes: 0 done; 1 the run, check or doctor that was asked about failed; 2 the
call, an input or a file of the site is wrong; 3 not found; 4 refused; 5 database,
broker or disk is away; 70 a bug in relengq; 130 interrupted.

\b
Begin with:  relengq init mysite && cd mysite && relengq up
"""


@click.group(cls=LazyGroup, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--site",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="The site's directory. Default: $RELENGQ_SITE, else the working directory.",
)
@click.option("-v", "--verbose", count=True, help="Show what relengq does, on standard error; -vv: all of it.")
@click.version_option(__version__, message="relengq %(version)s")
@click.pass_context
def relengq(context: click.Context, site: Path | None, verbose: int) -> None:
    """Durable, observable workflows of Ansible playbooks for release engineering.

    A site is a directory with playbooks/, workers/ and beat/. Its workflows, in
    playbooks/workflows/, become runs; runs are played step by step by workers.
    """
    if site is not None:
        # Celery's application and every child process read the same variable.
        os.environ["RELENGQ_SITE"] = str(site.resolve())
    if isinstance(context.obj, Options):
        context.obj.verbose = verbose


def main(argv: Sequence[str] | None = None, setup: object | None = None) -> int:
    """Run one command; returns its exit code and raises nothing.

    ``setup`` is for tests: a ``relengq.cli.setup.Setup`` with an installation of their own.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = Options()
    _prepare_streams()
    try:
        _require_text(arguments)
        result = relengq.main(arguments, prog_name="relengq", standalone_mode=False, obj=setup or options)
        sys.stdout.flush()
    except BrokenPipeError:
        _hush()
        return 0
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted")
        return INTERRUPTED
    except click.ClickException as error:
        return _misused(error)
    except RelengqError as error:
        _say(str(error))
        return error.exit_code
    except OSError as error:
        _say(f"{error}.")
        return 5
    except Exception as error:
        return _bug(error, options)
    return result if isinstance(result, int) else 0


def _require_text(arguments: Sequence[str]) -> None:
    """Raise UsageFault for bytes that are no text: neither the database nor JSON could keep them."""
    for number, argument in enumerate(arguments, 1):
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise UsageFault(f"argument {number} is not UTF-8.") from None


def _prepare_streams() -> None:
    """Let no character that a terminal's encoding lacks, and no stream that the caller has closed, stop a verb."""
    if sys.stdout is None or sys.stderr is None:
        nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 -- it stays for the process's life
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _misused(error: click.ClickException) -> int:
    """What click finds wrong with a call, and where its help is; a group that was called alone shows its help."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return 2
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context is not None else "relengq"
    message = error.format_message()
    _say(f"{message}{'' if message.endswith(('.', '?')) else '.'} See '{path} --help'.")
    return 2


def _bug(error: Exception, options: Options) -> int:
    text = "".join(traceback.format_exception(error))
    if options.verbose:
        sys.stderr.write(text)
    try:
        place = f"; the traceback is in {_keep(text)}"
    except OSError:
        place = "; call it again with -v for the traceback"
    _say(f"a bug in relengq: {type(error).__name__}: {error}{place}")
    return BUG


def _keep(text: str) -> Path:
    """Write a traceback where the site keeps its state, else among the temporary files; returns the file."""
    site = Path(os.environ.get("RELENGQ_SITE") or ".")
    state = site / os.environ.get("RELENGQ_STATE_DIR", ".relengq")
    directory = state if state.is_dir() and os.access(state, os.W_OK) else Path(tempfile.gettempdir())
    prefix = f"relengq-crash-{datetime.now(UTC):%Y%m%d-%H%M%S}-"
    descriptor, name = tempfile.mkstemp(prefix=prefix, suffix=".txt", dir=directory)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return Path(name)


def _say(message: str) -> None:
    with suppress(OSError):  # nobody reads standard error either
        sys.stderr.write(f"relengq: {one_line(message)}\n")


def _hush() -> None:
    """The reader of standard output has gone (``relengq runs | head``): nothing is left to be flushed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
