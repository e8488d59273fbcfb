# SPDX-License-Identifier: GPL-3.0-or-later
"""The only door to fedora-messaging: its configuration, its consumer, its schemas, its publisher.

Nothing is imported here, because importing fedora-messaging's consumer takes its time and installs Twisted's reactor.
"""
