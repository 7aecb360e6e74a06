"""The table of settings that were compared, for a terminal."""

from collections.abc import Mapping
from typing import Any

from cdjax.wording import exact_percent, number


def settings_table(results: Mapping[str, Any]) -> str:
    """Returns what each setting keeps at each size, and how selective it is, as plain text.

    Args:
        results: what `cdjax.studies.tuning.tune` returns.
    """
    settings, sizes = results['settings'], results['sizes']
    width = max(len(setting['name']) for setting in settings) + 2
    shares = ''.join(f'{exact_percent(size):>7}' for size in sizes)
    lines = [
        f'Accuracy in per cent on {results["problems"]:,} problems of the validation share with '
        'only the circuits; selectivity of their specific parts in probability.',
        f'{"":<{width}}seeds{shares}{"mean":>8}{"error":>7}   selectivity',
    ]
    for setting in settings:
        seeds = setting['points']
        kept = [_mean(seeds, at, 'only') for at in range(len(sizes))]
        selective = [_mean(seeds, at, 'selectivity_probability') for at in range(len(sizes))]
        error = setting['error']
        lines.append(
            f'{setting["name"]:<{width}}{len(seeds):>5}'
            + ''.join(f'{number(100 * value, 0):>7}' for value in kept)
            + f'{number(100 * setting["mean"], 1):>8}'
            + f'{number(None if error is None else 100 * error, 1):>7}   '
            + ' '.join(number(value) for value in selective)
        )
    lines.append(f'chosen: {results["chosen"]}')
    best = results['most_selective']
    if best is not None:
        lines.append(
            f'most selective of those that keep half: {best["name"]} at '
            f'{exact_percent(best["size"])}, {number(best["selectivity"])} (they keep a '
            f'probability of {number(best["only"])})'
        )
    return '\n'.join(lines)


def _mean(seeds, at: int, field: str) -> float | None:
    values = [of_seed[at][field] for of_seed in seeds]
    return None if None in values else sum(values) / len(values)
