"""Platforms, and which entry of an index suits a host."""

from __future__ import annotations

import pytest

from reconciler.errors import ImageRefused
from reconciler.image.oci.platform import Platform, choose, host


def offered(*texts: str) -> list[Platform | None]:
    return [Platform.parse(text) if text else None for text in texts]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("linux/amd64", Platform("linux", "amd64")),
        ("linux/arm64/v8", Platform("linux", "arm64", "v8")),
        ("Linux/AMD64", Platform("linux", "amd64")),
        ("linux/x86_64", Platform("linux", "amd64")),
        ("linux/aarch64", Platform("linux", "arm64")),
        ("linux/armhf", Platform("linux", "arm", "v7")),
    ],
)
def test_a_platform_is_read(text: str, wanted: Platform) -> None:
    assert Platform.parse(text) == wanted
    assert Platform.parse(str(wanted)) == wanted


@pytest.mark.parametrize("text", ["", "linux", "linux/", "/amd64", "linux/amd64/v1/x", "linux/amd 64", "linux/amd64\n"])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a platform"):
        Platform.parse(text)


@pytest.mark.parametrize(
    ("wanted", "there", "best"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], 1),
        ("linux/amd64", ["linux/amd64", "linux/amd64"], 0),
        ("linux/amd64", ["linux/amd64/v3", "linux/amd64"], 1),
        ("linux/amd64", ["linux/amd64/v1"], 0),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v3", "linux/amd64/v4"], 2),
        ("linux/amd64/v4", ["linux/amd64", "linux/amd64/v2"], 1),
        ("linux/arm64", ["linux/arm/v7", "linux/arm64/v8"], 1),
        ("linux/arm64/v8", ["linux/arm64"], 0),
        ("linux/arm64/8", ["linux/arm64/v8"], 0),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm64"], 1),
        ("linux/arm/v6", ["linux/arm/v5", "linux/arm/v6", "linux/arm/v7"], 1),
        ("linux/arm", ["linux/arm/v6", "linux/arm/v7"], 1),
        ("linux/riscv64", ["linux/riscv64"], 0),
        ("linux/amd64", ["unknown/unknown", "linux/amd64", "unknown/unknown"], 1),
        ("linux/amd64", ["unknown/unknown", ""], 1),
        ("linux/amd64", [""], 0),
        ("linux/ppc64le/power9", ["linux/ppc64le/power8", "linux/ppc64le/power9"], 1),
    ],
)
def test_the_newest_variant_that_runs_is_chosen(wanted: str, there: list[str], best: int) -> None:
    assert choose(offered(*there), Platform.parse(wanted)) == best


@pytest.mark.parametrize(
    ("wanted", "there"),
    [
        ("linux/amd64", ["linux/arm64", "linux/s390x", "unknown/unknown"]),
        ("linux/amd64", ["linux/amd64/v2"]),
        ("linux/arm/v5", ["linux/arm/v6"]),
        ("linux/amd64", ["windows/amd64"]),
        ("linux/ppc64le/power8", ["linux/ppc64le/power9"]),
        ("linux/amd64", ["", ""]),
        ("linux/amd64", ["unknown/unknown"]),
    ],
)
def test_a_platform_that_is_not_there_lists_those_that_are(wanted: str, there: list[str]) -> None:
    with pytest.raises(ImageRefused, match=f"no image for {wanted}") as caught:
        choose(offered(*there), Platform.parse(wanted))
    for one in there:
        assert (one in caught.value.hint) == (one not in ("", "unknown/unknown")) or not one


def test_this_host_has_a_platform() -> None:
    assert host().os == "linux"
    assert host().architecture not in ("x86_64", "aarch64")
