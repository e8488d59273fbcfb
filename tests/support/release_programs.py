# SPDX-License-Identifier: GPL-3.0-or-later
"""koji, registries, OSTree repositories and image composes for tests, made of files, with the programs that work on
them.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import productmd.images

BUILD = "Fedora-Container-Base-Generic-44-20261120.0"
IMAGE_ARCHES = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x"}
PROGRAMS = ("koji", "skopeo", "buildah", "ostree", "gpgv")


@dataclass(frozen=True)
class World:
    """Everything outside of the plays, below a directory."""

    top: Path

    @classmethod
    def make(cls, top: Path) -> World:
        (top / "bin").mkdir(parents=True)
        for program in PROGRAMS:
            (top / "bin" / program).symlink_to(Path(__file__).with_name("release-programs"))
        return cls(top)

    def path(self, before: str) -> str:
        """A search path that finds the stand-ins first."""
        return f"{self.top / 'bin'}:{before}"

    @property
    def calls(self) -> list[list[str]]:
        """How the programs were called."""
        file = self.top / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def images(self) -> dict[str, str]:
        """What the registries have."""
        return {unquote(path.name): path.read_text() for path in sorted((self.top / "registries").glob("*"))}

    def build(self, *arches: str, build: str = BUILD, **wrong: str) -> None:
        """An image build of koji, the newest of its tag. ``wrong`` says which architecture an image is really for."""
        name, version, release = build.rsplit("-", 2)
        directory = self.top / "koji" / build
        directory.mkdir(parents=True, exist_ok=True)
        (self.top / "koji" / f"latest-{name}").write_text(f"{build}  f44-updates-candidate  releng\n")
        for arch in arches:
            image = {"Architecture": IMAGE_ARCHES[wrong.get(arch, arch)], "Name": build, "Arch": arch}
            packed = lzma.compress(json.dumps(image).encode())
            (directory / f"{name}-{version}-{release}.{arch}.oci.tar.xz").write_bytes(packed)

    def commit(self, repo: Path, ref: str, commit: str) -> None:
        """A commit of an OSTree repository, with its ref."""
        for path, text in ((repo / "objects" / commit, "a commit"), (repo / "refs" / ref, commit)):
            path.parent.mkdir(parents=True, exist_ok=True)
            before = path.read_text() if path.exists() and path.parts[-2] != "objects" else ""
            path.write_text(f"{text}\n{before}")


def image_compose(path: Path, images: dict[str, bytes]) -> None:
    """A compose that has nothing but images and their metadata."""
    manifest = productmd.images.Images()
    manifest.compose.id, manifest.compose.type = path.name, "nightly"
    manifest.compose.date, manifest.compose.respin = "20261120", 0
    for name, content in images.items():
        file = path / "compose" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        image = productmd.images.Image(manifest)
        image.path, image.arch, image.size, image.mtime = name, "x86_64", len(content), 1
        image.type, image.format, image.volume_id, image.subvariant = "dvd", "iso", None, file.stem
        image.disc_number = image.disc_count = 1
        image.checksums = {"sha256": hashlib.sha256(content).hexdigest()}
        manifest.add("Server", "x86_64", image)
    metadata = path / "compose" / "metadata" / "images.json"
    metadata.parent.mkdir(parents=True, exist_ok=True)
    manifest.dump(str(metadata))
