"""The loop around a jitted step: resume, log, evaluate, save, stop when told to.

`fit` knows nothing of what is trained. A step is a pure function of state and batch, a batch is
a pure function of its number, and randomness is a key in the state: a run that was killed and
continues is therefore the run that was not, bit for bit, on the same mesh.
"""

import collections
import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
from absl import logging
from etils import epath
from jax.sharding import Mesh

from cdjax.errors import InputError
from cdjax.parallel import mesh as mesh_lib
from cdjax.parallel.hardware import least_seconds
from cdjax.parallel.preemption import Preempted, PreemptionNotice
from cdjax.run.folder import (
    as_json,
    make_folder,
    refuse_other_training,
    require_space,
)
from cdjax.run.metrics import MetricsWriter
from cdjax.run.options import KEPT, RunOptions
from cdjax.run.progress import progress
from cdjax.training.due import Schedule
from cdjax.training.gradient_reports import GradientReport
from cdjax.training.journal import Journal
from cdjax.training.log_points import Metrics, Point, Rate, Window
from cdjax.training.profiler import Profiler
from cdjax.training.step import put_batches

if TYPE_CHECKING:
    from cdjax.run.checkpoints import Checkpoints

# Steps that may be queued on the devices: enough to keep them busy, few enough that a SIGTERM is
# heeded at once and the progress bar tells the truth.
_IN_FLIGHT = 2
# Steps between log points, each of which holds the means over these steps.
LOG_EVERY = 10

EVALUATION = 'evaluation/'


def fit(
    step: Callable[[Any, Any], tuple[Any, Metrics]],
    state: Any,
    batch_at: Callable[[int], Any],
    *,
    steps: int,
    mesh: Mesh | None = None,
    description: str,
    workdir: epath.PathLike | None = None,
    options: RunOptions = RunOptions(),
    evaluate: Callable[[Any], Mapping[str, float]] | None = None,
    evaluate_every: int | None = None,
    best: tuple[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
    diagnose: Callable[[Any, Any], GradientReport] | None = None,
    at_once: int = 1,
    tokens_per_step: int | None = None,
    flops_per_step: Mapping[str, float] | None = None,
) -> tuple[Any, list[Point]]:
    """Runs a step until `steps` are done, continuing from the checkpoints in `workdir`.

    A stage that is finished is recognised by its last checkpoint and returned at once.

    Args:
        step: (state, batch) → (state, scalar metrics); jitted by the caller, state donated. With
            `at_once` above 1 it is one of `several_steps`.
        state: the first state, any pytree on `mesh`. It is consumed, as by a donation.
        batch_at: number of a step (from 0) → its batch, a pytree of host arrays [B, ...]; a
            pure function, the same on every process.
        steps: how many steps the finished run has.
        mesh: the mesh, ambient while steps and evaluations run; one device if None.
        description: what is trained, for the progress bar.
        workdir: folder of this stage: `checkpoints/`, `metrics.jsonl`, TensorBoard events and
            `profile/`. None: nothing is saved, and SIGTERM is not caught.
        options: how often checkpoints and reports are made, and which steps are traced.
        evaluate: state → scalars, run at multiples of `evaluate_every` and after the last step.
        evaluate_every: steps between evaluations; only after the last step if None.
        best: (name that `evaluate` returns, 'max' or 'min'): a new best is saved at once, and
            kept beside the newest ones.
        facts: what decides the result, ready for JSON; a workdir of other facts is refused.
        diagnose: (state, host batch) → the report of the gradient doctor, asked for when
            `options` say so; logged as `diagnostics/TERM/FIGURE`, and kept as a table in
            `gradients/STEP.txt`.
        at_once: steps that are dispatched as one, at most: none goes past a log point, a
            checkpoint, an evaluation, a report, or an end of the trace. A SIGTERM waits for them.
        tokens_per_step: tokens of a batch, to log `tokens_per_second`.
        flops_per_step: dtype of the computation → useful FLOPs of a step over all devices, to
            log `mfu` where the peak of the device is known: 2N a token forward, 6N in training, N
            without embeddings and head, plus 2dV or 6dV a computed logit position, plus
            attention; without remat.

    Returns:
        The last state and the log points, oldest first: `step`, means of the metrics,
        `evaluation/NAME`, and `steps_per_second` and what follows from it. The points of
        earlier starts of a continued run are among them.

    Raises:
        InputError: the workdir cannot hold the run, or holds another one.
        GradientError: before the first step, a weighted term that trains nothing; later, one that
            is not finite, for a gradient may well vanish on the way: that is a warning.
        Diverged: a metric is no longer finite, such as the loss or the norm of its gradient; what
            comes of it is not saved.
        Preempted: a SIGTERM came; the state is saved.
    """
    assert steps >= 0, steps
    assert best is None or (evaluate is not None and workdir is not None)
    assert options.diagnose_every is None or diagnose is not None
    mesh = mesh_lib.one_device() if mesh is None else mesh
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))

        # -- Resume ---------------------------------------------------------------------------
        done, history, window, facts = 0, [], Window(), as_json(facts)
        checkpoints = writer = None
        if workdir is not None:
            from cdjax.run.checkpoints import Checkpoints  # Orbax is slow to import

            workdir = make_folder(epath.Path(workdir))
            size = sum(x.nbytes for x in jax.tree.leaves(state))
            checkpoints = stack.enter_context(
                Checkpoints(workdir / 'checkpoints', every=options.checkpoint_every, best=best)
            )
            writer = stack.enter_context(MetricsWriter(workdir))
            if checkpoints.latest_step() is not None:
                state, saved = _resume(checkpoints, state)
                refuse_other_training(workdir, saved['facts'], facts)
                done, history, window = saved['step'], saved['history'], Window(saved['window'])
                if done > steps:
                    raise InputError(
                        f'{workdir} holds step {done} of a run that is asked for {steps} steps: '
                        f'ask for {done} or more, or name another --workdir'
                    )
                if done == steps:
                    return state, history
                writer.resume_at(done)
            else:
                writer.resume_at(-1)  # the report before the first step is made again
            # One more than are kept, for the oldest goes when the newest is whole.
            most = KEPT + 1 + (best is not None)
            to_come = max(most - len(checkpoints.steps()), 1)
            require_space(workdir, to_come * size, f'keeping {most} checkpoints')

        # -- Steps ----------------------------------------------------------------------------
        if options.profile_steps is not None and options.profile_steps[0] >= steps:
            logging.warning(
                '%s: no trace, for profile_steps begins at %d and the last step is %d',
                *(description, options.profile_steps[0], steps - 1),
            )
        bar = stack.enter_context(progress(steps, description, initial=done))
        profiler = stack.enter_context(Profiler(workdir, options.profile_steps))
        notice = stack.enter_context(PreemptionNotice()) if checkpoints is not None else None
        least = None if flops_per_step is None else least_seconds(flops_per_step, mesh)
        rate = Rate(done, tokens_per_step, least)
        queued = collections.deque()
        unlogged = None  # a log point whose values are still being computed
        stopped = False

        journal = Journal(description, history, bar, rate, workdir, writer, checkpoints)
        schedule = Schedule(
            steps,
            options,
            LOG_EVERY,
            evaluate_every,
            evaluates=evaluate is not None,
            saves=checkpoints is not None,
            saves_best=best is not None,
        )

        def put(first: int, end: int) -> Any:
            if at_once == 1:
                return mesh_lib.put_batch(batch_at(first), mesh)
            return put_batches([batch_at(n) for n in range(first, end)], at_once, mesh)

        if diagnose is not None and options.check_gradients and done == 0 < steps:
            journal.report_gradients(0, diagnose(state, batch_at(0)))
        while done < steps and not stopped:
            profiler.before(done)
            before, done = done, done + 1 if rate.compiling else schedule.next_stop(done, at_once)
            state, metrics = step(state, put(before, done))
            window.add(metrics, None if at_once == 1 else done - before)
            queued.append(metrics)
            if unlogged is not None:  # its successor is queued: fetching it idles no device
                journal.log_window(*unlogged)
                unlogged = None
            if len(queued) > _IN_FLIGHT:
                jax.block_until_ready(queued.popleft())
            rate.start(done, metrics)
            profiler.after(done, metrics)
            bar.update(done - before)

            stopped = notice is not None and notice.reached()
            due = schedule.due(done, stopped=stopped)
            if due.log:
                unlogged, window = (done, window), Window()
            if unlogged is not None and due.any:
                journal.log_window(*unlogged)
                unlogged = None
            if due.any:
                jax.block_until_ready(metrics)
            with rate.paused():
                values, improved = None, False
                if due.evaluate:
                    values = {k: float(v) for k, v in evaluate(state).items()}
                    improved = best is not None and _improves(values, best, history)
                    journal.log(done, {f'{EVALUATION}{k}': v for k, v in values.items()})
                if due.diagnose:
                    journal.report_gradients(done, diagnose(state, batch_at(done)))
                if due.save:
                    journal.require_finite(done, window.totals()['sums'])
                    checkpoints.save(
                        done,
                        state,
                        dict(step=done, history=history, window=window.totals(), facts=facts),
                        metrics=None if best is None else values,
                        force=due.last or stopped or improved,
                    )

        # -- End ------------------------------------------------------------------------------
        if unlogged is not None:
            journal.log_window(*unlogged)
        if checkpoints is not None:
            with rate.paused():
                checkpoints.wait()
            if stopped or notice.signalled():
                raise Preempted(
                    f'{description}: stopped by SIGTERM after step {done} of {steps}, saved in '
                    f'{workdir}'
                )
        return state, history


def best_parameters(workdir: epath.PathLike, params: Any, best: tuple[str, str]) -> tuple[Any, int]:
    """Returns the parameters of the best checkpoint of a finished `fit`, and its step.

    Args:
        workdir: as given to `fit`.
        params: the last parameters, for their shapes and shardings.
        best: as given to `fit`.

    Raises:
        InputError: no evaluation was finite, or the checkpoint is damaged.
    """
    from cdjax.run.checkpoints import Checkpoints  # Orbax is slow to import

    folder = epath.Path(workdir) / 'checkpoints'
    with Checkpoints(folder, best=best, read_only=True) as checkpoints:
        step = checkpoints.best_step()
        if step is None:
            raise InputError(f'{folder} holds no checkpoint with a finite {best[0]}')
        return checkpoints.restore_parameters(params, step=step), step


def _resume(checkpoints: 'Checkpoints', state: Any) -> tuple[Any, dict[str, Any]]:
    """Restores the newest intact checkpoint onto the shardings of `state`, which is consumed."""
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    # Two states at once may not fit on the devices: the first goes before the other is read.
    for leaf in jax.tree.leaves(state):
        leaf.delete()
    restored = checkpoints.restore(abstract)
    if restored is None:
        raise InputError(
            f'no checkpoint in {checkpoints.directory} is intact (they are kept as damaged-N), so '
            'this start trains nothing and ends with status 1; the next start of the same command '
            'begins with the first step'
        )
    return restored


def _improves(values: Point, best: tuple[str, str], history: list[Point]) -> bool:
    """Says whether an evaluation is better than all before it."""
    name, mode = best
    if name not in values:
        raise KeyError(f'best={best} but evaluate returned {sorted(values)}')
    before = [p[EVALUATION + name] for p in history if EVALUATION + name in p]
    sign = 1 if mode == 'max' else -1
    return all(sign * values[name] > sign * old for old in before)
