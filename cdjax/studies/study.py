"""What a study is: a question about the teacher that a run answers beside its main job."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath
from jax.sharding import Mesh

from cdjax.circuits.circuit import Circuit
from cdjax.registry import Registry
from cdjax.run.results import stored
from cdjax.studies.circuits import CircuitStudyConfig
from cdjax.studies.inputs import Inputs
from cdjax.studies.run import Run
from cdjax.training.discovery import DiscoveryConfig

Result = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
    """What a study is given.

    Attributes:
        run: inputs, teacher, mesh and options of the run.
        discovery: how the run searches for circuits.
        evaluation: how it measures them.
        circuit: the teacher's circuits.
        circuits: folder for circuits of the study's own.
        stages: folder for its trainings, each in a folder of its own.
    """

    run: Run
    discovery: DiscoveryConfig
    evaluation: CircuitStudyConfig
    circuit: Circuit
    circuits: epath.Path
    stages: epath.Path


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a report: every cell as it is shown.

    Attributes:
        caption: what it shows, and in which units.
        header: the name of each column.
        rows: the cells; the first of a row is its name.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __post_init__(self):
        uneven = [row for row in self.rows if len(row) != len(self.header)]
        if uneven:
            raise ValueError(f'{len(self.header)} columns, and a row of {uneven[0]}')


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure of a report.

    Attributes:
        draw: `(matplotlib.figure.Figure) -> None`.
        caption: what it shows, with units.
        description: what a reader who cannot see it is told.
        numbers: what it draws, for a reader's own plot; None for the first table of its section.
        width: inches; two figures of the default lie side by side, one fills a phone.
        height: inches.
    """

    draw: Callable[[Any], None]
    caption: str
    description: str
    numbers: Table | None = None
    width: float = 4.3
    height: float = 3.2


@dataclasses.dataclass(frozen=True)
class Recovery:
    """How much of known circuits each method finds; a report has a figure for it.

    Attributes:
        found: what `cdjax.studies.ground_truth.study_recovery` returns.
        methods: what is said of each method, by key, see `cdjax.studies.circuits.facts_of`.
    """

    found: Result
    methods: Result


@dataclasses.dataclass(frozen=True)
class Section:
    """What a report shows of a study.

    Attributes:
        findings: sentences drawn from the figures, the most important one first.
        tables: the tables.
        drawings: the figures.
        recoveries: what was found of planted circuits, each a sentence and a figure more.
    """

    findings: Sequence[str]
    tables: Sequence[Table] = ()
    drawings: Sequence[Drawing] = ()
    recoveries: Sequence[Recovery] = ()


@dataclasses.dataclass(frozen=True)
class Study:
    """A question about the teacher that a run answers beside its main job.

    Attributes:
        key: what flags, results and folders know it by.
        title: of its section in the report.
        measure: answers it, once a run: plain numbers, text, lists and dictionaries.
        present: what is shown of a result, which may have been stored by another process.
        check: `(inputs, discovery, mesh)` raises InputError for what `measure` would say of its
            input hours later.
    """

    key: str
    title: str
    measure: Callable[[Context], Result]
    present: Callable[[Result], Section]
    check: Callable[[Inputs, DiscoveryConfig, Mesh], None] | None = None


STUDIES: Registry[Study] = Registry('study')


def run_study(
    key: str,
    run: Run,
    circuit: Circuit,
    discovery: DiscoveryConfig,
    evaluation: CircuitStudyConfig,
) -> Result:
    """Returns the result of a study, measured unless `results/studies/KEY.json` holds it."""
    context = Context(
        run,
        discovery,
        evaluation,
        circuit,
        circuits=run.places.circuits(key),
        stages=run.places.training(key),
    )
    path = run.places.result('studies', key)
    return stored(path, lambda: dict(STUDIES[key].measure(context)))
