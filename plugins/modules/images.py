# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The documentation of the action plugin of the same name, which does all the work from the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: images
author: k3s-artifact contributors (@k3s-artifact)
version_added: "1.1.0"
short_description: Compare what is in the image archives of a host with what K3s has imported
description:
  - Reads the names of the images in the archives that M(airgap.k3s.stage) puts on the host, on the controller, and what
    C(k3s ctr images list) says on the node. It changes nothing.
  - An image is missing where K3s does not list it, and there for another platform where it lists it without the
    platform of the node. An archive of which no image is there was not imported.
  - The playbook C(airgap.k3s.check) does it for all hosts, and reports.
options:
  step:
    description:
      - V(look) compares, and does not fail. What is wrong is in the problems that it returns.
      - V(check) fails on the hosts that have problems in the result of V(look), and on no others.
    type: str
    choices: [look, check]
    default: look
  of:
    description:
      - The name of the variable that V(look) registered, for V(check). It is read as it is, and never templated.
    type: str
attributes:
  check_mode:
    description: Can run in check_mode and return changed status prediction without modifying target.
    support: full
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in check_mode), when in diff mode.
    support: none
  platform:
    description: Target OS/families that can be operated against.
    support: full
    platforms: posix
notes:
  - The variables are those of M(airgap.k3s.stage).
  - An archive that is compressed with zstd or lz4 can be looked into where the controller has the program of that name
    (for zstd, Python 3.14 does as well). Without it there is a warning, and its images are not compared.
  - An image without a name, which only its digest tells, is not compared.
seealso:
  - module: airgap.k3s.stage
  - module: airgap.k3s.report
"""

EXAMPLES = r"""
- name: Compare the images of each host
  airgap.k3s.images:
    step: look
  register: looked

- name: Fail where images are not there
  airgap.k3s.images:
    step: check
    of: looked
"""

RETURN = r"""
k3s_artifact:
  description:
    - What is known of the host, with the keys that M(airgap.k3s.stage) returns.
    - Of each of the C(files), C(came) is V(imported), V(partly), V(not imported), V(not staged) or V(unknown).
      C(missing) are the images that K3s has not, C(elsewhere) those that it has for other platforms only.
  returned: for V(step=look)
  type: dict
msg:
  description: All problems of the host.
  returned: for V(step=check), if there are any
  type: str
"""
