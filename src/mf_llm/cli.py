"""The command line ``mf-llm``: reads arguments, calls `mf_llm.commands`, turns errors into exit codes.

Exit codes: 0 done; 2 something the user gave is not usable (one line says what and where); 1 a fault of ours;
130 interrupted (what was finished is kept).
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated

import typer

from mf_llm.cli_measuring import compare, evaluate, forecast, report
from mf_llm.cli_scrubbing import scrub
from mf_llm.cli_simulating import intervene, simulate
from mf_llm.cli_texts import annotate, memory
from mf_llm.errors import InputError
from mf_llm.redaction import redacted

app = typer.Typer(
    help="Simulate how a population reacts to an event, and measure how far that is from what people did.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# typer carries its own copy of click or uses the installed one, depending on its version; this is the right class in
# both cases: BadParameter -> UsageError -> ClickException.
_ClickException = typer.BadParameter.__mro__[2]

_INTERRUPTED = 130
_HOW_TO_GO_ON = "interrupted; finished steps are kept; go on with --resume"

for _command in (simulate, evaluate, compare, forecast, intervene, report, annotate, memory, scrub):
    app.command()(_command)


def _version(value: bool) -> None:
    if value:
        from mf_llm import __version__

        typer.echo(f"mf-llm {__version__}")
        raise typer.Exit()


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of ``mf-llm``."""
    try:
        code = app(standalone_mode=False) or 0
        if code != _INTERRUPTED:
            sys.exit(code)
        _fail(_HOW_TO_GO_ON, _INTERRUPTED)
    except InputError as error:
        _fail(str(error), 2)
    except _ClickException as error:  # type: ignore[misc]
        error.message = redacted(error.message)
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort) as error:
        if isinstance(error.__cause__, EOFError):  # typer takes it for the end of what somebody types
            _fail(f"EOFError: {error.__cause__} (a fault of mf-llm)", 1)
        _fail(_HOW_TO_GO_ON, _INTERRUPTED)
    except ModuleNotFoundError as error:
        _fail(f"{error.name} is not installed; install the extra that needs it: pip install 'mf-llm[eval,plot]'", 1)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            _fail(f"{error}; no file can be called that; nothing was done; give another name", 2)
        _fail(f"{error}; what was written before is kept", 1)
    except Exception as error:
        if os.environ.get("MF_LLM_DEBUG"):
            raise
        _fail(f"{type(error).__name__}: {error} (a fault of mf-llm; MF_LLM_DEBUG=1 shows where)", 1)


def _fail(message: str, code: int) -> None:
    line = " ".join(redacted(message).split())
    print(f"mf-llm: {line}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
