# Copyright: (c) 2026, k3s-artifact contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The documentation of the action plugin of the same name, which does all the work on the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: release
author: k3s-artifact contributors (@k3s-artifact)
version_added: "1.1.0"
short_description: Fetch a K3s release, verified, into one folder per architecture
description:
  - Fetches the binary, an image archive, the checksum list and the install script of a K3s release for one or more
    architectures, each into its folder C(<dir>/<arch>). The binary is saved as C(k3s), whatever the release calls it.
  - It works on the controller, whatever the host of the task is. The playbook C(airgap.k3s.download) is this action
    with a variable for each option.
  - The checksum lists of all architectures are read first. A file is fetched if what is there has another digest. All
    files of a folder arrive in C(<dir>/<arch>/.partial), are verified there, and take their places together.
  - A file that a run left in the middle is continued by the next one, where the server can do that (C(Range)), else
    fetched anew.
  - A binary under its release name, or an archive in another compression, that belongs to another release is removed.
  - A checksum list and an install script may have 1 MiB, any other file 2 GiB. A server is given up if it does not
    begin to answer within two times O(timeout), or sends less than 4 KiB a second over a time of O(timeout).
  - The keyword C(environment) of the play or the task is used, as modules use it (C(https_proxy), C(no_proxy),
    C(SSL_CERT_FILE)).
options:
  version:
    description: The release as K3s names it, with its C(v) and its C(+). C(k3s_version) in the playbook.
    type: str
    required: true
  dir:
    description: Where the folders go, a whole path. C(k3s_artifact_dir), else C(airgap_dir) in the playbook.
    type: path
    required: true
  arches:
    description:
      - Any of V(amd64), V(arm64), V(arm), V(s390x), V(riscv64). C(k3s_download_arches) in the playbook.
      - Without it, the architectures of the inventory's hosts, from C(k3s_artifact_machine) or
        C(ansible_facts.architecture), if that is known for every host. Else all, and those that the release does not
        have are left out and named.
    type: list
    elements: str
  images:
    description: The compression of the image archive, or V(none) for no archive. C(k3s_download_images) in the
      playbook.
    type: str
    choices: [zst, gz, plain, none]
    default: zst
  url:
    description: The base address. Files are taken from C(<url>/<version>/<file>). C(k3s_download_url) in the playbook.
    type: str
    default: https://github.com/k3s-io/k3s/releases/download
  install_url:
    description: The address of the install script, empty to go without. C(k3s_download_install_url) in the playbook.
    type: str
    default: https://get.k3s.io/
  username:
    description: For a mirror that asks for it. It goes to the server of O(url) only. C(k3s_download_username) in the
      playbook.
    type: str
  password:
    description:
      - The password for O(username).
      - Without it, the variable C(k3s_download_password). Callbacks may record the options of a task, but not that
        variable.
    type: str
  force_basic_auth:
    description: Send O(username) and O(password) unasked. C(k3s_download_force_basic_auth) in the playbook.
    type: bool
    default: false
  ca_path:
    description:
      - A PEM file with the CA of the mirror, in place of the system's CAs. C(k3s_download_ca_path) in the playbook.
    type: path
  use_proxy:
    description: V(false) ignores the proxy variables of the environment. C(k3s_download_use_proxy) in the playbook.
    type: bool
    default: true
  timeout:
    description: Seconds without a byte before a server is given up. C(k3s_download_timeout) in the playbook.
    type: int
    default: 30
attributes:
  check_mode:
    description: The checksum lists and the install script are read, what would change is told, and nothing is written.
    support: full
  diff_mode:
    description: There is no diff.
    support: none
"""

EXAMPLES = r"""
- name: Fetch a release for two architectures
  airgap.k3s.release:
    version: v1.31.4+k3s1
    dir: /srv/airgap
    arches: [amd64, arm64]

- name: Fetch a release for the hosts of the inventory from a company's mirror
  airgap.k3s.release:
    version: v1.31.4+k3s1
    dir: /srv/airgap
    url: https://mirror.example.com/k3s
    install_url: https://mirror.example.com/k3s/install.sh
    ca_path: /etc/ssl/company-ca.pem
"""

RETURN = r"""
arches:
  description: The architectures that are there now.
  returned: success
  type: list
  elements: str
arches_without_release:
  description: The architectures that the release does not have and nobody asked for.
  returned: success
  type: list
  elements: str
files:
  description: Each file that belongs into a folder.
  returned: success
  type: list
  elements: dict
  contains:
    arch:
      description: The architecture.
      type: str
    path:
      description: Where the file is.
      type: str
    name:
      description: The file's name in the release.
      type: str
    size:
      description: The size in bytes, none for a file that is not there.
      type: int
    sha256:
      description: The digest.
      type: str
    state:
      description:
        - V(present) was there and right, V(fetched) came now, V(continued) came in this run and an earlier one,
          V(missing) would be fetched if this was not check mode.
      type: str
removed:
  description: The files of other releases that were removed.
  returned: success
  type: list
  elements: str
lines:
  description: The same for people, one line for each file.
  returned: success
  type: list
  elements: str
msg:
  description: What is where now, or what went wrong and what to do next.
  returned: always
  type: str
"""
