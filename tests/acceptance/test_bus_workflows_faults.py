# SPDX-License-Identifier: GPL-3.0-or-later
"""What the plays behind the bus do with wrong values and wrong images, each by ansible-playbook alone."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from relengq.documents import Json
from tests.support.composes import Played, play
from tests.support.release_programs import BUILD, World, image_compose

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
COMPOSE = "Fedora-Rawhide-20261120.n.0"
DIGEST = "sha256:" + "0" * 64
HOSTILE = "{{ lookup('pipe', 'touch %s') }}; touch %s $(touch %s) `touch %s` ' || touch %s '\ntouch %s"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Stand-ins for koji and the others in PATH."""
    world = World.make(tmp_path / "world")
    monkeypatch.setenv("PATH", world.path(os.environ["PATH"]))
    monkeypatch.setenv("RELEASE_PROGRAMS", str(world.top))
    return world


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is http.server's
        return


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The URL of ``tmp_path``."""
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


def verify(**given: Json) -> Played:
    """Verify the images of the compose."""
    variables = {f"images_{name}": value for name, value in given.items()}
    return play("images-verify.yml", {"images_compose_id": COMPOSE, **variables}, env={"no_proxy": "127.0.0.1"})


def test_images_are_read_over_the_network_with_their_signatures(tmp_path: Path, world: World, web: str) -> None:
    image_compose(tmp_path / COMPOSE, {"Server/signed.iso": b"an image" * 400_000, "Server/unsigned.iso": b"small"})
    top, keyring = tmp_path / COMPOSE / "compose", tmp_path / "keys"
    keyring.write_text("a key")
    signature = top / "Server" / "signed.iso.asc"
    signature.write_text(f"a key {hashlib.sha256((top / 'Server/signed.iso').read_bytes()).hexdigest()}")
    location = f"{web}/{COMPOSE}/compose"

    played = verify(location=location, compose_path="/nowhere", keyring=str(keyring))
    assert played.code == 0, played.text
    assert played.outputs == {"images": 2, "images_bytes": 3_200_005, "images_signed": 1, "images_source": location}
    assert [call[0] for call in world.calls] == ["gpgv"]

    signature.write_text("somebody else's key")
    (top / "Server" / "unsigned.iso").write_bytes(b"small, and then more than was said")
    played = verify(location=location, keyring=str(keyring), signed=True)
    assert played.code == 2
    assert "2 of 2 are not as they should be" in played.message
    assert "Server/signed.iso: its signature is not good" in played.message
    assert "Server/unsigned.iso: it has more than 5 bytes, not 5" in played.message


@pytest.fixture(scope="module")
def keyring() -> Iterator[Path]:
    """The public key of a signer whose secret key is in the same directory, for the real gpgv."""
    with tempfile.TemporaryDirectory(prefix="gnupg-") as name:  # a short path: the agent has a socket in it
        home = Path(name)
        gpg(home, "--passphrase", "", "--quick-gen-key", "releng@example.org", "ed25519", "sign", "never")
        (home / "keys").write_bytes(gpg(home, "--export"))
        yield home / "keys"
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)


def gpg(home: Path, *arguments: str, content: bytes = b"") -> bytes:
    argv = ["gpg", "--homedir", home, "--batch", "--quiet", *arguments]
    return subprocess.run(argv, input=content, check=True, capture_output=True).stdout


def sums(**images: bytes) -> bytes:
    """The lines of a CHECKSUM."""
    return "".join(
        f"SHA256 ({name}.iso) = {hashlib.sha256(data).hexdigest()}\n" for name, data in images.items()
    ).encode()


def test_a_clear_signed_list_of_checksums_vouches_for_its_images(tmp_path: Path, web: str, keyring: Path) -> None:
    """As Fedora signs its releases: a CHECKSUM in each directory of images, and no signature beside any image."""
    image_compose(tmp_path / COMPOSE, {"Server/a.iso": b"one", "Server/b.iso": b"two", "Cloud/c.iso": b"three"})
    server, cloud = (tmp_path / COMPOSE / "compose" / name for name in ("Server", "Cloud"))
    signed = gpg(keyring.parent, "--clearsign", content=b"# a.iso: 3 bytes\n" + sums(a=b"one", b=b"two"))
    list_of_server = server / "Fedora-Server-44-1.1-x86_64-CHECKSUM"
    list_of_server.write_bytes(signed)
    # What stands outside of the signature counts for nothing, nor does a list that nobody signed.
    (cloud / "Fedora-Cloud-44-1.1-CHECKSUM").write_bytes(sums(c=b"three"))
    location = f"{web}/{COMPOSE}/compose"

    for where in ({"location": location}, {"compose_path": str(tmp_path / COMPOSE)}):
        played = verify(keyring=str(keyring), **where)
        assert (played.code, played.outputs["images_signed"]) == (0, 2), played.text
    played = verify(keyring=str(keyring), signed=True, compose_path=str(tmp_path / COMPOSE))
    assert (played.code, "1 of 3 are not" in played.message) == (2, True), played.text
    assert "Cloud/c.iso: it has no signature" in played.message

    list_of_server.write_bytes(signed.replace(b"3 bytes", b"4 bytes"))
    (cloud / "Fedora-Cloud-44-1.1-CHECKSUM").write_bytes(
        gpg(keyring.parent, "--clearsign", content=sums(c=b"what it should be")) + sums(c=b"three")
    )
    played = verify(keyring=str(keyring), location=location)
    assert (played.code, "3 of 3 are not" in played.message) == (2, True), played.text
    assert "Server/a.iso: the signature of Server/Fedora-Server-44-1.1-x86_64-CHECKSUM" in played.message
    assert "Cloud/c.iso: its sha256 is not the one that the signed file beside it has" in played.message


def test_another_compose_and_paths_out_of_it_are_refused(tmp_path: Path, web: str) -> None:
    image_compose(tmp_path / COMPOSE, {"Server/a.iso": b"a"})
    metadata = tmp_path / COMPOSE / "compose/metadata/images.json"
    good = metadata.read_text()
    faults = {
        good.replace(COMPOSE, "Fedora-Rawhide-20261119.n.0"): f"is Fedora-Rawhide-20261119.n.0, not {COMPOSE}",
        good.replace("Server/a.iso", "../../secret"): "which is not inside of the compose",
        "{": "The images cannot be vouched for",
    }
    with ThreadPoolExecutor(2) as pool:
        nowhere = pool.submit(verify, location=f"{web}/nothing")
        for text, sentence in faults.items():
            metadata.write_text(text)
            played = verify(compose_path=str(tmp_path / COMPOSE))
            assert (played.code, sentence in played.message) == (2, True), played.text
            assert "Traceback" not in played.text
        assert f"{web}/nothing has no metadata/images.json" in nowhere.result().message


def test_hostile_values_do_nothing(tmp_path: Path, world: World) -> None:
    """Where a value is checked, the play fails before any program is called; where any text will do, it is a name."""
    trap = tmp_path / "trap"
    evil = HOSTILE.replace("%s", str(trap))
    option, inside = f"--option={evil}", f"/mnt/../{evil}"
    world.build("x86_64", "aarch64")
    copy = {"container_build": BUILD, "container_arch": "x86_64", "container_release": "44"}
    manifest = {
        "container_release": "44", "container_arches": ["x86_64"], "container_registries": ["localhost:5000"],
        "container_digests": {"x86_64": {"localhost:5000": DIGEST}},
    }  # fmt: skip
    ref = {"ostree_ref": "fedora/x", "ostree_commit": "0" * 64, "ostree_repo": "/repo"}
    plays: list[tuple[str, dict[str, Json]]] = [
        ("container-find.yml", {"container_koji_tag": evil, "container_image": "Fedora-Container-Base-Generic"}),
        ("container-copy.yml", {**copy, "container_build": option}),
        ("container-copy.yml", {**copy, "container_registries": ["localhost:5000", evil]}),
        ("container-manifest.yml", {**manifest, "container_extra_tags": [option]}),
        ("container-manifest.yml", {**manifest, "container_digests": {"x86_64": {"localhost:5000": evil}}}),
        ("images-verify.yml", {"images_compose_id": evil, "images_compose_path": evil, "images_location": evil}),
        ("push-check.yml", {"push_path": inside}),
        ("push-list.yml", {"push_path": evil, "push_list": str(tmp_path / "list")}),
        ("ostree-check.yml", {**ref, "ostree_ref": option}),
        ("ostree-summary.yml", {**ref, "ostree_repo": inside}),
    ]
    with ThreadPoolExecutor(2) as pool:
        for (playbook, _), played in zip(plays, pool.map(lambda each: play(*each), plays), strict=True):
            assert played.code == 2, f"{playbook}\n{played.text}"
    assert world.calls == []
    assert not trap.exists()


def test_hostile_names_of_files_are_only_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    push = tmp_path / "push"
    push.mkdir()
    names = ["{{ lookup('pipe', 'touch trap') }}", "$(touch trap)", "two\nlines\tof it", "-rf"]
    for name in names:
        (push / name).write_text("")
    played = play("push-list.yml", {"push_path": str(push), "push_list": str(tmp_path / "list")})
    assert (played.code, played.outputs["push_files"]) == (0, 4), played.text
    listed = [line.split("\t") for line in (tmp_path / "list").read_text().splitlines()]
    assert {row[3] for row in listed} == {*names[:2], "two\\nlines\\tof it", "-rf"}
    played = play("push-list.yml", {"push_path": str(push), "push_list": str(tmp_path / "list")})
    assert played.changed == 0
    assert not list(tmp_path.rglob("trap"))
