"""A flag that may stand alone, and then means a path that the program knows."""

from absl import flags


class _OptionalPath(flags.ArgumentParser):
    """Reads `--name=PATH` as the path, `--name` as the empty one, and `--noname` as None."""

    syntactic_help = 'a path, or nothing'

    def parse(self, argument: str) -> str | None:
        """Returns the path; absl passes 'true' and 'false' where a flag stands alone."""
        return {'true': '', 'false': None}.get(argument, argument)

    def flag_type(self) -> str:
        """Returns what --help calls it."""
        return 'path'


def define_optional_path(name: str, what: str) -> None:
    """Defines a flag whose value is None, a path, or empty where it stands alone.

    Args:
        name: of the flag.
        what: its help.
    """
    parser, serializer = _OptionalPath(), flags.ArgumentSerializer()
    flags.DEFINE_flag(flags.Flag(parser, serializer, name, None, what, boolean=True))
