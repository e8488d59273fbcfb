# SPDX-License-Identifier: GPL-3.0-or-later
"""The processes between a worker and ``ansible-playbook``: nothing that a play started outlives the play.

``__main__.py`` is run as a file by ``python -I -S -E``, and this package then stands alone: it needs the standard
library only, imports little of it, and its modules import each other by relative names.

The *guard* is the worker's child: it takes the worker's signals, notices the worker's death (PR_SET_PDEATHSIG), looks
until when the play may go on (see ``lifeline``) and how much memory it uses, and ends as the command ended. The
*reaper* is the guard's child and adopts whatever daemonises: as process 1 of a PID namespace where the host permits
that, else as a child subreaper (prctl(2)). It starts what is guarded in a session of its own and passes standard
streams, working directory, environment and signals through, so that the command behaves as if the worker had started
it. When the command ends, and when the play is to be ended, every process that the reaper adopted gets SIGTERM, and
after ``GRACE`` seconds SIGKILL.

- In a PID namespace the kernel kills the reaper with the guard, and with process 1 everything in the namespace: whoever
  it belongs to, whatever it did to its environment or session, and whoever else was killed in the same instant.
- Without one, the guard's death is a signal for the reaper, which then ends the rest. A control group (version 2) ends
  processes of other users as well. When worker, guard and reaper are all killed at once, whoever plays next on the
  host ends what is left (see ``private.clear``).

A play may also be started by a server that has Ansible loaded (``warm``). Then the worker's child hands over what a
process inherits (``handover``) and stands for the play; the guard is a fork of the server, to which the worker's child
is what a worker is else: when it dies, its connection to the guard is closed, and that ends the play.

Not covered: what others start on request (systemd-run, at, a container engine's daemon).
"""
