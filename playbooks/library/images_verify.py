#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: compare a compose's images with what its images.json says of them."""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple
from urllib.error import HTTPError
from urllib.parse import quote, unquote

import productmd.images
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

DOCUMENTATION = r"""
module: images_verify
short_description: Compare a compose's images with its metadata
description:
  - Reads C(metadata/images.json), and each image that it lists once, for its size, its strongest checksum, and its
    detached signature (IMAGE.asc or IMAGE.sig). Nothing is written, and nothing of an image is kept.
  - An image without one is signed as well when a clear-signed file beside it, with CHECKSUM in its name, has its
    checksum, as Fedora's releases do it.
  - Reads the directory when this host has it, else the URL.
options:
  compose_id: {description: The id that images.json must say., type: str, required: true}
  path: {description: The compose's directory., type: str, default: ""}
  location: {description: The URL of its directory compose/., type: str, default: ""}
  keyring: {description: Public keys for gpgv; signatures are not looked at without one., type: str, default: ""}
  signed: {description: Whether an image without a signature is a fault., type: bool, default: false}
  gpgv: {description: The gpgv to run., type: str, default: gpgv}
author: [The relengq authors]
"""
EXAMPLES = r"""
- images_verify:
    compose_id: Fedora-Rawhide-20261120.n.0
    location: https://kojipkgs.fedoraproject.org/compose/rawhide/Fedora-Rawhide-20261120.n.0/compose
"""
RETURN = r"""
images: {description: How many images there are., type: int, returned: success}
bytes: {description: Their size., type: int, returned: success}
signed: {description: How many have a good signature., type: int, returned: success}
source: {description: Where they were read., type: str, returned: success}
"""

OPTIONS = {
    "compose_id": {"type": "str", "required": True},
    "path": {"type": "str", "default": ""},
    "location": {"type": "str", "default": ""},
    "keyring": {"type": "str", "default": ""},
    "signed": {"type": "bool", "default": False},
    "gpgv": {"type": "str", "default": "gpgv"},
}
CHECKSUMS = ("sha512", "sha384", "sha256")
SIGNATURES = (".asc", ".sig")
PIECE = 1 << 20
METADATA_LIMIT = 64 << 20
SIGNATURE_LIMIT = 1 << 20
LISTING_LIMIT = 4 << 20
LINK = re.compile(r"""href=["']?([^"'?#/<>\s]*CHECKSUM[^"'?#/<>\s]*)""", re.IGNORECASE)
CLEAR_SIGNED = re.compile(
    rb"^-----BEGIN PGP SIGNED MESSAGE-----\s*$.*?^-----END PGP SIGNATURE-----\s*$", re.DOTALL | re.MULTILINE
)
SUM = re.compile(r"^([A-Z0-9]+) \((.+)\) = ([0-9A-Fa-f]+)$", re.MULTILINE)
SHOWN = 20
TIMEOUT = 60


class Fault(Exception):
    """What is wrong with an image, or with the whole; the message says what."""


class Directory:
    """A compose in a directory of this host."""

    def __init__(self, top: Path) -> None:
        self.top = top.resolve()

    def __str__(self) -> str:
        return str(self.top)

    def open(self, name: str) -> BinaryIO | None:
        """The file, or None when there is none. A link that leads out of the compose is none."""
        path = (self.top / name).resolve()
        return path.open("rb") if path.is_relative_to(self.top) and path.is_file() else None

    def checksums(self, directory: str) -> list[str]:
        """The names of the checksum files in a directory."""
        path = (self.top / directory).resolve()
        if not path.is_relative_to(self.top) or not path.is_dir():
            return []
        return sorted(f"{directory}/{each.name}" for each in path.iterdir() if "CHECKSUM" in each.name)


class Web:
    """A compose behind a URL."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def __str__(self) -> str:
        return self.url

    def open(self, name: str) -> BinaryIO | None:
        """The file, or None when there is none."""
        try:
            return open_url(f"{self.url}/{quote(name)}", timeout=TIMEOUT)
        except HTTPError as error:
            if error.code in (404, 410):
                return None
            raise Fault(f"{self.url}/{name}: {error}") from error

    def checksums(self, directory: str) -> list[str]:
        """The names of the checksum files that the server's list of the directory links to."""
        try:
            with open_url(f"{self.url}/{quote(directory)}/", timeout=TIMEOUT) as page:
                text = page.read(LISTING_LIMIT).decode(errors="replace")
        except HTTPError:
            return []  # this server gives no lists
        return sorted({f"{directory}/{unquote(found)}" for found in LINK.findall(text) if "/" not in unquote(found)})


class Listed(NamedTuple):
    """An image as images.json has it."""

    name: str
    size: int
    algorithm: str
    digest: str


class Keys(NamedTuple):
    """Who may sign, and how that is found out."""

    gpgv: str
    keyring: str
    must: bool


def source(path: str, location: str) -> Directory | Web:
    """Where the compose is read: here when it is here."""
    if path and Path(path, "compose", "metadata", "images.json").is_file():
        return Directory(Path(path, "compose"))
    if location.startswith(("http://", "https://")):
        return Web(location)
    raise Fault(f"there is no compose in {path or 'any directory'} on this host, and no URL is given to read it from")


def listed(place: Directory | Web, compose_id: str) -> list[Listed]:
    """The images, each once: one that several variants share is listed for each of them."""
    file = place.open("metadata/images.json")
    if file is None:
        raise Fault(f"{place} has no metadata/images.json")
    with file:
        text = file.read(METADATA_LIMIT).decode()
    manifest = productmd.images.Images()
    manifest.loads(text)
    if manifest.compose.id != compose_id:
        raise Fault(f"{place} is {manifest.compose.id}, not {compose_id}")
    found = {
        image.path: image
        for arches in manifest.images.values()
        for images in arches.values()
        for image in images
    }  # fmt: skip
    return [as_listed(image) for _, image in sorted(found.items())]


def as_listed(image: productmd.images.Image) -> Listed:
    parts = PurePosixPath(image.path).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise Fault(f"images.json has the path {image.path!r}, which is not inside of the compose")
    algorithm = next((name for name in CHECKSUMS if name in image.checksums), "")
    return Listed(image.path, image.size, algorithm, image.checksums.get(algorithm, ""))


def pieces(file: BinaryIO, limit: int) -> Iterator[bytes]:
    """The file, a piece at a time, up to the first piece beyond the limit."""
    read = 0
    while read <= limit and (piece := file.read(PIECE)):
        read += len(piece)
        yield piece


class SignedSums:
    """What the clear-signed checksum files of a compose say, a directory at a time."""

    def __init__(self, place: Directory | Web, keys: Keys) -> None:
        self.place, self.keys = place, keys
        self.known = {}

    def of(self, image: Listed) -> dict[str, str]:
        """The checksums of the image by their algorithms; none when no signed file has it. Raises Fault."""
        directory, _, name = image.name.rpartition("/")
        if directory not in self.known:
            self.known[directory] = [self._read(file) for file in self.place.checksums(directory or ".")]
        found = {}
        for file, sums, fault in self.known[directory]:
            if fault and name in sums:
                raise Fault(f"the signature of {file}, which lists it, is not good")
            for algorithm, digest in sums.get(name, {}).items() if not fault else ():
                if found.setdefault(algorithm, digest) != digest:
                    raise Fault(f"the signed files beside it have two different checksums of it, one in {file}")
        return found

    def _read(self, name: str) -> tuple[str, dict[str, dict[str, str]], bool]:
        """The name, what the file says of each image, and whether it is signed, but not well."""
        file = self.place.open(name)
        if file is None:
            return name, {}, False
        with file:
            signed = CLEAR_SIGNED.search(file.read(LISTING_LIMIT))
        if signed is None:
            return name, {}, False
        with tempfile.NamedTemporaryFile() as copy:
            # Only what is between the signature's own lines: anybody may add to the file outside of them.
            copy.write(signed[0] + b"\n")
            copy.flush()
            argv = [self.keys.gpgv, "--keyring", self.keys.keyring, "--output", "-", "--", copy.name]
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        bad = done.returncode != 0
        sums = {}
        for algorithm, image, digest in SUM.findall((signed[0] if bad else done.stdout).decode(errors="replace")):
            if algorithm.lower() in CHECKSUMS:
                sums.setdefault(image, {})[algorithm.lower()] = digest.lower()
        return name, sums, bad


def check(place: Directory | Web, image: Listed, keys: Keys, sums: SignedSums) -> bool:
    """Read the image once, for everything. Returns whether it has a good signature; raises Fault."""
    if not image.algorithm:
        raise Fault("images.json has no checksum of it that counts")
    with ExitStack() as stack:
        file = place.open(image.name)
        if file is None:
            raise Fault("it is not there")
        stack.enter_context(file)
        signature = signature_of(place, image.name) if keys.keyring else None
        judge = stack.enter_context(Judge(keys, signature)) if signature else None
        vouched = sums.of(image) if keys.keyring and not signature else {}
        digests, size = {name: hashlib.new(name) for name in {image.algorithm, *vouched}}, 0
        for piece in pieces(file, image.size):
            for digest in digests.values():
                digest.update(piece)
            size += len(piece)
            if judge:
                judge.read(piece)
        if size != image.size:
            told = f"more than {image.size}" if size > image.size else str(size)
            raise Fault(f"it has {told} bytes, not {image.size}")
        compare({name: digest.hexdigest() for name, digest in digests.items()}, image, vouched)
        if judge and not judge.good():
            raise Fault("its signature is not good")
    if keys.must and not (signature or vouched):
        raise Fault("it has no signature" if keys.keyring else "signatures are asked for, and no keyring is given")
    return bool(signature or vouched)


def compare(found: dict[str, str], image: Listed, vouched: dict[str, str]) -> None:
    """Raise Fault unless the checksums that were found are those of the metadata and of the signed file."""
    if found[image.algorithm] != image.digest.lower():
        raise Fault(f"its {image.algorithm} is {found[image.algorithm]}, not {image.digest}")
    for name, digest in vouched.items():
        if found[name] != digest:
            raise Fault(f"its {name} is not the one that the signed file beside it has")


def signature_of(place: Directory | Web, name: str) -> bytes | None:
    for suffix in SIGNATURES:
        file = place.open(name + suffix)
        if file is not None:
            with file:
                return file.read(SIGNATURE_LIMIT)
    return None


class Judge:
    """A gpgv that reads an image as it comes by."""

    def __init__(self, keys: Keys, signature: bytes) -> None:
        self.keys, self.signature = keys, signature

    def __enter__(self) -> Judge:
        self.file = tempfile.NamedTemporaryFile()
        self.file.write(self.signature)
        self.file.flush()
        argv = [self.keys.gpgv, "--keyring", self.keys.keyring, "--", self.file.name, "-"]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._close()
        self.file.close()

    def read(self, piece: bytes) -> None:
        try:
            self.process.stdin.write(piece)
        except OSError:
            # It has made up its mind; its exit code says how.
            return

    def good(self) -> bool:
        self._close()
        return self.process.wait() == 0

    def _close(self) -> None:
        try:
            self.process.stdin.close()
        except OSError:
            return


def verify(options: dict) -> dict:
    """The module's work."""
    place = source(options["path"], options["location"])
    images = listed(place, options["compose_id"])
    keys = Keys(options["gpgv"], options["keyring"], options["signed"])
    sums = SignedSums(place, keys)
    signed, faults = 0, []
    for image in images:
        try:
            signed += check(place, image, keys, sums)
        except (Fault, OSError) as fault:
            faults.append(f"{image.name}: {fault}")
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise Fault(f"{len(faults)} of {len(images)} are not as they should be: {'; '.join(faults[:SHOWN])}{more}")
    return {"images": len(images), "bytes": sum(image.size for image in images), "signed": signed, "source": str(place)}


def main() -> None:
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    try:
        result = verify(module.params)
    except (Fault, OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
        module.fail_json(msg=f"The images cannot be vouched for: {fault}")
    if not result["images"]:
        module.warn(f"{module.params['compose_id']} lists no images")
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
