"""The colours of figures, by name: methods, arms and studies draw with them."""

from collections.abc import Mapping

# Okabe and Ito's colours, safe for colour-blind readers, and the inks of the page.
PALETTE: Mapping[str, str] = {
    'ink': '#1f2328',
    'muted': '#6e7781',
    'rule': '#d8dee4',
    'paper': '#fefefe',
    'blue': '#0072b2',
    'vermillion': '#d55e00',
    'green': '#009e73',
    'orange': '#e69f00',
    'purple': '#cc79a7',
    'sky': '#56b4e9',
    'grey': '#8c959f',
}


def paler(colour: str, part: float) -> str:
    """Returns a colour mixed with white, as `#rrggbb`.

    Args:
        colour: a name of `PALETTE`, or `#rrggbb`.
        part: of white, 0 to 1.
    """
    parts = bytes.fromhex(PALETTE.get(colour, colour).removeprefix('#'))
    return '#' + bytes(round(value + part * (255 - value)) for value in parts).hex()
