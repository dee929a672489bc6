# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The documentation of the action plugin of the same name, which does all the work from the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: relay
author: k3s-artifact contributors (@k3s-artifact)
version_added: "1.1.0"
short_description: Bring one copy of each file to a site, and let its hosts fetch it from there
description:
  - Hosts with the same value of the variable C(k3s_artifact_site) are neighbours behind one link. One of them gets
    what two or more of them need, for all architectures, and serves it by digest over their own network while
    M(airgap.k3s.stage) sends. What a host of the site has in place already is served by that host, and does not cross
    the link at all.
  - It never makes a run fail. A relay that cannot be reached, has no room, cannot listen, or serves something else
    means a warning. Then the hosts of its site come one after the other, and the first that is sent a file serves it
    to those that wait.
  - The server is C(python3 -m http.server) or httpd of BusyBox, on one address and one port of the node, in a folder
    that has nothing else in it. It ends with V(end), or by itself after C(k3s_artifact_relay_seconds).
options:
  step:
    description:
      - V(choose) decides who serves what, from what V(look) of M(airgap.k3s.stage) found on all hosts of the batch. It
        asks no node. Give it the keyword C(run_once).
      - V(serve) starts the server on a host that was chosen, and brings what it is to serve, or takes it from where
        it is in place. Leave it out on all other hosts with C(when), as in the example.
      - V(end) ends the server and removes its folder.
    type: str
    choices: [choose, serve, end]
    required: true
  of:
    description:
      - The name of the variable that the step before registered, V(look) for V(choose) and V(choose) for V(serve).
    type: str
attributes:
  check_mode:
    description: Can run in check_mode and return changed status prediction without modifying target.
    support: full
    details: V(serve) and V(end) do nothing.
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in check_mode), when in diff mode.
    support: none
  platform:
    description: Target OS/families that can be operated against.
    support: full
    platforms: posix
notes:
  - >-
    Variables of the host are C(k3s_artifact_site), C(k3s_artifact_relay_port) (8642), C(k3s_artifact_relay_address)
    (without it the address of the connection, else the first that the node names), C(k3s_artifact_relay_dir)
    (C(/var/tmp/k3s-artifact-relay)) and C(k3s_artifact_relay_seconds) (7200).
seealso:
  - module: airgap.k3s.stage
"""

EXAMPLES = r"""
- name: Bring one copy to each site
  hosts: k3s_cluster
  strategy: ansible.builtin.linear
  gather_facts: false
  become: true
  tasks:
    - name: Look at what each host gets
      airgap.k3s.stage:
        step: look
      register: looked

    - name: Choose a relay for each site
      airgap.k3s.relay:
        step: choose
        of: looked
      run_once: true
      register: relays

    - name: Send everything
      block:
        - name: Bring one copy to each site
          airgap.k3s.relay:
            step: serve
            of: relays
          when: inventory_hostname in relays.relays
          register: served

        - name: Send what is missing to where it waits
          airgap.k3s.stage:
            step: send
            of: looked
            relays: relays
            served: served
          register: sent
      always:
        - name: Leave nothing of a relay behind
          airgap.k3s.relay:
            step: end
          when: inventory_hostname in relays.relays or sent.is_relay | default(false)
"""

RETURN = r"""
relays:
  description: By host that is a relay, C(has), paths by digest of what it has in place, and C(bring), what it gets.
  returned: for V(step=choose)
  type: dict
sources:
  description: For each site, the relay of each digest.
  returned: for V(step=choose)
  type: dict
url:
  description: The address of the server.
  returned: for V(step=serve), if it serves
  type: str
  sample: http://10.0.7.11:8642
folder:
  description: The folder of the relay on the node.
  returned: for V(step=serve), if it serves
  type: str
files:
  description: For each digest how the file came to the relay, V(pushed), V(fetched) or V(there).
  returned: for V(step=serve), if it serves
  type: dict
msg:
  description: Why the host is no relay, or could not be cleaned up.
  returned: for V(step=serve) and V(step=end), if something went wrong
  type: str
"""
