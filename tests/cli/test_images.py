"""``inspect`` and ``build`` of images, given as layouts, archives and references to a registry."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler.cli.main import main
from reconciler.errors import Exit
from reconciler.image import e2fsck
from tests.image.oci.test_stored import LAYERS, two_platforms
from tests.support import ext4, stored
from tests.support.layers import pack
from tests.support.oci import LyingRegistry, forget, image, needs
from tests.support.policy import PERMISSIVE
from tests.support.trees import file

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layout and archives of one image."""
    top = tmp_path_factory.mktemp("images")
    layout = stored.umoci_layout(top / "layout", "v1", LAYERS)
    stored.skopeo(f"oci:{layout}:v1", f"oci-archive:{top}/oci.tar:v1")
    stored.skopeo(f"oci:{layout}:v1", f"docker-archive:{top}/docker.tar:web:1")
    return top


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(*words: str | Path) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, said.err

    monkeypatch.chdir(tmp_path)
    return call


@pytest.fixture
def registry(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[LyingRegistry]:
    """A registry that the host file names."""
    with LyingRegistry() as registry:
        path = tmp_path_factory.mktemp("host") / "host.yaml"
        path.write_text(PERMISSIVE + f'  registries: {{plainHttp: ["{registry.host}"]}}\n')
        path.chmod(0o600)
        monkeypatch.setenv("RECONCILER_HOST_FILE", str(path))
        yield registry
    forget()


FORMS = {"oci-layout:{}/layout:v1", "oci-archive:{}/oci.tar", "docker-archive:{}/docker.tar:web:1"}


@pytest.mark.parametrize("form", sorted(FORMS))
def test_an_image_is_inspected(form: str, made: Path, run: Run) -> None:
    code, out, _ = run("inspect", form.format(made), "-o", "json")
    document = json.loads(out)

    assert (code, document["verdict"], document["platform"]) == (Exit.OK, "accept", "linux/amd64")
    assert document["totals"]["layers"] == len(document["layers"]) == 3
    assert document["totals"]["unpackedBytes"] == sum(map(len, LAYERS))
    assert document["config"]["config"]["Entrypoint"] == ["/init"]
    code, out, _ = run("inspect", form.format(made))
    assert code == Exit.OK
    for words in ("accept  ", "digest ", "3: 3.0 MiB stored", 'entrypoint  ["/init"]', "env         A=b"):
        assert words in out


def test_the_platforms_of_an_image_are_listed(made: Path, tmp_path: Path, run: Run) -> None:
    for nested in (True, False):
        layout = two_platforms(made, tmp_path / f"two{nested}", nested=nested)
        code, out, _ = run("inspect", f"oci-layout:{layout}", "--platform", "linux/arm64", "-o", "json")

        assert (code, sorted(json.loads(out)["platforms"])) == (Exit.OK, ["linux/amd64", "linux/arm64"])
        assert json.loads(out)["platform"] == "linux/arm64"
    code, _, err = run("inspect", f"oci-layout:{layout}", "--platform", "linux/s390x")
    assert code == Exit.FAILED and "linux/amd64, linux/arm64" in err


def test_an_image_of_a_registry_is_inspected_and_built(registry: LyingRegistry, tmp_path: Path, run: Run) -> None:
    url = registry.push(image([pack([file(b"a", b"one")]), pack([file(b"b", b"two")])], run={"Cmd": ["sh"]}))

    code, out, _ = run("inspect", url)
    assert code == Exit.OK and "2: " in out and 'cmd         ["sh"]' in out
    inodes = json.loads(run("inspect", url, "-o", "json")[1])["inodes"]
    code, out, _ = run("build", url, "--size", "64MiB", "--output", tmp_path / "a.ext4", "-o", "json")

    assert code == Exit.OK
    assert json.loads(out)["config"]["config"] == {"Cmd": ["sh"]}
    assert json.loads(out)["summary"]["used_inodes"] == inodes == 13
    assert {b"a", b"b"} <= ext4.of_image(tmp_path / "a.ext4").keys()


def test_a_refused_layer_of_an_image_is_named(registry: LyingRegistry, run: Run) -> None:
    url = registry.push(image([pack([file(b"a", b"one")]), pack([file(b"../evil", b"x")])]))

    code, out, _ = run("inspect", url, "-o", "json")
    document = json.loads(out)

    assert (code, document["verdict"], document["rule"]) == (Exit.FAILED, "reject", "name-climbs")
    assert document["layer"] == document["layers"][1]["source"]
    assert "../evil" in run("inspect", url)[1]


def test_a_blob_that_is_not_what_the_manifest_names_is_a_verdict(registry: LyingRegistry, run: Run) -> None:
    one = image([pack([file(b"a", b"one")])])
    url = registry.push(one)
    other = image([pack([file(b"a", b"two")])])
    registry.objects[f"/v2/team/web/blobs/{one.layers[0]}"] = other.blobs[other.layers[0]]

    code, out, _ = run("inspect", url, "-o", "json")

    assert code == Exit.FAILED
    assert json.loads(out)["reason"] == "DigestMismatch"


@pytest.mark.parametrize("form", sorted(FORMS))
def test_an_image_is_built_with_the_size_that_it_needs(form: str, made: Path, tmp_path: Path, run: Run) -> None:
    output = tmp_path / "web.ext4"

    code, out, _ = run("build", form.format(made), "--size", "auto", "--output", output, "-o", "json")
    built = json.loads(out)

    assert code == Exit.OK
    assert built["size"] == output.stat().st_size < 128 << 20
    assert built["config"]["config"]["Env"] == ["A=b"]
    assert {b"opt/z", b"gone/new"} <= ext4.of_image(output).keys()
    assert e2fsck.check(output)
    assert os.listdir(tmp_path) == ["web.ext4"]


@pytest.mark.slow
@pytest.mark.parametrize(("program", "end"), [("gzip", "gz"), ("xz", "xz"), ("zstd", "zst")])
@pytest.mark.parametrize("form", ["oci-archive:{}/oci.tar", "docker-archive:{}/docker.tar"])
def test_an_archive_that_is_compressed_as_a_whole_is_read(
    form: str, program: str, end: str, made: Path, tmp_path: Path, run: Run
) -> None:
    needs(program)
    (tmp_path / "out").mkdir()
    packed = form.format(tmp_path).partition(":")[2] + f".{end}"
    plain = form.format(made)
    with Path(packed).open("wb") as out:
        subprocess.run([program, "-c", plain.partition(":")[2]], stdout=out, check=True)
    reference = f"{plain.partition(':')[0]}:{packed}"

    code, out_, _ = run("inspect", reference, "-o", "json")
    found, wanted = json.loads(out_), json.loads(run("inspect", plain, "-o", "json")[1])
    assert (code, found["source"], found["digest"]) == (Exit.OK, reference, wanted["digest"])
    for source, name in ((plain, "a"), (reference, "b")):
        assert run("build", source, "--size", "64MiB", "--output", tmp_path / "out" / name)[0] == Exit.OK
    assert (tmp_path / "out/a").read_bytes() == (tmp_path / "out/b").read_bytes()
    assert sorted(os.listdir(tmp_path / "out")) == ["a", "b"], "the decompressed copy is gone"


def test_the_limits_of_a_layer_hold_for_a_compressed_archive(made: Path, tmp_path: Path, run: Run) -> None:
    packed = tmp_path / "oci.tar.gz"
    packed.write_bytes(gzip.compress((made / "oci.tar").read_bytes() + bytes(64 << 20)))
    (tmp_path / "out").mkdir()
    for limit in ("maxUnpackedBytes=4MiB", "maxRatio=10"):
        words = ("build", f"oci-archive:{packed}", "--size", "64MiB", "--output", tmp_path / "out/a", "--limit", limit)
        limits = ("--limit", "ratioFloorBytes=1MiB") if "Ratio" in limit else ()
        code, _, err = run(*words, *limits)
        assert code == Exit.FAILED and limit.partition("=")[0] in err, err
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(packed.read_bytes()[:20_000])
    assert run("inspect", f"oci-archive:{cut}")[0] == Exit.FAILED
    assert not os.listdir(tmp_path / "out")


@pytest.mark.parametrize("count", [1, 3000])
def test_the_size_that_is_needed_grows_with_files_and_bytes(count: int, tmp_path: Path, run: Run) -> None:
    layer = tmp_path / "layer.tar"
    layer.write_bytes(pack([file(b"%d" % number, os.urandom(40_000 if count > 1 else 1)) for number in range(count)]))

    assert run("build", layer, "--size", "auto", "--output", tmp_path / "x.ext4")[0] == Exit.OK

    assert e2fsck.check(tmp_path / "x.ext4")
    assert ((tmp_path / "x.ext4").stat().st_size > 130 << 20) == (count > 1)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("build", "oci-archive:a.tar", "b.tar"), "beside other layers"),
        (("build", "oci-archive:a.tar", "--sha256", "0" * 64), "--sha256 is given for an image"),
        (("build", "a.tar", "--platform", "linux/arm64"), "without an image"),
        (("build", "oci-archive:a.tar", "--platform", "arm"), "not a platform"),
        (("build", "oci://alpine"), "no registry's host"),
        (("build", "oci://me:hunter2@registry.example/x"), "credentials"),
        (("inspect", "a.tar", "--platform", "linux/arm64"), "without an image"),
        (("inspect", "oci://registry.example/Web"), "capitals"),
    ],
)
def test_wrong_words_are_usage_errors(words: tuple[str, ...], why: str, run: Run) -> None:
    more = ("--size", "64MiB", "--output", "x.ext4") if words[0] == "build" else ()

    code, _, err = run(*words, *more)

    assert (code, why in err, "hunter2" in err) == (Exit.USAGE, True, False)


def test_an_archive_is_not_overwritten_by_what_is_built_of_it(made: Path, run: Run) -> None:
    before = (made / "oci.tar").read_bytes()

    code, _, err = run("build", f"oci-archive:{made}/oci.tar", "--size", "auto", "--output", made / "oci.tar")

    assert (code, "is the layer" in err, (made / "oci.tar").read_bytes() == before) == (Exit.USAGE, True, True)


@pytest.mark.parametrize("form", ["oci-archive:{}/oci.tar", "{}/oci.tar"])
def test_an_output_in_a_missing_directory_is_a_usage_error(form: str, made: Path, tmp_path: Path, run: Run) -> None:
    output = tmp_path / "missing" / "x.ext4"

    code, _, err = run("build", form.format(made), "--size", "auto", "--output", output)

    assert (code, f"{output.parent}: No such file or directory" in err) == (Exit.USAGE, True)
