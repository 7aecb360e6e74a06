"""What every launcher shares: one line for a user's mistake, a status for the scheduler."""

import difflib
import importlib
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from logging import Formatter
from pathlib import Path

import jax
from absl import app, flags, logging
from etils import epath

from cdjax.errors import InputError
from cdjax.parallel.preemption import BETWEEN_TRAININGS, STOP, Preempted
from cdjax.run import lock
from cdjax.training.diagnostics import GradientError
from cdjax.wording import NBSP
from experiments import help_page
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
                raise InputError(_unexpected(argv[1 + words]))
            _import_plugins()
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
        except BrokenPipeError:  # as of `... | head`: whoever read has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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
            print(help_page.page())
            sys.exit(0)
        words = flags.FLAGS(_flagfiles_first(argv))
        _expand_home()
        return words
    except flags.Error as error:
        sys.exit(_refuse(error))
    except UnicodeDecodeError as error:
        sys.exit(_refuse(InputError(f'flagfile: {error}: name a text with a flag a line')))


def _flagfiles_first(argv: list[str]) -> list[str]:
    """Returns the words with flag files in front: of two values of a flag the later one holds."""
    program, *rest = argv
    files, others = [], []
    while rest and rest[0] != '--':
        word = rest.pop(0)
        is_file = word.lstrip('-').partition('=')[0] == 'flagfile' and word.startswith('-')
        (files if is_file else others).append(word)
        if is_file and '=' not in word:
            files += rest[:1]
            rest = rest[1:]
    return [program, *files, *others, *rest]


def _expand_home() -> None:
    """Replaces a leading ~ in values, which shells leave alone behind --name=."""
    for flag in (flags.FLAGS[name] for name in flags.FLAGS):
        if flag.present and isinstance(flag.value, str):
            flag.value = os.path.expanduser(flag.value)
        elif flag.present and isinstance(flag.value, list):
            flag.value = [os.path.expanduser(value) for value in flag.value]


def _refuse(error: InputError | flags.Error) -> int:
    text = _in_our_words(error) if isinstance(error, flags.Error) else str(error)
    print(f'error: {" ".join(text.splitlines())}', file=sys.stderr)
    return EXIT_INPUT


def _in_our_words(error: flags.Error) -> str:
    """Returns what is wrong with a flag, and what to do."""
    see = f'see python -m experiments.{Path(sys.argv[0]).stem} --help'
    if isinstance(error, flags.UnrecognizedFlagError):
        close = _like(error.flagname)
        remedy = f'did you mean --{" or --".join(close)}?' if close else see
        if 'recipe' in flags.FLAGS and any('flagfile' in word for word in sys.argv):
            remedy = 'a recipe of another launcher is given as --recipe=FILE'
        return f'there is no flag --{error.flagname}: {remedy}'
    text = str(error)
    if missing := re.findall(r'Flag (--\w+) must have a value other than None', text):
        return f'{" and ".join(missing)} must be given: {see}'
    text = re.sub(r'invalid literal for int.*', 'write an integer', text)
    text = re.sub(r'could not convert string to float.*', 'write a number', text)
    text = re.sub(r"\('Non-boolean argument.*\)", 'write true or false, or no value', text)
    return re.sub(r'ERROR:: Unable to open flagfile: \[.*?\] (.*): (.*)', r'flagfile=\2: \1', text)


def _like(name: str) -> list[str]:
    """Returns the flags that somebody may have meant: longer names of it first, then the alike."""
    names = [
        known
        for module, defined in flags.FLAGS.flags_by_module_dict().items()
        if not module.startswith('absl')
        for known in (flag.name for flag in defined)
    ]
    longer = [known for known in names if known.endswith(f'_{name}')]
    alike = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    return list(dict.fromkeys([*longer, *alike]))[:3]


def _unexpected(argument: str) -> str:
    """Returns what is wrong with an argument that is no flag."""
    name = argument.partition('=')[0]
    meant = f'did you mean --{argument}?' if name in flags.FLAGS else 'flags look like --name=value'
    return f'unexpected argument {argument!r}; {meant}'


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


def _stop(*_) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends the process at once
    STOP.set()
    raise Preempted(BETWEEN_TRAININGS)
