"""Loading manifests: what is accepted, what is refused, and that every fault is reported at once with its place.

A case is a directory under ``cases/manifests``: manifests, and in ``faults.txt`` the faults that are reported.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from reconciler.errors import ManifestsInvalid
from reconciler.image.spec import GIB, Layer, Limits, S3Options, Source
from reconciler.manifests import files, parser
from reconciler.manifests.faults import MAX_FAULTS
from reconciler.manifests.loader import load, load_paths
from reconciler.model import BackingSpec, Desired, HostFacts, PoolSpec, ThinSpec, Where

AT_ONCE = pytest.mark.timeout(60)
"""Ends a test that hangs, or that takes quadratic time; not a measure of speed."""

CASES = Path(__file__).parents[1] / "cases" / "manifests"
POOL = "apiVersion: reconciler/v1alpha1\nkind: Pool\nmetadata: {name: default}\nspec: {file: {}}\n"
DIGEST = "7" * 64


def image(name: str = "golang", *, meta: str = "", **fields: str) -> str:
    fields = {"layers": "[{source: s3://images/1.tar}]", **fields}
    spec = "".join(f"  {key}: {value}\n" for key, value in fields.items())
    return f"apiVersion: reconciler/v1alpha1\nkind: Image\nmetadata: {{name: {name}{meta}}}\nspec:\n{spec}"


def write(directory: Path, *documents: str, name: str = "manifest.yaml") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text("---\n".join(documents))
    return directory


def faults(directory: Path) -> tuple[str, ...]:
    with pytest.raises(ManifestsInvalid) as caught:
        load(directory)
    return tuple(str(fault).removeprefix(f"{directory}/") for fault in caught.value.faults)


@pytest.fixture(params=["libyaml", "pure"])
def yaml_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """PyYAML with libyaml and without: one behaviour."""
    if request.param == "pure":
        monkeypatch.setattr(parser, "_Parser", yaml.SafeLoader)
    elif not yaml.__with_libyaml__:
        pytest.skip("PyYAML was built without libyaml here")
    return str(request.param)


# ------------------------------------------------------------------------------------------------ what is understood


def test_a_manifest_becomes_what_the_host_should_hold(tmp_path: Path, yaml_parser: str) -> None:
    document = image(
        meta=", labels: {team: build}",
        pool="fast",
        size="4GiB",
        layers=f"[{{source: s3://images/1.tar, sha256: {DIGEST}}}, {{source: layers/2.tar}}]",
        s3="{endpointUrl: http://127.0.0.1:9000, region: us-east-1, anonymous: true}",
        snapshots="[{name: a}, {name: ci, count: 3}]",
        limits="{maxUnpackedBytes: 8GiB, maxFileBytes: 4Gi, maxEntries: 5, maxRatio: 6, maxDepth: 7}",
        deletionPolicy="Retain",
        suspend="yes",
    )
    thin = (
        "apiVersion: reconciler/v1alpha1\nkind: Pool\nmetadata: {name: fast}\nspec:\n"
        "  thin: {data: {device: /dev/sdb}, metadata: {file: /var/meta, size: 64MiB}, blockSize: 128KiB}\n"
        "  reserve: {dataPercent: 5}\n"
    )
    desired = load(write(tmp_path / "m", thin, document))

    file = f"{tmp_path}/m/manifest.yaml"
    spec = ThinSpec(BackingSpec(device="/dev/sdb"), BackingSpec(file="/var/meta", size=64 << 20), 128 << 10)
    assert desired.pools == {"fast": PoolSpec("fast", spec, 5, 20, Where(file, 1, 1))}
    [golang] = desired.images.values()
    s3 = S3Options("http://127.0.0.1:9000", "us-east-1", True)
    assert golang.layers == (Layer(Source("s3://images/1.tar", s3), DIGEST), Layer(Source(f"{tmp_path}/m/layers/2.tar")))
    assert golang.snapshots == ("a", "ci-0", "ci-1", "ci-2")
    assert golang.limits == Limits(8 * GIB, 4 * GIB, 5, 6, 7)
    assert (golang.name, golang.pool, golang.size, golang.retain, golang.suspend) == ("golang", "fast", 4 * GIB, True, True)
    assert (golang.labels, golang.where, desired.source) == ({"team": "build"}, Where(file, 8, 1), f"{tmp_path}/m")


def test_everything_optional_may_be_left_out(tmp_path: Path) -> None:
    """One image and nothing else: a file pool named default is there, of itself."""
    desired = load(write(tmp_path, image()))

    golang = desired.images["golang"]
    assert desired.pools == {"default": PoolSpec("default")}
    assert (golang.pool, golang.size, golang.limits, golang.snapshots) == ("default", 8 * GIB, Limits(), ())
    assert (golang.retain, golang.suspend, golang.labels) == (False, False, {})


def test_the_only_pool_need_not_be_named(tmp_path: Path) -> None:
    assert load(write(tmp_path, POOL.replace("default", "fast"), image())).images["golang"].pool == "fast"


def test_without_a_pool_only_default_can_be_named(tmp_path: Path) -> None:
    assert load(write(tmp_path / "a", image(pool="default"))).images["golang"].pool == "default"
    [fault] = faults(write(tmp_path / "b", image(pool="fast")))
    assert fault == "manifest.yaml:6:9: spec.pool: no Pool is named 'fast'; none is declared, so there is only 'default'"


def test_scalars_mean_what_their_field_takes_them_for(tmp_path: Path, yaml_parser: str) -> None:
    """Where YAML 1.1 would see false, 750, 1.1, 493, a date and a number, a label has the text and a digest its digits."""
    labels = ", labels: {country: no, at: 12-30, version: 1.10, mode: 0755, date: 2024-01-01, n: 1_000, null: 'null'}"
    desired = load(write(tmp_path, image(meta=labels, layers=f"[{{source: 1.tar, sha256: {DIGEST}}}]", suspend="no")))

    golang = desired.images["golang"]
    assert golang.labels == {
        "country": "no", "at": "12-30", "version": "1.10", "mode": "0755", "date": "2024-01-01", "n": "1_000", "null": "null"
    }  # fmt: skip
    assert (golang.layers[0].sha256, golang.suspend) == (DIGEST, False)


def test_names_of_digits_are_names(tmp_path: Path) -> None:
    assert set(load(write(tmp_path, image("0755"), image("1e3"), image("no"))).images) == {"0755", "1e3", "no"}


def test_a_digest_in_capitals_names_the_same_bytes(tmp_path: Path) -> None:
    desired = load(write(tmp_path, image(layers=f"[{{source: 1.tar, sha256: {'AB' * 32}}}]")))

    assert desired.images["golang"].layers[0].sha256 == "ab" * 32


def test_relative_sources_start_from_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from where the command was started, whichever way the directory was named."""
    layers = "[{source: 1.tar}, {source: ../2.tar}, {source: /3.tar}, {source: 'file:///a%20b.tar'}]"
    write(tmp_path / "repo" / "teams" / "build", image(layers=layers))
    monkeypatch.chdir(tmp_path)

    for name in ("repo", "./repo/", f"{tmp_path}/repo"):
        urls = [layer.source.url for layer in load(Path(name)).images["golang"].layers]
        teams = f"{tmp_path}/repo/teams"
        assert urls == [f"{teams}/build/1.tar", f"{teams}/2.tar", "/3.tar", "/a b.tar"]


def test_output_of_a_server_can_be_read_back(tmp_path: Path) -> None:
    """Status and what a server adds to metadata are passed over, nulls in them too."""
    meta = ", uid: 1, generation: 2, resourceVersion: x, creationTimestamp: null, annotations: {a: b}, managedFields: []"

    assert load(write(tmp_path, image(meta=meta) + "status: {phase: Ready, conditions: [null]}\n")).images.keys() == {"golang"}


def test_documents_may_share_a_file_and_be_empty(tmp_path: Path, yaml_parser: str) -> None:
    text = f"# nothing\n---\n---\n{POOL}---\n~\n---\n{image('a')}...\n---\n{image('b')}"

    assert load(write(tmp_path, text)).images.keys() == {"a", "b"}


def test_a_directory_tree_is_read(tmp_path: Path) -> None:
    """YAML files at any depth; neither other files nor anything behind a dot, such as Git's and Kubernetes' own."""
    write(tmp_path, image("a"))
    write(tmp_path / "x.yaml" / "y", image("b"), name="b.yml")
    for hidden in (".git", "..2026_01", "x.yaml/.cache"):
        write(tmp_path / hidden, "not: [yaml")
    for name in (".hidden.yaml", "a.yaml.bak", "README.md", "b.json", "YAML"):
        write(tmp_path, "not: [yaml", name=name)

    assert load(tmp_path).images.keys() == {"a", "b"}


def test_a_kubernetes_config_map_volume_is_read_once(tmp_path: Path) -> None:
    write(tmp_path / "..2026", image("a"), name="a.yaml")
    write(tmp_path / "..2026" / "sub", image("b"), name="b.yaml")
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    (tmp_path / "sub").symlink_to("..data/sub")
    (tmp_path / "same.yaml").symlink_to("a.yaml")

    assert load(tmp_path).images.keys() == {"a", "b"}


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbf" + image().encode())

    assert "golang" in load(tmp_path).images


# -------------------------------------------------------------------------------------------------------------- hosts


@pytest.mark.parametrize(
    ("hosts", "labels", "selected"),
    [
        ("{matchLabels: {role: builder}}", {"role": "builder", "x": "y"}, True),
        ("{matchLabels: {role: builder}}", {"role": "web"}, False),
        ("{matchLabels: {role: builder}}", {}, False),
        ("{matchLabels: {role: builder, arch: arm}}", {"role": "builder"}, False),
        ("{matchExpressions: [{key: role, operator: In, values: [a, b]}]}", {"role": "b"}, True),
        ("{matchExpressions: [{key: role, operator: In, values: [a, b]}]}", {}, False),
        ("{matchExpressions: [{key: role, operator: NotIn, values: [a, b]}]}", {"role": "b"}, False),
        ("{matchExpressions: [{key: role, operator: NotIn, values: [a, b]}]}", {}, True),
        ("{matchExpressions: [{key: role, operator: Exists}]}", {"role": ""}, True),
        ("{matchExpressions: [{key: role, operator: Exists}]}", {}, False),
        ("{matchExpressions: [{key: role, operator: DoesNotExist}]}", {"role": "a"}, False),
        ("{matchExpressions: [{key: role, operator: DoesNotExist}]}", {}, True),
        ("{matchLabels: {a: b}, matchExpressions: [{key: c, operator: Exists}]}", {"a": "b"}, False),
    ],
)
def test_images_are_for_the_hosts_that_they_select(tmp_path: Path, hosts: str, labels: dict[str, str], selected: bool) -> None:
    write(tmp_path, image("everywhere"), image("some", hosts=hosts))

    assert load(tmp_path, host=HostFacts("h", labels, "h")).images.keys() == {"everywhere"} | ({"some"} if selected else set())


def test_validate_checks_the_images_of_all_hosts(tmp_path: Path) -> None:
    write(tmp_path, image(hosts="{matchLabels: {role: builder}}"))

    assert load_paths([tmp_path]).desired.images.keys() == {"golang"}


# ------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("case", sorted(path.name for path in CASES.iterdir()))
def test_every_fault_is_reported_with_its_place(case: str, monkeypatch: pytest.MonkeyPatch, yaml_parser: str) -> None:
    monkeypatch.chdir(CASES)

    with pytest.raises(ManifestsInvalid) as caught:
        load(Path(case))

    found = [str(fault) for fault in caught.value.faults]
    expected = (CASES / case / "faults.txt").read_text().splitlines()
    if yaml_parser == "pure":  # which words a YAML syntax error has is the parser's own affair
        found, expected = ([fault.partition("is not valid YAML")[0] for fault in some] for some in (found, expected))
    assert found == expected


@pytest.mark.parametrize(
    ("wrong", "marked"),
    [
        ("layres: []", "layres"),
        ("size: 8G  # of the file system", "8G"),
        ('size: "8G"', '"8G"'),
        ("pool: &a default", "&a default"),
        ("hosts:", "hosts"),
        ("snapshots: [{name: a}, {name: -b}]", "-b"),
        ("snapshots: [a, {name: b}]", "a"),
        ("suspend: no\n  suspend: no", "suspend"),
        ("pool: other", "other"),
        ("hosts: {", ""),
    ],
)
def test_a_fault_has_the_span_of_what_is_wrong(tmp_path: Path, wrong: str, marked: str, yaml_parser: str) -> None:
    write(tmp_path, image() + f"  {wrong}\n")
    with pytest.raises(ManifestsInvalid) as caught:
        load(tmp_path)

    fault = caught.value.faults[0]
    line = Path(fault.where.file).read_text().splitlines()[fault.where.line - 1] if marked else ""
    assert line[fault.where.column - 1 :][: fault.length] == marked


def test_a_pool_that_may_hide_behind_a_fault_is_not_called_missing(tmp_path: Path) -> None:
    write(tmp_path, image(pool="fast"))
    write(tmp_path, "a: [", name="pool.yaml")

    assert [fault.split(":")[0] for fault in faults(tmp_path)] == ["pool.yaml"]


def test_a_password_in_an_endpoint_is_not_repeated(tmp_path: Path) -> None:
    [fault] = faults(write(tmp_path, image(s3="{endpointUrl: 'http://user:hunter2@host'}")))

    assert "credentials" in fault
    assert "hunter2" not in fault


def test_the_same_source_at_another_endpoint_is_another(tmp_path: Path) -> None:
    layers = ["[{source: s3://images/1.tar, sha256: " + digit * 64 + "}]" for digit in "ab"]
    write(tmp_path, image("a", layers=layers[0]), image("b", layers=layers[1], s3="{endpointUrl: http://mirror}"))

    assert len(load(tmp_path).images) == 2


def test_texts_that_control_a_terminal_are_escaped(tmp_path: Path) -> None:
    [fault] = faults(write(tmp_path, image(size='"\\e[31m8\\n"')))

    assert fault.isprintable()


@AT_ONCE
def test_faults_without_end_are_cut_short(tmp_path: Path) -> None:
    write(tmp_path, image() + "".join(f"x{i}: 1\n" for i in range(30_000)))
    found = faults(tmp_path)

    assert len(found) == MAX_FAULTS + 1
    assert found[-1] == f"{tmp_path}:1:1: directory: there are more faults than these 1000"


# --------------------------------------------------------------------------------------------- what can't be read


def test_an_empty_directory_wants_nothing(tmp_path: Path) -> None:
    assert load(tmp_path) == Desired({}, {}, str(tmp_path))


def test_a_file_without_a_byte_does_not_want_nothing(tmp_path: Path) -> None:
    """What was written just before the power failed is often a file of no bytes; what is meant to be empty can have a comment."""
    write(tmp_path, "# nothing yet", name="meant.yaml")
    write(tmp_path, "", name="cut.yaml")

    [fault] = faults(tmp_path)

    assert fault.startswith("cut.yaml:1:1: file: is empty")


def test_a_missing_directory_is_not_an_empty_one(tmp_path: Path) -> None:
    assert faults(tmp_path / "gone") == (
        f"{tmp_path}/gone:1:1: directory: cannot be read: No such file or directory (this is not taken for an empty one)",
    )
    assert "Not a directory" in faults(write(tmp_path, image()) / "manifest.yaml")[0]
    with pytest.raises(ManifestsInvalid, match="gone:1:1: file: cannot be read: No such file"):
        load_paths([tmp_path / "gone"])


@pytest.mark.parametrize("target", ["", "sub", "sub/b.yaml"])
def test_what_may_not_be_read_is_a_fault(tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory itself, one below, or a file. Root may read all, so the kernel's answer is given in its name."""
    write(tmp_path, image("a"))
    write(tmp_path / "sub", image("b"), name="b.yaml")
    closed = tmp_path / target
    mode = closed.stat().st_mode
    closed.chmod(0)
    with monkeypatch.context() as patched:
        if os.geteuid() == 0:
            _refuse(patched, closed)
        try:
            found = faults(tmp_path)
        finally:
            closed.chmod(mode)

    assert len(found) == 1
    assert "Permission denied" in found[0]


def _refuse(monkeypatch: pytest.MonkeyPatch, closed: Path) -> None:
    def guarded(real):  # type: ignore[no-untyped-def]
        def call(path, *args, **kwargs):  # type: ignore[no-untyped-def]
            if os.fspath(path) == str(closed):
                raise PermissionError(13, "Permission denied")
            return real(path, *args, **kwargs)

        return call

    monkeypatch.setattr(files.os, "scandir", guarded(os.scandir))
    monkeypatch.setattr(files.os, "open", guarded(os.open))


def test_links_that_lead_nowhere_are_faults(tmp_path: Path) -> None:
    """Even those without a suffix: a directory of manifests may have been behind them."""
    write(tmp_path / "m", image())
    (tmp_path / "m" / "broken.yaml").symlink_to("gone")
    (tmp_path / "m" / "itself.yaml").symlink_to("itself.yaml")
    (tmp_path / "m" / "teams").symlink_to("gone")
    (tmp_path / "m" / "up").symlink_to(".")

    found = faults(tmp_path / "m")

    assert [fault.split(":")[0] for fault in found] == ["broken.yaml", "itself.yaml", "teams", "up"]
    assert [fault.split(": ")[-1] for fault in found] == [
        "No such file or directory (repair or remove it)",
        "Too many levels of symbolic links (repair or remove it)",
        "No such file or directory (repair or remove it)",
        "is a loop of links",
    ]


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")

    assert faults(tmp_path) == ("pipe.yaml:1:1: file: is not a regular file",)


def test_text_that_is_not_utf8_is_a_fault_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "latin1.yaml").write_bytes("# ß\n# Größe\n".encode() + b"# Gr\xf6\xdfe\n")
    (tmp_path / "utf16.yaml").write_bytes(image().encode("utf-16"))

    assert faults(tmp_path) == (
        "latin1.yaml:3:5: file: is not UTF-8: byte 0xf6 (save it as UTF-8)",
        "utf16.yaml:1:1: file: is not UTF-8: byte 0xff (save it as UTF-8)",
    )


def test_names_that_are_not_utf8_are_faults_that_can_be_printed(tmp_path: Path) -> None:
    write(tmp_path, image("a"), name=os.fsdecode(b"a\xff.yaml"))
    write(tmp_path / os.fsdecode(b"\xfe"), image("b"), name="b.yaml")
    write(tmp_path, "a: [", name="new\nline\x1b.yaml")
    (tmp_path / os.fsdecode(b"\xff.txt")).touch()

    found = faults(tmp_path)

    assert [fault.split(":")[0] for fault in found] == ["\\xfe/b.yaml", "a\\xff.yaml", "new\\nline\\x1b.yaml"]
    assert "is not UTF-8" in found[0]
    "".join(found).encode()


def test_control_characters_are_faults_with_their_place(tmp_path: Path, yaml_parser: str) -> None:
    assert faults(write(tmp_path, "a: b\nc: \x00d\n")) == (
        "manifest.yaml:2:4: document: '\\x00' is a control character, which YAML does not allow; the file was not read",
    )


# --------------------------------------------------------------------------------------------------- caps and attacks


@pytest.mark.parametrize(
    "text",
    ["[" * 500_000, "{a: " * 250_000, "- " * 500_000, "? " * 500_000, "[" * 30_000 + "]" * 30_000, "a: " + "[" * 40 + "]" * 40],
    ids=["flow", "mappings", "block", "keys", "crashes libyaml's composer", "40 levels"],
)
@AT_ONCE
def test_deep_nesting_is_refused_at_once(tmp_path: Path, text: str, yaml_parser: str) -> None:
    [fault] = faults(write(tmp_path, text))

    assert "is nested more than 32 levels deep" in fault or "is not valid YAML" in fault


def test_the_deepest_manifest_is_read_in_a_process_of_its_own(tmp_path: Path) -> None:
    """PyYAML's own way would have ended this process with a signal before 6.0.4, which has a limit of its own."""
    write(tmp_path, "[" * 30_000 + "]" * 30_000)
    code = "import pathlib, sys; from reconciler.manifests.loader import load; load(pathlib.Path(sys.argv[1]))"

    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)

    assert done.returncode == 1
    assert re.search(r"is nested more than 32 levels deep|exceeded maximum nesting depth", done.stderr), done.stderr


@AT_ONCE
def test_alias_and_merge_bombs_are_refused_unexpanded(tmp_path: Path, yaml_parser: str) -> None:
    names = "abcdefghi"
    bomb = "a: &a [x]\n" + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in pairwise(names))
    merge = "a: &a {x: 1}\n" + "".join(f"{b}: &{b} {{<<: [{','.join([f'*{a}'] * 9)}]}}\n" for a, b in pairwise(names))
    found = faults(write(tmp_path, bomb, merge))

    assert sum("alias '*a' is not accepted" in fault for fault in found) == 18
    assert sum("merge key << is not accepted" in fault for fault in found) == 8


@pytest.mark.parametrize(
    "text",
    ["[" + "a," * 500_000 + "]", "---\n" * 250_000, "".join(f"%TAG !a{i}! b\n" for i in range(60_000))],
    ids=["items", "documents", "tags"],
)
@AT_ONCE
def test_many_nodes_are_refused(tmp_path: Path, text: str) -> None:
    """The last one takes libyaml quadratic time before its first event."""
    assert faults(write(tmp_path, text))


def test_a_file_has_a_bound(tmp_path: Path) -> None:
    write(tmp_path, "#" * (files.MAX_FILE_BYTES + 1))

    assert faults(tmp_path) == (
        "manifest.yaml:1:1: file: is larger than 1 MiB (split it: any number of files may declare images)",
    )


def test_a_tree_has_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_TREE_BYTES", 2 << 20)
    for i in range(12):
        write(tmp_path / "big", "#" * (1 << 18), name=f"{i:02}.yaml")
    [found] = faults(tmp_path / "big")
    assert found == "08.yaml:1:1: directory: is beyond the bounds of 20000 files and 2 MiB; reading ended here"

    monkeypatch.setattr(files, "MAX_FILES", 3)
    for i in range(5):
        write(tmp_path / "many", "#", name=f"{i}.yaml")
    assert [fault.split(":")[0] for fault in faults(tmp_path / "many")] == ["3.yaml"]

    monkeypatch.setattr(files, "MAX_ENTRIES", 11)
    assert "more than 11 entries" in faults(tmp_path / "big")[0]


def test_directories_have_a_depth(tmp_path: Path) -> None:
    write(tmp_path.joinpath(*"d" * 40), image())

    assert "is more than 32 directories deep" in faults(tmp_path)[0]


def test_snapshots_have_a_number(tmp_path: Path) -> None:
    snapshots = "[" + ", ".join(f"{{name: s{i}, count: 1000}}" for i in range(101)) + "]"

    [fault] = faults(write(tmp_path, image(snapshots=snapshots)))

    assert fault.endswith("spec.snapshots[100].name: with this one more than 100000 snapshots are declared")


@AT_ONCE
def test_a_thousand_images_are_read(tmp_path: Path) -> None:
    write(tmp_path, POOL, *(image(f"i{i}", snapshots=f"[{{name: s{i}, count: 2}}]") for i in range(1000)))
    load(write(tmp_path / "warm", image()))
    assert len(load(tmp_path).images) == 1001


# -------------------------------------------------------------------------------------------------------- named paths


def test_files_and_directories_are_checked_together(tmp_path: Path) -> None:
    """As one set: a file may name the pool that another declares, and one that is named twice is read once."""
    pool = write(tmp_path / "pools", POOL.replace("default", "fast"), name="pool.txt") / "pool.txt"
    images = write(tmp_path / "images", image(pool="fast"))

    assert load_paths([images, pool, images / "manifest.yaml"]).desired.images["golang"].pool == "fast"


# --------------------------------------------------------------------------------------------------------------- fuzz

WHOLE = (POOL + "---\n" + image(snapshots="\n    - {name: a, count: 3}\n", hosts="{matchLabels: {a: b}}")).encode()
PIECES = st.sampled_from([*b"{}[]:,-?&*!|>%@`'\"# \n\t\0\r\\", 0xFF, 0xC3]).map(lambda byte: bytes([byte])) | st.sampled_from(
    [
        b"<<",
        b"---\n",
        b"...\n",
        b"*a",
        b"&a ",
        b"!!str ",
        b"null",
        b"\xef\xbb\xbf",
        b"\xe2\x80\xa8",
        "😀".encode(),
        b"kind: Pool\n",
    ]
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = WHOLE
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(PIECES) + data[at + draw(st.integers(0, 12)) :]
    return data


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="surrogatepass")) | mutated())
@example(b"? - a\n: b")
@example(b"&a *a")
@example(b'"\\ud800": "\\udcff"')
@example(b"{? , : }")
def test_no_bytes_whatever_raise_anything_but_faults(tmp_path: Path, yaml_parser: str, data: bytes) -> None:
    (tmp_path / "fuzz.yaml").write_bytes(data)

    try:
        desired = load(tmp_path)
    except ManifestsInvalid as error:
        assert error.faults
        for fault in map(str, error.faults):
            assert fault.startswith(f"{tmp_path}/fuzz.yaml:")
            fault.encode()
    else:
        assert isinstance(desired, Desired)
