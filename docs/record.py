# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Record `make demo` in a terminal and draw the recording: record.py [render].

Writes demo.cast (asciicast v2, which asciinema plays) beside this file, and demo.svg from it, which moves wherever
pictures are shown; with "render" only the latter.
"""

from __future__ import annotations

import codecs
import fcntl
import html
import json
import os
import pty
import re
import struct
import sys
import termios
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
CAST, PICTURE = HERE / 'demo.cast', HERE / 'demo.svg'
COMMAND = ['make', '--silent', 'demo']
COLUMNS, ROWS = 116, 30
LONGEST_WAIT = 0.7  # seconds in which nothing happens, in the picture
LAST_PICTURE = 6  # seconds that the end stays
TO_READ, READING = 'hosts, no problems', 3  # the end of what is worth reading, and seconds to do so
CELL_WIDTH, CELL_HEIGHT, MARGIN = 7.83, 18, 14  # pixels
COLOURS = {'30': '#6e7681', '31': '#ff7b72', '32': '#7ee787', '33': '#e3b341', '34': '#79c0ff', '35': '#d2a8ff',
           '36': '#56d4dd', '37': '#e6edf3'}


def record():
    """Run the command in a terminal of its own; return what it printed, as (seconds, text)."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(TERM='xterm-256color', ANSIBLE_FORCE_COLOR='1', COLUMNS=str(COLUMNS))
        os.chdir(HERE.parent)
        os.execvp(COMMAND[0], COMMAND)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('HHHH', ROWS, COLUMNS, 0, 0))
    decode = codecs.getincrementaldecoder('utf-8')('replace').decode
    start, events = time.monotonic(), [(0.0, '$ '), (0.6, ' '.join(COMMAND)), (1.0, '\r\n')]
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the terminal is closed
            data = b''
        if not data:
            break
        events.append((1.0 + time.monotonic() - start, decode(data)))
    _child, status = os.waitpid(child, 0)
    if status:
        sys.exit(f'{" ".join(COMMAND)} failed:\n{"".join(text for _seconds, text in events)}')
    return events


def write_cast(events):
    header = {'version': 2, 'width': COLUMNS, 'height': ROWS, 'title': 'make demo', 'idle_time_limit': LONGEST_WAIT}
    lines = [json.dumps(header)] + [json.dumps([round(seconds, 3), 'o', text], ensure_ascii=False)
                                    for seconds, text in events]
    CAST.write_text('\n'.join(lines) + '\n')


def read_cast():
    """Return the events of the recording, as (seconds, text): without long waits, and with time to read the tables."""
    _header, *lines = map(json.loads, CAST.read_text().splitlines())
    now = before = 0.0
    events = []
    for seconds, _kind, text in lines:
        now += min(seconds - before, LONGEST_WAIT)
        before = seconds
        events.append((now, text))
        if TO_READ in text:
            now += READING
    return events


def screen_lines(events):
    """Return the lines of the screen as (seconds at which it begins, [(colour, text)]).

    What is printed has colours and line breaks, and moves the cursor nowhere.
    """
    colour, lines, width = '37', [(0.0, [])], 0
    for seconds, text in events:
        for part in re.split(r'(\x1b\[[0-9;]*m|\r*\n)', text):
            sequence = re.fullmatch(r'\x1b\[([0-9;]*)m', part)
            if sequence:
                colour = next((code for code in sequence[1].split(';') if code in COLOURS), '37')
            elif part.endswith('\n'):
                lines.append((seconds, []))
                width = 0
            while part and not sequence and not part.endswith('\n'):
                if width == COLUMNS:
                    lines.append((seconds, []))
                    width = 0
                piece, part = part[:COLUMNS - width], part[COLUMNS - width:]
                lines[-1][1].append((colour, piece))
                width += len(piece)
    return lines[:-1] if not lines[-1][1] else lines


def keyframes(name, steps, total):
    """Return the CSS of an animation that jumps: *steps* are (seconds, pixels to move down)."""
    at = {}
    for seconds, pixels in steps:
        at[f'{100 * seconds / total:.2f}%'] = pixels
    frames = ' '.join(f'{percent} {{ transform: translateY({pixels}px) }}' for percent, pixels in at.items())
    return f'@keyframes {name} {{ {frames} 100% {{ transform: translateY({steps[-1][1]}px) }} }}'


def render(events):
    """Return the recording as an SVG that moves by CSS alone: lines are uncovered, then scroll."""
    lines = screen_lines(events)
    total = events[-1][0] + LAST_PICTURE
    width, height = COLUMNS * CELL_WIDTH + 2 * MARGIN, ROWS * CELL_HEIGHT + 2 * MARGIN
    cover = [(seconds, min(number, ROWS) * CELL_HEIGHT) for number, (seconds, _parts) in enumerate(lines, 1)]
    scroll = [(0, 0)] + [(seconds, (ROWS - number) * CELL_HEIGHT)
                         for number, (seconds, _parts) in enumerate(lines, 1) if number > ROWS]
    texts = []
    for number, (_seconds, parts) in enumerate(lines):
        spans = ''.join(f'<tspan fill="{COLOURS[colour]}">{html.escape(text, quote=False)}</tspan>'
                        for colour, text in parts if text)
        if not spans:
            continue
        texts.append(f'<text x="{MARGIN}" y="{MARGIN + number * CELL_HEIGHT + 13}">{spans}</text>')
    body = '\n'.join(texts)
    return f'''<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img"
  aria-label="make demo in a terminal">
<style>
text {{ font: 13px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; white-space: pre; }}
.scroll {{ animation: scroll {total:.2f}s step-end infinite; }}
.cover {{ animation: cover {total:.2f}s step-end infinite; }}
{keyframes('scroll', scroll, total)}
{keyframes('cover', cover, total)}
@media (prefers-reduced-motion: reduce) {{
  .scroll {{ animation: none; transform: translateY({scroll[-1][1]}px); }}
  .cover {{ animation: none; transform: translateY({height}px); }}
}}
</style>
<clipPath id="screen"><rect width="{width:.0f}" height="{height - MARGIN}" y="{MARGIN // 2}"/></clipPath>
<rect width="{width:.0f}" height="{height}" rx="10" fill="#0d1117"/>
<g clip-path="url(#screen)">
<g class="scroll" xml:space="preserve">
{body}
</g>
<rect class="cover" y="{MARGIN}" width="{width:.0f}" height="{height}" fill="#0d1117"/>
</g>
</svg>
'''


if __name__ == '__main__':
    if sys.argv[1:] != ['render']:
        write_cast(record())
    PICTURE.write_text(render(read_cast()))
