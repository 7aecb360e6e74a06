"""Says before a weight is loaded whether a job fits a machine, and how it does best."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cdjax.errors import InputError
from cdjax.models.parameters import abstract_model
from cdjax.planning.compiling import USABLE, Footprint, compile_for
from cdjax.planning.fitting import MeshShape, candidate_meshes, largest_batch
from cdjax.planning.job import Job
from cdjax.planning.targets import GIB, Chip, Target

# Meshes that are compiled before a plan says that nothing fits.
MESHES_TRIED = 3

# What Python, JAX and a compiled program take of a host beside arrays, measured at 1.1 GiB.
HOST_BASE = 1.2 * GIB


@dataclasses.dataclass(frozen=True)
class Plan:
    """A job on a machine.

    Attributes:
        job: what was planned.
        target: the machine.
        chip: one device of it.
        mesh: the recommended mesh, or the one that was asked for.
        footprints: the programs of the job, compiled for it; the training step is the last.
        largest_batch: rows of the largest training step that fits, confirmed by compilation; 0
            where none fits, None where it was not asked for.
        alternative: a mesh that is faster by formula than the one that was asked for.
    """

    job: Job
    target: Target
    chip: Chip
    mesh: MeshShape
    footprints: tuple[Footprint, ...]
    largest_batch: int | None
    alternative: MeshShape | None

    @property
    def fits(self) -> bool:
        """Whether every program takes at most `USABLE` of a device's memory."""
        return max(f.total for f in self.footprints) <= USABLE * self.chip.memory

    @property
    def loading_bytes(self) -> float:
        """Host memory of a process while it loads the models: one slice at a time, twice."""
        models = [
            abstract_model(config, jnp.dtype(dtype)) for config, dtype in self.job.models.values()
        ]
        # As stored and as converted. Norms are replicated, matrices lie in slices.
        slices = [x.size * x.dtype.itemsize for x in jax.tree.leaves(models)]
        return HOST_BASE + 2 * max(slices) / self.target.num_devices

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as a dict that JSON can hold."""
        seconds = [f.work.seconds(self.chip, self.target.num_devices) for f in self.footprints]
        return {
            'target': self.target.name,
            'devices': self.target.num_devices,
            'device_kind': self.chip.kind,
            'memory': self.chip.memory,
            'usable': USABLE,
            'mesh': dataclasses.asdict(self.mesh),
            'alternative': self.alternative and dataclasses.asdict(self.alternative),
            'fits': self.fits,
            'largest_batch': self.largest_batch,
            'loading_bytes': self.loading_bytes,
            'store_bytes': self.job.store_bytes,
            'job': dataclasses.asdict(self.job),
            'programs': [
                {**dataclasses.asdict(f), 'total': f.total, 'seconds': s}
                for f, s in zip(self.footprints, seconds, strict=True)
            ],
        }


def plan_job(
    job: Job,
    target: Target,
    *,
    mesh: MeshShape | None = None,
    find_largest_batch: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Compiles a job for a machine, and searches mesh and batch.

    Args:
        job: the job.
        target: the machine.
        mesh: the mesh; where None, the fastest by formula that the compiler confirms to fit.
        find_largest_batch: also search the largest batch, with a few more compilations.
        say: is told in one line what is being compiled.

    Raises:
        InputError: the compiler is absent, or neither batch nor mesh divide the devices.
    """
    limit_of, config = lambda chip: USABLE * chip.memory, job.config

    def compiled(mesh: MeshShape, rows: int) -> tuple[tuple[Footprint, ...], Chip]:
        say(f'compiling for {target.name}: fsdp={mesh.fsdp} tensor={mesh.tensor}, batch {rows}')
        footprints, chip = compile_for(target, mesh, job.with_batch(rows))
        return tuple(footprints), chip

    candidates = candidate_meshes(
        target.num_devices,
        lambda mesh: least_seconds(job, target, mesh),
        config.batch_size // config.microbatches,
        min(shape.num_kv_heads for shape, _ in job.models.values()),
    )
    tried = candidates[:MESHES_TRIED] if mesh is None else [mesh]
    if not tried:
        raise InputError(
            f'batch_size={config.batch_size} divides over no mesh of {target.num_devices} devices: '
            f'choose a multiple of {target.num_devices * config.microbatches}'
        )
    for chosen in tried:
        footprints, chip = compiled(chosen, config.batch_size)
        if max(f.total for f in footprints) <= limit_of(chip):
            break

    largest = None
    *passes, step = footprints
    if find_largest_batch and any(f.total > limit_of(chip) for f in passes):
        largest = 0  # no batch of a training changes what fills its store
    elif find_largest_batch:

        def needed(rows: int) -> float:
            if rows == config.batch_size:
                return step.total
            return compiled(chosen, rows)[0][-1].total

        most = max(job.num_problems, config.batch_size)
        multiple = chosen.fsdp * config.microbatches
        largest = largest_batch(
            needed,
            limit_of(chip),
            first=config.batch_size,
            multiple=multiple,
            most=most,
            least=job.least_batch,
        )
    faster = candidates[0] if mesh is not None and candidates and candidates[0] != mesh else None
    return Plan(job, target, chip, chosen, footprints, largest, faster)


def least_seconds(job: Job, target: Target, mesh: MeshShape) -> float:
    """Returns the least time of one call of each program on a mesh, by formula.

    Where two meshes are equal in what takes longest, the rest decides.
    """
    if target.platform == 'cpu':
        return float(mesh.tensor)  # the devices of one CPU are one
    first, *others = job.works(mesh.fsdp, mesh.tensor)
    work = sum(others, start=first)
    seconds = work.seconds(target.chip, target.num_devices).values()
    return max(seconds) + 0.01 * sum(seconds)


def describe(plan: Plan) -> str:
    """Returns a plan as lines of text for a terminal."""
    job, chip, footprints = plan.job, plan.chip, plan.footprints
    config = job.config
    usable = USABLE * chip.memory
    parts = f' in {config.microbatches} microbatches' if config.microbatches > 1 else ''
    lines = [
        f'{plan.target.name}: {plan.target.num_devices} x {chip.kind}, {chip.memory / GIB:.2f} GiB '
        f'each, of which {usable / GIB:.2f} may be used',
        f'batch {config.batch_size} x {job.length} positions{parts}, '
        f'mesh fsdp={plan.mesh.fsdp} tensor={plan.mesh.tensor}',
        '',
        _row('GiB a device', [f.name for f in footprints]),
    ]
    kinds = dict.fromkeys(kind for f in footprints for kind in f.kinds)
    for kind in kinds:
        lines.append(_row(kind, [_gib(f.kinds.get(kind)) for f in footprints]))
    lines += [
        _row('results', [_gib(f.results) for f in footprints]),
        _row('activations, temporaries', [_gib(f.temporaries) for f in footprints]),
        _row('all', [_gib(f.total) for f in footprints]),
        _row('fits', ['yes' if f.total <= usable else 'NO' for f in footprints]),
        '',
        _row('useful TFLOP', [f'{f.work.useful_flops / 1e12:.3g}' for f in footprints]),
    ]
    seconds = [f.work.seconds(chip, plan.target.num_devices) for f in footprints]
    for part in seconds[0]:
        lines.append(_row(f'{part}, ms at least', [f'{s[part] * 1e3:.3g}' for s in seconds]))
    lines += [
        _row('compiled in, s', [f'{f.compile_seconds:.0f}' for f in footprints]),
        '',
        f'host memory: {plan.loading_bytes / GIB:.1f} GiB a process to load, '
        f'{job.store_bytes / GIB:.2f} GiB for the store of {job.num_problems} problems',
    ]
    if plan.largest_batch is not None:
        lines.append(f'largest batch that fits: {plan.largest_batch or "none"}')
    if plan.alternative is not None:
        lines.append(
            f'by formula fsdp={plan.alternative.fsdp} tensor={plan.alternative.tensor} is faster'
        )
    lines.append('it fits' if plan.fits else 'it does NOT fit')
    return '\n'.join(lines)


def _row(name: str, cells: list[str]) -> str:
    return f'{name:26}' + ''.join(f'{cell:>16}' for cell in cells)


def _gib(size: float | None) -> str:
    return '' if size is None else f'{size / GIB:.3f}'
