# SPDX-License-Identifier: GPL-3.0-or-later
"""``listen``: messages of the bus start runs and end waits."""

from __future__ import annotations

import logging

import click

from relengq import records
from relengq.bus import configuration
from relengq.bus.listening import listen
from relengq.cli.options import Options
from relengq.engine.installation import at
from relengq.listener import Listener
from relengq.settings import Settings


@click.command("listen")
@click.pass_context
def listen_command(context: click.Context) -> None:
    """Listen to the message bus: start runs, end waits.

    The bus is the one of fedora-messaging's own configuration file: the setting
    bus_config, else $FEDORA_MESSAGING_CONF, else /etc/fedora-messaging/config.toml.
    The queue is the file's; when it names none, a durable one is made (bus_queue).
    It is bound to the topics that the site's workflows name, also when they change.

    A message is acknowledged when what it started is in the database. SIGTERM or
    Ctrl-C finishes what is under way; no message is lost by stopping.

    \b
    Example:     relengq listen
                 the same, with the queue and bindings of the file alone:
                 fedora-messaging consume --callback=relengq.listener:Listener
    Exit codes:  2 the configuration file or the site cannot be used
    """
    settings = Settings.load()
    options = context.find_object(Options)
    records.configure(logging.DEBUG if options and options.verbose else logging.INFO, settings.log_format)
    file = configuration.load(configuration.find(settings.bus_config))
    queues = file.queues_or(settings.bus_queue)
    listener = Listener(at(settings.site), file)
    if not file.passive:
        listener.bind(next(iter(queues)), file.exchange)
    listener.start()
    listen(listener, queues)
