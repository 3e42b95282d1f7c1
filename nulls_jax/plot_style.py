"""How every plot of the package looks: fonts, axes, resolution.

What is drawn, and in which colours, is the plots' own.
"""

import io

import matplotlib.figure

STYLE = {
  "font.size": 10,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.edgecolor": "#888888",
  "axes.grid": True,
  "axes.axisbelow": True,
  "grid.color": "#e6e6e6",
  "legend.frameon": False,
  "axes.titlesize": 11,
  "axes.titleweight": "bold",
  "axes.titlelocation": "left",
}
_DOTS = 144


def png(drawn: matplotlib.figure.Figure) -> bytes:
  """Return a figure as PNG, at 144 dots an inch."""
  content = io.BytesIO()
  drawn.savefig(content, format="png", dpi=_DOTS)
  return content.getvalue()
