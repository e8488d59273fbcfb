# SPDX-License-Identifier: GPL-3.0-or-later
"""A server that has Ansible loaded, and forks each play that it is asked for.

``__main__.py`` is run as a file by the Python of ``ansible-playbook``, in the environment and the working directory of
the plays; like the guard it stands alone. A fork of it receives the request, so that the server itself never sees what
is in one: the fork looks whether a play started now by the plain command would have loaded the very same files in the
same environment, declines if not, and else turns into the play's guard, which forks the reaper, which forks the play.
"""
