"""A table of named entries that users extend: methods, arms, pairings, sites, studies."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, TypeVar

from cdjax.errors import InputError
from cdjax.wording import choose_from


class Keyed(Protocol):
    """What a registry holds: anything with a key."""

    @property
    def key(self) -> str:
        """The name that flags and results know the entry by."""


Entry = TypeVar('Entry', bound=Keyed)


class Registry(Mapping[str, Entry]):
    """Entries by key, in the order in which they were added.

    A package adds its own in its `__init__`, one line each; a user's program adds more before it
    calls a study or a launcher's `main`.

    Args:
        kind: what an entry is, for messages: 'method', 'arm'.
    """

    def __init__(self, kind: str):
        self._kind = kind
        self._entries: dict[str, Entry] = {}

    def add(self, entry: Entry) -> Entry:
        """Adds an entry and returns it.

        Raises:
            ValueError: its key is taken.
        """
        if entry.key in self._entries:
            raise ValueError(f'there is a {self._kind} {entry.key!r} already')
        self._entries[entry.key] = entry
        return entry

    def remove(self, key: str) -> None:
        """Takes an entry out again, for a test or a notebook that has added it."""
        del self._entries[key]

    def __getitem__(self, key: str) -> Entry:
        """Returns an entry.

        Raises:
            InputError: there is none of this key; the message lists those there are.
        """
        return self.find(key, self._entries)

    def find(self, key: str, among: Iterable[str]) -> Entry:
        """Returns an entry, as `[]` does; where there is none the message lists `among` alone."""
        if key not in self._entries:
            raise InputError(f'there is no {self._kind} {key!r}: {choose_from(key, among)}')
        return self._entries[key]

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
