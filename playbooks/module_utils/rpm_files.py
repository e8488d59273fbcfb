# SPDX-License-Identifier: GPL-3.0-or-later
"""Read RPM files and repositories: what is in them, which is the newest, whether a file is whole."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import createrepo_c as cr
from ansible.module_utils.compose_layout import ComposeFault
from ansible.module_utils.rpm_versions import Evr

# Tags of rpm's header (rpmtag.h): the digest of the compressed payload, and its algorithm as OpenPGP numbers it.
_PAYLOAD_DIGEST, _PAYLOAD_DIGEST_ALGORITHM = 5092, 5093
_ALGORITHMS = {1: "md5", 2: "sha1", 8: "sha256", 9: "sha384", 10: "sha512"}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
_HEADER_LIMIT = 256 * 1024 * 1024


class BrokenRpm(ComposeFault):
    """A file that is not a whole RPM; the message says why, without the path."""


def read_rpm(path: Path) -> cr.Package:
    """Read the header of an RPM; raises BrokenRpm. A name that it returns is safe as part of a path."""
    try:
        package = cr.package_from_rpm(str(path))
    except (cr.CreaterepoCError, OSError) as fault:
        reason = str(fault).rpartition(f"{path}: ")[2].rstrip(".")
        raise BrokenRpm(f"its header cannot be read ({reason})") from fault
    if not _NAME.fullmatch(package.name or ""):
        raise BrokenRpm(f"its header says that its name is {package.name!r}")
    return package


def check_payload(path: Path, package: cr.Package) -> None:
    """Compare the payload with the digest that the header states; raises BrokenRpm.

    RPMs older than rpm 4.14 state none and pass.
    """
    with path.open("rb") as file:
        file.seek(package.rpm_header_start)
        stated, algorithm = _payload_digest(
            file.read(min(package.rpm_header_end - package.rpm_header_start, _HEADER_LIMIT))
        )
        if stated is None or algorithm not in _ALGORITHMS:
            return
        file.seek(package.rpm_header_end)
        found = hashlib.file_digest(file, _ALGORITHMS[algorithm]).hexdigest()
    if found != stated:
        raise BrokenRpm("its payload does not match the digest in its header: it was cut short or changed")


def _payload_digest(header: bytes) -> tuple[str | None, int]:
    """The digest and its algorithm from a raw header: 16 bytes intro, 16 bytes an index entry, then the data."""
    count = struct.unpack_from(">I", header, 8)[0]
    data, digest, algorithm = 16 + 16 * count, None, 8
    for number in range(count):
        tag, _type, offset, _items = struct.unpack_from(">IIII", header, 16 + 16 * number)
        if tag == _PAYLOAD_DIGEST:
            digest = header[data + offset : header.index(b"\0", data + offset)].decode("ascii", "replace")
        elif tag == _PAYLOAD_DIGEST_ALGORITHM:
            algorithm = struct.unpack_from(">I", header, data + offset)[0]
    return digest, algorithm


def evr(package: cr.Package) -> Evr:
    """Epoch, version and release of a package."""
    return Evr(package.epoch or "0", package.version, package.release)


def nevra(package: cr.Package) -> str:
    """``name-epoch:version-release.arch``, as productmd writes it."""
    return f"{package.name}-{package.epoch or 0}:{package.version}-{package.release}.{package.arch}"


def newest(packages: Iterable[tuple[Path, cr.Package]]) -> dict[str, tuple[Path, cr.Package]]:
    """For each name the package with the highest EVR."""
    best: dict[str, tuple[Path, cr.Package]] = {}
    for path, package in packages:
        held = best.get(package.name)
        if held is None or evr(held[1]).key < evr(package).key:
            best[package.name] = (path, package)
    return best


def repository(path: Path, *, files: bool = False) -> Iterator[cr.Package]:
    """The packages of a repository by its repodata; ``files`` reads the file lists too.

    Raises FileNotFoundError when there is no repodata.
    """
    reader = cr.RepositoryReader.from_path(str(path), warningcb=lambda _kind, _message: True)
    packages, _warnings = reader.parse_packages(only_primary=not files)
    return iter(packages.values())
