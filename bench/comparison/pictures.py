"""The figures as SVG: small, without anything from elsewhere, and readable on light and dark pages."""

import statistics
from xml.sax.saxutils import escape

from comparison.result import KEEPS_NONE, fewer, keeps_none, named, total

STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; }
.title { font-size: 15px; font-weight: 600; }
.faint { fill: #59636e; font-size: 12px; }
.axis { stroke: #d1d9e0; stroke-width: 1; }
.mark { stroke: #59636e; stroke-width: 1; stroke-dasharray: 4 3; }
.good { fill: #1a7f64; }
.lost { fill: #cf222e; }
.closed { fill: #bf8700; }
.back { fill: #ffffff; }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc; }
  .faint { fill: #9198a1; }
  .axis { stroke: #3d444d; }
  .mark { stroke: #9198a1; }
  .good { fill: #3fb68b; }
  .lost { fill: #f85149; }
  .closed { fill: #d29922; }
  .back { fill: #0d1117; }
}
"""


class Picture:
    """Elements with classes of STYLE; text() of it is the file."""

    def __init__(self, width, height, title):
        self.width, self.height, self.title = width, height, title
        self._elements = []
        self.rect(0, 0, width, height, "back")

    def _add(self, name, css, body=None, **attributes):
        pairs = "".join(f' {key.replace("_", "-")}="{value:g}"' if isinstance(value, (int, float))
                        else f' {key.replace("_", "-")}="{escape(str(value))}"'
                        for key, value in attributes.items())
        end = "/>" if body is None else f">{body}</{name}>"
        self._elements.append(f'<{name} class="{css}"{pairs}{end}')

    def rect(self, x, y, width, height, css, hint=None):
        self._add("rect", css, hint and f"<title>{escape(hint)}</title>", x=round(x, 2), y=round(y, 2),
                  width=round(width, 2), height=round(height, 2))

    def line(self, x1, y1, x2, y2, css):
        self._add("line", css, x1=round(x1, 2), y1=round(y1, 2), x2=round(x2, 2), y2=round(y2, 2))

    def words(self, x, y, text, css="", anchor="start"):
        self._add("text", css, escape(text), x=round(x, 2), y=round(y, 2), text_anchor=anchor)

    def text(self):
        head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
                f'width="{self.width}" height="{self.height}" role="img">')
        return "\n".join([head, f"<title>{escape(self.title)}</title>", f"<style>{STYLE}</style>",
                          *self._elements, "</svg>", ""])


def plain(title):
    return title.replace("`", "")


def bars(picture, left, top, width, row, items, css):
    """items: [(value, words)]; a bar each, with its words behind it."""
    largest = max([value for value, _ in items if value is not None] + [1])
    for at, (value, label) in enumerate(items):
        y = top + at * row
        length = 0 if value is None else width * value / largest
        picture.rect(left, y + 4, max(length, 1), row - 10, css)
        picture.words(left + length + 6, y + row / 2 + 3, label, "faint" if not value else "")
    picture.line(left, top, left, top + row * len(items), "axis")


def shown(values):
    middle = statistics.median(values)
    return middle, f"{middle:,.0f}" if middle >= 10 or middle == int(middle) else f"{middle:.1f}"


def losses(figures):
    """Requests lost and connections closed per restart, a row for each peer."""
    peers, row, top = figures["peers"], 28, 84
    picture = Picture(980, top + row * len(peers) + 20, "Requests lost and connections closed per restart")
    picture.words(16, 26, "Per restart, under 1,024 kept connections, most of them idle, and 200 new ones a "
                  "second", "title")
    picture.words(16, 46, f"Median of {len(figures['runs'])} repetitions{fewer(figures)}; each server as its "
                  "own documentation advises for a restart without loss", "faint")
    picture.words(310, 72, "requests lost")
    picture.words(650, 72, "connections closed without a word")
    for at, peer in enumerate(peers):
        picture.words(296, top + at * row + row / 2 + 3, plain(named(figures, peer)), anchor="end")
    lost, closed = [], []
    for peer in peers:
        lost.append(shown(total(figures, peer["key"], "lost")))
        closed.append((None, KEEPS_NONE) if keeps_none(figures, peer["key"])
                      else shown(total(figures, peer["key"], "unannounced")))
    bars(picture, 310, top, 250, row, lost, "lost")
    bars(picture, 650, top, 250, row, closed, "closed")
    return picture.text()


def timeline(figures, keys):
    """The same load on some peers: answers per step upwards, lost requests downwards, restarts marked. It is
    the first repetition in which they all are."""
    peers = [peer for key in keys for peer in figures["peers"] if peer["key"] == key]
    run = next(run for run in figures["runs"] if all(peer["key"] in run for peer in peers))
    lines = [run[peer["key"]]["losses"]["timeline"] for peer in peers]
    seconds = min(len(one["ok"]) * one["step_ms"] / 1000 for one in lines)
    steps = int(seconds * 1000 / lines[0]["step_ms"]) - 1  # The last one is not whole.
    scale = [max([1] + [value for one in lines for value in one[what][:steps]]) for what in ("ok", "lost")]
    panel, top, left, width = 170, 70, 90, 860
    picture = Picture(980, top + panel * len(peers) + 24, "Restarts under the same load")
    picture.words(16, 26, "Restarts under the same load: 1,000 requests a second, on 1,000 kept connections and "
                  "on new ones", "title")
    picture.words(16, 46, "Upwards the answers in each 100 ms, downwards the requests lost; dashed: the signal "
                  "for a restart. All panels have one scale.", "faint")
    for at, (peer, one) in enumerate(zip(peers, lines)):
        _panel(picture, plain(peer["title"]), one, (left, top + at * panel, width, panel), steps, scale)
    shown = steps * lines[0]["step_ms"] / 1000
    for second in range(int(shown) + 1):
        picture.words(left + width * second / shown, picture.height - 8, f"{second} s", "faint", "middle")
    return picture.text()


def _panel(picture, title, one, box, steps, scale):
    left, top, width, height = box
    base, high, low, each = top + height - 62, height - 96, 40, width / steps
    lost = sum(one["lost"][:steps])
    picture.words(left, top + 16, f"{title}: {lost:,} lost" if lost else f"{title}: none lost", "title")
    for at, (answers, failures) in enumerate(zip(one["ok"][:steps], one["lost"])):
        size = high * answers / scale[0]
        picture.rect(left + at * each, base - size, each * 0.86, size, "good", f"{answers:,} answers")
        if failures:
            size = max(2, low * failures / scale[1])
            picture.rect(left + at * each, base + 1, each * 0.86, size, "lost", f"{failures:,} lost")
    picture.line(left, base, left + width, base, "axis")
    picture.words(left - 8, base - high + 10, f"{scale[0]:,}", "faint", "end")
    picture.words(left - 8, base + 4, "0", "faint", "end")
    picture.words(left - 8, base + low, f"{scale[1]:,} lost", "faint", "end")
    for moment in one["restarts"]:
        if 0 <= moment * 1000 <= steps * one["step_ms"]:
            x = left + each * moment * 1000 / one["step_ms"]
            picture.line(x, base - high - 8, x, base + low + 4, "mark")
