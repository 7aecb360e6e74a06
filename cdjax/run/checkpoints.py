"""Checkpoints: everything of a run, asynchronous, atomic, and verified when read.

A thin wrapper of Orbax. What it adds, because Orbax loads a flipped bit without a word:

- A checksum of every leaf, computed on the devices before the arrays are written and again
  after they have been read, and one of the JSON beside them. A checkpoint that fails is named
  in a warning and set aside (`damaged-N`), and the one before it is used.
- Leaves go by name (`params.layers.mlp.down.weight`), so that a checkpoint of another recipe is
  refused with the name of the first leaf that differs, and parameters alone can be read.
"""

import json
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from cdjax.errors import InputError
from cdjax.run.checksums import checksums
from cdjax.run.folder import absolute
from cdjax.run.options import KEPT
from cdjax.run.stored_leaves import (
    as_stored,
    describe,
    is_same,
    leaves_by_name,
    named_arrays,
    rekey,
)

_STATE, _PROGRESS = 'state', 'progress'


class _Damaged(Exception):
    """A checkpoint does not hold what was saved."""


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """Returns False: the training loop asks the preemption service itself.

        The service wants a counter that only grows, over all loops of a process; Orbax would
        feed it the step of this one, and a notice could then point to a moment that never comes.
        """
        del step
        return False


class Checkpoints:
    """The checkpoints in one folder; a context manager that waits for the last save.

    Every method is to be called by all processes alike.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        *,
        every: int = 1,
        keep: int = KEPT,
        best: tuple[str, str] | None = None,
        read_only: bool = False,
    ):
        """Opens a folder of checkpoints, and makes it if need be.

        Args:
            directory: where the checkpoints are, local or `gs://`.
            every: `save` saves at multiples of this step.
            keep: how many of the newest to keep; 2 or more, to have one to fall back to.
            best: (metric, 'max' or 'min'): also keep the best one by this metric of `save`.
            read_only: change nothing in the folder; for reading while another process trains.
        """
        assert every >= 1, every
        assert keep >= 1, keep
        assert best is None or best[1] in ('max', 'min'), best
        self._every = every
        self._best = best
        self._read_only = read_only
        self.directory = absolute(directory)  # Orbax refuses relative paths, at the first save
        keepers = [policies.LatestN(keep)]
        if best is not None:
            keepers.append(
                policies.BestN(
                    get_metric_fn=lambda metrics: metrics[best[0]],
                    reverse=best[1] == 'min',
                    n=1,
                )
            )
        options = ocp.CheckpointManagerOptions(
            # save_interval_steps is 0 in a read-only manager; Orbax would say so in a warning.
            save_interval_steps=0 if read_only else 1,
            create=not read_only,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            best_fn=None if best is None else lambda metrics: metrics[best[0]],
            best_mode='max' if best is None else best[1],
            preservation_policy=policies.AnyPreservationPolicy(keepers),
        )
        self._manager = None
        if not read_only:
            self._manager = _Manager(self.directory, options=options)
        elif self.directory.exists():
            verbosity = logging.get_verbosity()
            logging.set_verbosity(logging.ERROR)  # Orbax warns of what was asked for
            try:
                self._manager = _Manager(self.directory, options=options)
            finally:
                logging.set_verbosity(verbosity)

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Waits for a save in progress and lets go of the folder."""
        if self._manager is not None:
            self._manager.close()

    def wait(self) -> None:
        """Waits until the last save is on disk."""
        self._manager.wait_until_finished()

    def steps(self) -> list[int]:
        """Returns the steps that are there, oldest first (not yet verified)."""
        return [] if self._manager is None else sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """Returns the newest step (not yet verified), None if there is none."""
        return None if self._manager is None else self._manager.latest_step()

    def best_step(self) -> int | None:
        """Returns the step that is best by the metric of `best`, None if there is none."""
        assert self._best is not None, 'Checkpoints(best=...) was not given'
        step = None if self._manager is None else self._manager.best_step()
        if step is None or not math.isfinite(self._manager.metrics(step)[self._best[0]]):
            return None
        return step

    def save(
        self,
        step: int,
        state: Any,
        progress: dict[str, Any],
        *,
        metrics: Mapping[str, float] | None = None,
        force: bool = False,
    ) -> bool:
        """Saves a state if its step is due; writes in the background.

        Returns as soon as the arrays have been copied to the host: the caller may donate them.

        Args:
            step: the number of steps done; a step that is saved already is skipped.
            state: any pytree of arrays (sharded ones stay so; random keys may be typed).
            progress: whatever else the run needs to continue; must survive JSON.
            metrics: what `best` looks at.
            force: save although the step is not a multiple of `every`.

        Returns:
            Whether it was saved.
        """
        if not force and step % self._every:
            return False
        latest = self.latest_step()
        if latest is not None and latest >= step:
            return False
        arrays = named_arrays(state)
        sums = checksums(arrays)
        body = {
            'step': step,
            'leaves': {
                name: {'shape': list(x.shape), 'dtype': str(x.dtype), 'checksum': sums[name]}
                for name, x in arrays.items()
            },
            'progress': json.loads(json.dumps(progress)),  # a copy: the caller goes on
        }
        return self._manager.save(
            step,
            args=ocp.args.Composite(
                **{
                    _STATE: ocp.args.StandardSave(arrays),
                    _PROGRESS: ocp.args.JsonSave({'body': body, 'crc32': _crc(body)}),
                }
            ),
            metrics=self._ranked(metrics),
            force=True,
        )

    def _ranked(self, metrics: Mapping[str, float] | None) -> dict[str, float] | None:
        """Returns what ranks a checkpoint: one that was not evaluated is worse than all others."""
        if self._best is None:
            return None
        name, mode = self._best
        return {name: -math.inf if mode == 'max' else math.inf} | dict(metrics or {})

    def restore(self, abstract_state: Any) -> tuple[Any, dict[str, Any]] | None:
        """Reads the newest intact checkpoint onto the shardings of `abstract_state`.

        Damaged ones are named in a warning and, unless this is read-only, renamed to
        `damaged-N`; then the one before is tried.

        Args:
            abstract_state: a pytree of arrays or ShapeDtypeStructs with the shapes, dtypes and
                shardings wanted; the mesh need not be the one that saved.

        Returns:
            (state, progress) as saved; None if there is no (intact) checkpoint.

        Raises:
            InputError: the checkpoint has other leaves: it belongs to another recipe.
        """
        wanted = {n: as_stored(x) for n, x in leaves_by_name(abstract_state).items()}

        def agree(leaves: dict[str, Any]) -> None:
            for name in [*wanted, *leaves]:
                saved = leaves.get(name)
                want = wanted.get(name)
                if saved is None or want is None or not is_same(saved, want):
                    raise InputError(
                        f'the checkpoint in {self.directory} is of another recipe: {name} is '
                        f'{describe(saved)} there and {describe(want)} here; give the '
                        'settings it was made with, or name another --workdir'
                    )

        found = self._newest_intact(wanted, agree)
        if found is None:
            return None
        arrays, body = found
        treedef = jax.tree.structure(abstract_state)
        leaves = [
            rekey(arrays[name], like) for name, like in leaves_by_name(abstract_state).items()
        ]
        return treedef.unflatten(leaves), body['progress']

    def restore_parameters(
        self, abstract_params: Any, prefix: str = 'params', *, step: int | None = None
    ) -> Any:
        """Reads the parameters alone, for export and evaluation: no optimizer, less memory.

        Args:
            abstract_params: a pytree of arrays or ShapeDtypeStructs, with shardings.
            prefix: where the parameters are in the saved state.
            step: the checkpoint to read; the newest intact one if None.

        Returns:
            The parameters.

        Raises:
            InputError: no intact checkpoint, or one of other parameters.
        """
        wanted = {f'{prefix}.{n}': as_stored(x) for n, x in leaves_by_name(abstract_params).items()}

        def agree(leaves: dict[str, Any]) -> None:
            for name, want in wanted.items():
                if not is_same(leaves.get(name), want):
                    raise InputError(
                        f'the checkpoint in {self.directory} holds other parameters: {name} is '
                        f'{describe(leaves.get(name))} there and {describe(want)} here'
                    )

        found = self._newest_intact(wanted, agree, step)
        if found is None:
            which = 'an intact checkpoint' if step is None else f'an intact checkpoint {step}'
            raise InputError(f'{self.directory} does not hold {which}: train first')
        return jax.tree.structure(abstract_params).unflatten(found[0].values())

    def _newest_intact(
        self,
        wanted: dict[str, jax.ShapeDtypeStruct],
        agree: Callable[[dict[str, Any]], None],
        step: int | None = None,
    ) -> tuple[dict[str, jax.Array], dict[str, Any]] | None:
        if self._manager is None:
            return None
        for candidate in self.steps()[::-1] if step is None else [step]:
            try:
                return self._read(candidate, wanted, agree)
            except _Damaged as damage:
                where = self.directory / str(candidate)
                aside = where if self._read_only else self._set_aside(candidate)
                logging.warning(
                    'The checkpoint of step %d is damaged (%s); it is now %s, and the one '
                    'before it is tried.', candidate, damage, aside,
                )  # fmt: skip
        return None

    def _read(self, step, wanted, agree) -> tuple[dict[str, jax.Array], dict[str, Any]]:
        """Reads and verifies one checkpoint; all processes succeed, or all raise _Damaged."""
        folder = self.directory / str(step)
        # The handlers rather than the manager: it has a barrier after reading, where the other
        # processes would wait for one that met the damage.
        body = _together(lambda: _read_progress(folder))
        agree(body['leaves'])
        arrays = _together(lambda: _read_arrays(folder / _STATE, wanted))
        # A collective, thus after the processes have agreed that all could read.
        wrong = [
            name
            for name, found in checksums({name: arrays[name] for name in wanted}).items()
            if found != body['leaves'][name]['checksum']
        ]
        if wrong:
            raise _Damaged(f'wrong checksum of {", ".join(wrong)}')
        return {name: arrays[name] for name in wanted}, body

    def _set_aside(self, step: int) -> epath.Path:
        aside = self.directory / f'damaged-{step}'
        if jax.process_index() == 0:
            if aside.exists():
                aside.rmtree()
            (self.directory / str(step)).rename(aside)
        _barrier(f'cdjax set aside {step}')
        self._manager.reload()
        return aside


def _crc(body: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())


def _read_progress(folder: epath.Path) -> dict[str, Any]:
    saved = ocp.JsonCheckpointHandler().restore(folder / _PROGRESS, ocp.args.JsonRestore())
    body = saved['body']
    if _crc(body) != saved['crc32']:
        raise ValueError('wrong checksum of the progress file')
    return body


def _read_arrays(
    folder: epath.Path, wanted: dict[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    return ocp.PyTreeCheckpointHandler().restore(
        folder,
        args=ocp.args.PyTreeRestore(
            item=wanted,
            restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
            partial_restore=True,
        ),
    )


def _together(read: Callable[[], Any]) -> Any:
    """Runs `read` on every process; if it fails on one, all raise _Damaged."""
    result, damage = None, None
    try:
        result = read()
    except (MemoryError, PermissionError, InputError):
        raise  # nothing is wrong with the checkpoint
    except Exception as error:
        while error.__cause__ is not None:  # Orbax wraps what TensorStore says
            error = error.__cause__
        first = (str(error).strip().splitlines() or [''])[0]
        damage = f'{type(error).__name__}: {first[:200]}'
    if jax.process_count() > 1:
        failed = multihost_utils.process_allgather(np.asarray(damage is not None))
        if damage is None and failed.any():
            damage = f'process {int(np.argmax(failed))} could not read it'
    if damage is not None:
        raise _Damaged(damage)
    return result


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
