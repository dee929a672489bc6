# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The site: Markdown pages, which forges show as they are, and what antsibull-docs makes of the plugins."""

from __future__ import annotations

project = 'k3s-artifact'
author = 'k3s-artifact contributors'
project_copyright = '2026, k3s-artifact contributors'

extensions = ['myst_parser', 'sphinx_antsibull_ext']
exclude_patterns = ['requirements.txt']
# toc: a page that is not there is left out of the table of contents. ref: what antsibull-docs writes names pages of
# Ansible's own documentation, which could be linked with a network only. (Links between our pages are myst's.)
suppress_warnings = ['toc.not_readable', 'ref.ref']
myst_heading_anchors = 4

html_theme = 'furo'
html_title = 'k3s-artifact'
html_static_path = ['site.css']
html_css_files = ['site.css']
html_copy_source = False
