# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The documentation of the action plugin of the same name, which does all the work from the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: stage
author: k3s-artifact contributors (@k3s-artifact)
version_added: "1.0.0"
short_description: Put all files of a K3s release that a host gets in place, on all hosts or on none
description:
  - Finds what the lookup P(airgap.k3s.k3s_artifact#lookup) chooses for the host, the binary, the install script
    (C(k3s-install.sh)) and the image archives, and brings it to the node as M(airgap.k3s.copy) does.
  - A play of ours does that in steps, so that nothing is in place anywhere before everything is known to be right
    everywhere. The playbooks C(airgap.k3s.preflight) and C(airgap.k3s.stage) are such plays.
options:
  step:
    description:
      - V(look) finds and verifies the host's files, looks at the node in one command, and plans. It changes nothing
        and does not fail. Whatever stands in the way is in RV(k3s_artifact.problems), also that the node is
        unreachable.
      - V(send) sends what is missing. It waits on the node under a partial name, complete, its digest checked, the
        binary tried once (C(k3s --version), unless C(k3s_artifact_probe=false)), not executable for others. A later
        run finds it, whether this one goes on or not; after a day it is nobody's and removed. This step, too, notes
        problems and does not fail. It asks nothing of a node that has everything.
      - V(place) puts everything in place with one command of renames. The order is image archives, install script,
        binary. K3s imports archives while it runs, and those of another release do it no harm. A K3s that is
        restarted in between has its images in either case, and the new binary never runs without them. If a rename
        fails, what comes after it stays as it was, and the problem names what the host has and what it has not.
      - V(check) fails on the hosts that have problems in the result of the step before, and on no others. An
        unreachable node is reported as unreachable. With C(any_errors_fatal=true) the play ends for all hosts.
    type: str
    choices: [look, send, place, check]
    default: look
  of:
    description:
      - The name of the variable that the step before registered. It is read as it is, and never templated.
      - Required for all steps but V(look). V(send) goes on from V(look), V(place) from V(send), and V(check) from
        any.
      - V(send) and V(place) do nothing on a host that has problems.
    type: str
  reported:
    description:
      - For V(check), whether M(airgap.k3s.report) has shown the problems just before. A callback for people then says
        how many there are and where to look, in place of the same sentences once more for each host. All others get
        them whole.
    type: bool
    default: false
  relays:
    description:
      - For V(send), the name of the variable that V(choose) of M(airgap.k3s.relay) registered. With O(served), a host
        fetches from the relay of its site what that has.
    type: str
  served:
    description:
      - For V(send), the name of the variable that V(serve) of M(airgap.k3s.relay) registered on the relays.
    type: str
  installed:
    description:
      - For V(place) and V(check), the names of the variables that the tasks which install the host's packages
        registered. Where one of them failed, that is a problem of the host, and V(place) does nothing there.
    type: list
    elements: str
    version_added: "1.1.0"
attributes:
  check_mode:
    description: Can run in check_mode and return changed status prediction without modifying target.
    support: full
    details: V(look) is the same, V(send) sends nothing, and V(place) says whether something would be changed.
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in check_mode), when in diff mode.
    support: none
  platform:
    description: Target OS/families that can be operated against.
    support: full
    platforms: posix
notes:
  - Everything else is said with variables of the host, which the playbooks take, too.
  - C(k3s_artifact_dir), C(k3s_artifact_machine), C(k3s_binary_map), C(k3s_artifact_verify) and the others of the
    lookup choose the files.
  - C(k3s_artifact_dest) is the install path, by default C(/usr/local/bin/k3s). The install script goes beside it.
  - >-
    The image archives go to C(k3s_artifact_images_dest), else to C(agent/images) in C(k3s_artifact_data_dir), else in
    C(k3s_server_location), else in C(/var/lib/rancher/k3s). C(k3s_server_location) is k3s-ansible's word for K3s's
    data directory. Where it is set, k3s-ansible makes a link of C(/var/lib/rancher/k3s), and that fails if a folder
    with files is there already. C(k3s_artifact_data_dir) is for a data directory that is set in another way, such as
    C(--data-dir) in C(extra_server_args).
  - C(k3s_artifact_keep_previous=true) leaves the binary that is replaced beside the new one, as C(k3s.previous), for
    M(airgap.k3s.rollback).
  - >-
    An image archive that is staged takes the place of the same archive in another compression and, where it is one of
    K3s's own, of those of other releases and architectures. C(k3s_artifact_prune=true) removes them, after everything
    is in place. It removes what has a name of K3s's own, such as C(k3s-airgap-images-arm64-v1.30.8.tar.gz), and of
    other archives only what an earlier run with C(k3s_artifact_prune=true) had and nobody has touched since. Such a run
    notes them in C(.k3s-artifact-placed) above the images directory.
  - >-
    SELinux packages of the artifact directory (C(k3s-selinux*.rpm), C(container-selinux*.rpm), C(selinux-policy*.rpm))
    go to nodes that have dnf, where they are missing or older. C(k3s_artifact_rpm_key) is the file with the public key
    that signed them, on the controller. Without it they are an error. V(send) puts them into C(/var/cache/k3s-artifact)
    and returns their paths, for M(ansible.builtin.rpm_key) and M(ansible.builtin.dnf), and V(place) removes that
    folder.
  - C(k3s_artifact_probe=false) does not try the binary on the node. C(k3s_artifact_downgrade=true) allows an older
    K3s.
  - C(k3s_artifact_url) and what else M(airgap.k3s.copy) reads for a node that fetches its files itself is read here,
    too. C(k3s_artifact_site) is the site of a host, for M(airgap.k3s.relay), and C(k3s_artifact_site_forks) limits how
    many hosts of it use the link at once.
  - Where the task becomes root, what is staged belongs to root. Else it belongs to the user who logs in, and
    what it replaces gives its owner to it where that user may do so. C(environment) of a play or a task is not read.
seealso:
  - module: airgap.k3s.copy
  - module: airgap.k3s.report
  - plugin: airgap.k3s.k3s_artifact
    plugin_type: lookup
"""

EXAMPLES = r"""
- name: Stage K3s on all hosts or on none
  hosts: k3s_cluster
  strategy: ansible.builtin.linear
  gather_facts: false
  any_errors_fatal: true
  become: true
  tasks:
    - name: Look at what each host gets
      airgap.k3s.stage:
        step: look
      register: looked

    - name: Stop if a host cannot be served
      airgap.k3s.stage:
        step: check
        of: looked

    - name: Send what is missing to where it waits
      airgap.k3s.stage:
        step: send
        of: looked
      register: sent

    - name: Stop if a host is not ready
      airgap.k3s.stage:
        step: check
        of: sent

    - name: Put everything in place
      airgap.k3s.stage:
        step: place
        of: sent
      register: placed

    - name: Fail where something is not in place
      airgap.k3s.stage:
        step: check
        of: placed
"""

RETURN = r"""
k3s_artifact:
  description:
    - What is known of the host. Texts are empty where something is not known.
  returned: for V(step=look), V(step=send) and V(step=place)
  type: dict
  contains:
    host:
      description: Its name in the inventory.
      type: str
      returned: success
    machine:
      description: What the node calls itself.
      type: str
      sample: aarch64
      returned: success
    arch:
      description: K3s's name for that.
      type: str
      sample: arm64
      returned: success
    problems:
      description: Sentences on what stands in the way. Without any the host can be served.
      type: list
      elements: str
      returned: success
    warnings:
      description: Sentences.
      type: list
      elements: str
      returned: success
    unreachable:
      description: Whether the node could not be reached.
      type: bool
      returned: success
    directory:
      description: The artifact directory.
      type: str
      sample: /srv/airgap
      returned: success
    node_version:
      description: The K3s that the node has.
      type: str
      returned: success
    version:
      description: The K3s that it gets.
      type: str
      sample: v1.31.4+k3s1
      returned: success
    bytes_to_send:
      description: Bytes to send for all files.
      type: int
      returned: success
    free:
      description: The least number of bytes that is free where a file goes.
      type: int
      returned: success
    left_out:
      description: Files of the artifact directory that are not used, each a list of its name and the reason.
      type: list
      returned: success
    superseded:
      description: Image archives of the node that the new ones replace.
      type: list
      elements: str
      returned: success
    pruned:
      description: Those of them that are removed, or are to be, where C(k3s_artifact_prune) is true.
      type: list
      elements: str
      returned: success
    site:
      description: Its site.
      type: str
      returned: for a host with C(k3s_artifact_site)
    relay_free:
      description: Bytes that are free where a relay has its folder. V(null) if the node does not say.
      type: int
      returned: for a host with C(k3s_artifact_site)
    files:
      description:
        - The host's files, each with C(kind) (binary, script, archive, package), C(source), C(dest), C(size),
          C(sha256),
          C(verified), C(version), C(installed) (what is at the destination), C(action), C(bytes_to_send), C(free),
          C(came) and C(previous) (where the binary that it replaces stays).
        - C(action) is V(nothing), V(install), V(replace) or V(attributes), the last where only owner, group or mode
          differ.
        - C(came) is empty after V(look), V(waiting) for what V(send) sent. After V(place) it is V(pushed) for what
          was sent, V(fetched) for what came from C(k3s_artifact_url), V(relayed) for what came from a relay of the
          host's site, and V(there) for what was on the node before.
      type: list
      elements: dict
      returned: success
is_relay:
  description: Whether the host serves files to its site, since the relay of that has failed.
  returned: for V(step=send), if it sent something
  type: bool
sent:
  description: What V(step=place) has to know of what waits on the node.
  returned: for V(step=send)
  type: list
  elements: dict
packages:
  description: SELinux packages that are to be installed, paths of the node.
  returned: for V(step=send), where something is sent
  type: list
  elements: str
packages_key:
  description: The public key that signed them, a path of the node.
  returned: for V(step=send), where something is sent
  type: str
packages_backend:
  description: V(dnf4) or V(dnf5), for O(ansible.builtin.dnf#module:use_backend).
  returned: for V(step=send), where something is sent
  type: str
msg:
  description: All problems of the host.
  returned: for V(step=check), if there are any
  type: str
"""
