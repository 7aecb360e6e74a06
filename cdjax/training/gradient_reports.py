"""What the gradient doctor found: figures for a metrics file, a table, an error to raise."""

import dataclasses
import math
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class TermReport:
    """One term: its value, its weight in the loss, and the gradient it has before weighting.

    Attributes:
        value: the term.
        weight: its weight; 0 for a term that is only logged.
        norm: L2 norm of its gradient over all parameters.
        group_norms: L2 norm of its gradient in each parameter group.
        cosine: with the task's gradient, in [-1, 1]; NaN where either is zero or not finite.
    """

    value: float
    weight: float
    norm: float
    group_norms: Mapping[str, float]
    cosine: float

    @property
    def angle(self) -> float:
        """Returns the angle to the task's gradient in degrees: above 90 they disagree."""
        if math.isnan(self.cosine):
            return math.nan
        return math.degrees(math.acos(min(1.0, max(-1.0, self.cosine))))


@dataclasses.dataclass(frozen=True)
class GradientReport:
    """What `gradient_report` measured; `str` of it is a table.

    Attributes:
        task: the name of the task's term.
        groups: the parameter groups, in order.
        terms: a `TermReport` for each term.
        failures: what is wrong, one sentence each; empty where all is well.
        notes: what is worth knowing, one sentence each.
    """

    task: str
    groups: tuple[str, ...]
    terms: Mapping[str, TermReport]
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def finite(self) -> bool:
        """Tells whether every weighted term and its gradient are finite."""
        weighted = [term for term in self.terms.values() if term.weight != 0]
        return all(math.isfinite(term.value) and math.isfinite(term.norm) for term in weighted)

    def scalars(self) -> dict[str, float]:
        """Returns the figures by name, for a metrics file; those that are not finite left out."""
        figures = {}
        for name, term in self.terms.items():
            figures[f'{name}/value'] = term.value
            figures[f'{name}/gradient'] = term.norm
            figures[f'{name}/angle'] = term.angle
            for group, norm in term.group_norms.items():
                figures[f'{name}/gradient/{group}'] = norm
        return {name: figure for name, figure in figures.items() if math.isfinite(figure)}

    def __str__(self) -> str:
        header = ['term', 'weight', 'value', '|grad|', 'weighted', 'angle', *self.groups]
        rows = [
            [
                f'{name} *' if name == self.task else name,
                f'{term.weight:.3g}',
                f'{term.value:.4g}',
                f'{term.norm:.3g}',
                f'{abs(term.weight) * term.norm:.3g}',
                '-' if math.isnan(term.cosine) else f'{term.angle:.0f}°',
                *(f'{term.group_norms[group]:.3g}' for group in self.groups),
            ]
            for name, term in self.terms.items()
        ]
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        lines = [
            '  '.join(
                [row[0].ljust(widths[0])]
                + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            ).rstrip()
            for row in [header, *rows]
        ]
        legend = '* the task; |grad| by group, before weighting; angle to the gradient of the task'
        messages = [f'FAIL: {text}' for text in self.failures]
        return '\n'.join([*lines, legend, *messages, *(f'note: {text}' for text in self.notes)])


class GradientError(RuntimeError):
    """A weighted term that cannot train: `failures` says why, `report` is the whole table."""

    def __init__(self, report: GradientReport):
        self.report = report
        self.failures = report.failures
        super().__init__(f'the loss cannot train as it is weighted\n{report}')
