# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pages of the documentation as data: their text, blocks, commands, tables and headings."""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple

import support

DOCS = support.ROOT / 'docs'
README = support.ROOT / 'README.md'
PAGES = [README, support.ROOT / 'CONTRIBUTING.md', *sorted(DOCS.glob('*.md'))]
FENCE = re.compile(r'^```(.*)\n((?:.*\n)*?)```$', re.MULTILINE)


class Block(NamedTuple):
    """A block of code: its language, such as "yaml", or "" for none, and its text."""

    language: str
    text: str


def blocks(page, *languages):
    """Return the blocks of *page* in *languages*, all of them without any."""
    found = [Block(language.strip(), text) for language, text in FENCE.findall(page.read_text())]
    return [block for block in found if not languages or block.language in languages]


def prose(page):
    """Return the text of *page* without its blocks of code."""
    return FENCE.sub('', page.read_text())


def anchors(page):
    """Return what the headings of *page* are called in links to them."""
    headings = re.findall(r'^#+ (.*)$', prose(page), re.MULTILINE)
    return {re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-') for heading in headings}


def commands(page):
    """Return the commands of *page*, in blocks and in the text, as words."""
    lines = [line for block in blocks(page, 'sh', 'console')
             for line in block.text.replace('\\\n', ' ').splitlines()]
    inline = re.findall(r'`((?:ansible-\w+|make) [^`]*)`', prose(page))
    return [words for words in (shlex.split(line, comments=True) for line in lines + inline) if words]


def rows(page, *heads):
    """Return the rows, as lists of cells, of all tables of *page* whose first head is one of *heads*."""
    result, inside = [], False
    for line in prose(page).splitlines():
        cells = [cell.strip() for cell in line.strip('|').split(' | ')] if line.startswith('| ') else None
        if cells is None:
            inside = False
        elif cells[0] in heads:
            inside = True
        elif inside and set(line) != set('| -'):
            result.append(cells)
    return result
