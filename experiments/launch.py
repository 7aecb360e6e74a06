"""What every launcher shares: one line for a user's mistake, a status for the scheduler."""

import importlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from logging import Formatter

import jax
from absl import app, flags, logging
from etils import epath

from cdjax.errors import InputError, renamed
from cdjax.parallel.preemption import BETWEEN_TRAININGS, STOP, Preempted
from cdjax.run import lock
from cdjax.training.diagnostics import GradientError
from cdjax.wording import NBSP
from experiments import command_line, help_page
from experiments.flags.discovery import OBJECTIVE_NAMES
from experiments.flags.groups import group

# 0 done, 1 the user's mistake, 75 stopped by a signal after saving (EX_TEMPFAIL of sysexits.h:
# start it again with the same command), 130 interrupted from the keyboard, 141 nobody reads stdout.
EXIT_INPUT, EXIT_PREEMPTED, EXIT_INTERRUPTED, EXIT_UNREAD = 1, 75, 130, 141
_EXHAUSTED = 'RESOURCE_EXHAUSTED'  # how XLA's words begin where memory is short


@group(help_page.COMMON)
def define_common_flags() -> None:
    """Defines the flags that every launcher has."""
    flags.DEFINE_list(
        'plugins',
        [],
        'Modules imported first, which add methods, arms, pairings, sites, tasks or studies of '
        'your own (docs/extending.md).',
    )


define_common_flags()


def say(text: str) -> None:
    """Prints a result, on process 0 alone."""
    if jax.process_index() == 0:
        print(text.replace(NBSP, ' '), flush=True)


def say_where(workdir: epath.PathLike) -> None:
    """Prints where everything is, the last line of a run: a folder, and what is in it."""
    if jax.process_index() > 0:
        return
    paths = sorted(epath.Path(workdir).iterdir(), key=lambda path: path.name)
    # Events of TensorBoard have names that nobody types.
    shown = [path for path in paths if not path.name.startswith(('.', 'events.'))]
    names = (f'{path.name}/' if path.is_dir() else path.name for path in shown)
    say(f'everything is in {workdir}: {", ".join(names)}')


def run(main: Callable[..., None], *, words: int = 0) -> None:
    """Parses the flags and runs `main`, turning an `InputError` into one line and status 1.

    A warning is one line too, without the place in the code that raised it. A SIGTERM that comes
    while nothing trains (a training listens itself) ends with status 75 as well.

    Args:
        main: what runs.
        words: how many arguments without a name it takes at most; it is called with them.
    """
    # Tokenizers alone are taken from transformers: that it finds no PyTorch is no news to anybody.
    os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
    warnings.showwarning = lambda message, *_: print(f'warning: {message}', file=sys.stderr)
    signal.signal(signal.SIGTERM, _stop)
    say_ignored = sys.unraisablehook
    sys.unraisablehook = lambda it: None if it.exc_type is Preempted else say_ignored(it)

    def guarded(argv: list[str]) -> int:
        logging.set_verbosity(logging.WARNING)
        logging.get_absl_handler().setFormatter(Formatter('warning: %(message)s'))
        try:
            if len(argv) > 1 + words:
                raise InputError(command_line.unexpected(argv[1 + words]))
            _import_plugins()
            with renamed(_fields_of_flags()):
                main(*argv[1:])
        except (InputError, flags.Error) as error:
            return _refuse(error)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if isinstance(error, jax.errors.JaxRuntimeError) and _EXHAUSTED not in str(error):
                raise
            return _refuse(InputError(_out_of_memory(error)))
        except GradientError as error:
            print(f'error: a term of the objective trains nothing\n{error}', file=sys.stderr)
            return EXIT_INPUT
        except Preempted as stopped:
            print(f'stopped: {stopped}; the same command continues', file=sys.stderr)
            return EXIT_PREEMPTED
        except BrokenPipeError:
            _print_to_nobody()
            return EXIT_UNREAD
        except KeyboardInterrupt:
            print(
                'interrupted; the same command continues from the last checkpoint', file=sys.stderr
            )
            return EXIT_INTERRUPTED
        finally:
            lock.let_go()
        return 0

    app.run(guarded, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    """Parses the flags, or prints the help; where one is wrong, says so and ends with status 1."""
    try:
        if any(word in help_page.HELP_WORDS for word in argv[1:]):
            try:
                print(help_page.page(), flush=True)
            except BrokenPipeError:
                _print_to_nobody()
            sys.exit(0)
        words = command_line.parse(command_line.flagfiles_first(argv))
        command_line.expand_home()
        return words
    except (InputError, flags.Error) as error:
        sys.exit(_refuse(error))


def _print_to_nobody() -> None:
    """Prints what is left to nowhere: who reads has seen enough, as of `... | head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse(error: InputError | flags.Error) -> int:
    text = command_line.in_our_words(error) if isinstance(error, flags.Error) else str(error)
    print(f'error: {" ".join(text.splitlines())}', file=sys.stderr)
    return EXIT_INPUT


def _out_of_memory(error: Exception) -> str:
    """Returns one line of what XLA or NumPy says where memory is short."""
    first = (str(error).strip().splitlines() or ['no memory'])[0]
    return (
        f'out of memory ({first[:200]}): choose a smaller batch, more microbatches or fewer '
        'tokens_per_pass; experiments.plan says what fits'
    )


def _import_plugins() -> None:
    for name in flags.FLAGS.plugins:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise InputError(
                f'plugins={name}: {error}; name modules as Python imports them, from the folder '
                'of the command or installed'
            ) from error
        except (ImportError, SyntaxError, TypeError) as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            raise InputError(
                f'plugins={name} cannot be imported: {error} ({where.filename}, line '
                f'{where.lineno})'
            ) from error


def _fields_of_flags() -> dict[str, str]:
    """Returns names that only messages know, of what is found out late: field → flag."""
    known = flags.FLAGS
    return {k: name for k, name in OBJECTIVE_NAMES.items() if name in known and k not in known}


def _stop(*_) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends the process at once
    STOP.set()
    raise Preempted(BETWEEN_TRAININGS)
