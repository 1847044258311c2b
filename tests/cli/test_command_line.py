"""The command line as real processes: options before and after the verb, the environment, locales, closed streams, reports."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from reconciler.errors import Exit
from tests.support import zygote

from .test_cli import layer

Done = subprocess.CompletedProcess[str]
Command = Callable[..., Done]

REAL = [sys.executable, "-m", "reconciler.cli.main"]
AT_START = ("PYTHON", "LC_", "LANG")
"""Variables that an interpreter reads when it starts: with one of them a command starts an interpreter of its own."""


def declare(root: Path, name: str, label: str = "") -> Path:
    """A directory of manifests with one image; its state belongs in ``root/NAME/state``."""
    directory = root / name
    directory.mkdir()
    layer(directory / "layer.tar", hostname=f"{name}\n")
    (directory / f"{name}.yaml").write_text(
        f"apiVersion: reconciler/v1alpha1\nkind: Image\nmetadata: {{name: {name}, labels: {{team: t{label}}}}}\n"
        f"spec:\n  size: 16MiB\n  layers: [{{source: layer.tar}}]\n  snapshots: [{{name: {name}-a}}]\n"
    )
    return directory


def run(*words: str, env: dict[str, str] | None = None, **options: object) -> Done:
    if not options and not any(name.startswith(AT_START) for name in env or ()):
        return forked(words, os.environ | (env or {}))
    base = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "check": False, "timeout": 120}
    return subprocess.run([*REAL, *words], env=os.environ | (env or {}), **(base | options))  # type: ignore[call-overload, no-any-return]


def forked(words: Sequence[str], env: Mapping[str, str]) -> Done:
    """As ``subprocess.run``, of a process that has loaded everything before: a tenth of the time."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        command = zygote.shared().start(words, env=env, cwd=Path.cwd(), out=out.fileno(), err=err.fileno())
        code = command.wait(120)
        out.seek(0)
        err.seek(0)
        return Done(["reconcile", *words], code, out.read(), err.read())


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return declare(tmp_path, "here")


@pytest.fixture
def ambient(tmp_path: Path) -> dict[str, str]:
    """The environment names other manifests and another state than the options do."""
    other = declare(tmp_path, "other")
    return {"RECONCILER_MANIFESTS": str(other), "RECONCILER_STATE": str(other / "state")}


# ---------------------------------------------------------------------------------------------------- options


def test_options_before_and_after_the_verb_mean_the_same(here: Path) -> None:
    common = ["-f", str(here), "--state", str(here / "state"), "-o", "json"]
    other = here / "other.yaml"
    other.write_text((here / "here.yaml").read_text().replace("here", "other"))
    assert run("--once", *common).returncode == Exit.OK
    other.unlink()

    before, after = run(*common, "--prune", "plan"), run("plan", "--prune", *common)
    held = run(*common, "plan")

    assert before.stdout == after.stdout
    assert [one["verb"] for one in json.loads(before.stdout)["held"]] == []
    assert [one["verb"] for one in json.loads(held.stdout)["held"]] != []


@pytest.mark.parametrize("verb", ["plan", "drift", "validate", "list", "events", "health", "graph", "state ls"])
@pytest.mark.parametrize("place", ["before", "after"])
def test_an_option_beats_the_environment(here: Path, ambient: dict[str, str], verb: str, place: str) -> None:
    given = ["-f", str(here), "--state", str(here / "state"), "-o", "json"]
    words = [*given, *verb.split()] if place == "before" else [*verb.split(), *given]
    plain = run(*verb.split(), *given)

    done = run(*words, env=ambient)

    assert (done.returncode, done.stderr) == (plain.returncode, plain.stderr)
    assert "other" not in done.stdout
    assert not Path(ambient["RECONCILER_STATE"]).exists()


@pytest.mark.parametrize("verb", [["suspend", "image/here"], ["protect", "image/here"], ["retry", "image/here"]])
def test_a_mark_goes_to_the_registry_that_the_options_name(here: Path, ambient: dict[str, str], verb: list[str]) -> None:
    done = run("-f", str(here), "--state", str(here / "state"), *verb, env=ambient)

    assert done.returncode == Exit.OK, done.stderr
    assert (here / "state" / "registry.sqlite3").exists()
    assert not Path(ambient["RECONCILER_STATE"]).exists()


def test_the_environment_counts_where_no_option_is_given(ambient: dict[str, str]) -> None:
    assert "snapshot/other-a" in run("plan", env=ambient).stdout


def test_what_is_given_after_the_verb_beats_what_is_given_before_it(here: Path, tmp_path: Path) -> None:
    done = run("-f", str(tmp_path / "nowhere"), "plan", "-f", str(here), "--state", str(here / "state"))

    assert "snapshot/here-a" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["--once", "plan"],
        ["--jobs", "4", "list"],
        ["--prune", "describe", "image/here"],
        ["--timeout", "5", "validate"],
        ["--metrics-port", "9000", "wait", "image/here"],
        ["--diff", "state", "ls"],
        ["-f", ".", "schema"],
        ["list", "--prune"],
    ],
)
def test_an_option_that_the_verb_does_not_use_is_a_usage_error(words: list[str]) -> None:
    done = run(*words)

    assert (done.returncode, done.stdout) == (Exit.USAGE, "")
    assert done.stderr.startswith("error: ")
    assert "hint:  reconcile" in done.stderr


def test_usage_errors_are_json_lines_where_the_log_is(here: Path) -> None:
    [line] = run("plan", "--nonsense", env={"RECONCILER_LOG_FORMAT": "json"}).stderr.splitlines()

    assert (json.loads(line)["level"], json.loads(line)["reason"]) == ("error", "Usage")


@pytest.mark.parametrize("words", [["--log-format", "json", "plan"], ["plan", "--log-format", "json"]])
def test_the_format_of_the_log_is_chosen_before_or_after_the_verb(words: list[str], tmp_path: Path) -> None:
    done = run(*words, "-f", str(tmp_path / "nowhere"), "--state", str(tmp_path / "state"))

    assert done.returncode == Exit.INVALID
    assert [json.loads(line)["level"] for line in done.stderr.splitlines()] == ["error", "error"]


# ------------------------------------------------------------------------------------------- streams and locales


LATIN = [{"LC_ALL": "C"}, {"LC_ALL": "POSIX"}, {"LC_ALL": "en_US.ISO-8859-1"}, {"PYTHONIOENCODING": "ascii"}]
LATIN += [{"PYTHONIOENCODING": "latin-1:strict"}]
LEAST = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
VERBS = ("list", "describe image/here", "plan -o json", "graph")
OTHERS = (
    "plan --diff",
    "get images",
    "events",
    "top",
    "health",
    "events -o json",
    "inspect layer.tar",
    "schema",
    "--help",
    "explain",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "verbs"),
    [(LEAST, VERBS + OTHERS), *((env, VERBS) for env in LATIN)],
    ids=lambda one: "" if isinstance(one, tuple) else str(one),
)
def test_no_verb_fails_in_any_locale(here: Path, env: dict[str, str], verbs: tuple[str, ...]) -> None:
    """An image whose label and reason are not ASCII."""
    text = (here / "here.yaml").read_text()
    (here / "here.yaml").write_text(text.replace("labels: {team: t}", 'annotations: {who: "Zoë 東京"}'), encoding="utf-8")
    common = ["-f", str(here), "--state", str(here / "state")]
    assert run("--once", "--diff", *common, env=env).returncode == Exit.OK
    assert run("suspend", "image/here", "--reason", "Zoë 東京", *common, env=env).returncode == Exit.OK
    (here / "late.yaml").write_text((here / "here.yaml").read_text(encoding="utf-8").replace("here", "zoë"), encoding="utf-8")

    for verb in verbs:
        words = verb.split()
        shared = [] if words[0] in ("schema", "--help", "explain") else common
        done = subprocess.run([*REAL, *words, *shared], capture_output=True, env=os.environ | env, cwd=here, check=False)
        assert b"Traceback" not in done.stderr and b"internal error" not in done.stderr, (words, done.stderr.decode())
        assert done.returncode != Exit.INTERNAL
        if "json" in words and done.stdout:
            json.loads(done.stdout)


@pytest.mark.parametrize("redirection", ["2>&-", "2</dev/null", "2> >(true)", ">&-", "> >(true)", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_stops_no_work(here: Path, redirection: str) -> None:
    command = f'"$@" {redirection}; echo "code $?" >"$CODE"'
    words = [*REAL, "--once", "-f", str(here), "--state", str(here / "state")]
    env = os.environ | {"CODE": str(here / "code")}

    done = subprocess.run(["bash", "-c", command, "bash", *words], capture_output=True, text=True, env=env, check=False)

    assert (here / "code").read_text() == "code 0\n"
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    assert (here / "state" / "pools" / "default" / "snapshots" / "here-a.ext4").exists()
    if redirection.startswith("2"):
        assert "RECAP" in done.stdout


@pytest.mark.parametrize("redirection", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_a_build_has_no_stream_in_place_of_one_that_is_closed(here: Path, redirection: str) -> None:
    script = f"""
        import os, sys
        from reconciler.cli import start
        from reconciler.image.builder import process
        sys.argv = ["reconcile", "build", "{here}/missing.tar", "--output", "{here}/out", "--size", "16MiB"]
        code = start.run()
        sockets = [fd for fd in (0, 1, 2) if os.readlink(f"/proc/self/fd/{{fd}}").startswith("socket:")]
        with open(os.environ["CODE"], "w") as file:
            print(code, sockets, len(process._servers), file=file)
    """
    env = os.environ | {"CODE": str(here / "code")}
    command = f'"$@" {redirection}'
    words = [sys.executable, "-c", textwrap.dedent(script)]
    subprocess.run(["bash", "-c", command, "bash", *words], capture_output=True, text=True, env=env, check=False)
    assert (here / "code").read_text() == f"{Exit.FAILED:d} [] 1\n"


ENDING = """
    import atexit, sys, threading
    from reconciler.cli import start
    atexit.register(print, "at the end", flush=True)
    if "thread" in sys.argv:
        threading.Thread(target=lambda: (threading.main_thread().join(), print("waited for", flush=True))).start()
    sys.argv = ["reconcile", "explain", "nothing-of-the-kind"] if "fails" in sys.argv else ["reconcile", "--version"]
    sys.exit(start.main())
"""


@pytest.mark.parametrize(("words", "code"), [((), Exit.OK), (("fails",), Exit.USAGE), (("thread",), Exit.OK)])
def test_a_command_that_ends_has_written_all_and_leaves_nothing_undone(words: Sequence[str], code: int) -> None:
    script = textwrap.dedent(ENDING)
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False, timeout=120)

    assert done.returncode == code
    said = done.stdout.splitlines()
    assert said[-1] == "at the end"
    assert ("waited for" in said) == ("thread" in words)
    assert done.stderr if code else said[0].startswith("reconcile")


def test_log_lines_never_go_to_standard_output(here: Path) -> None:
    words = [*REAL, "--once", "-f", str(here), "--state", str(here / "state"), "-o", "json"]

    done = subprocess.run(["bash", "-c", '"$@" 2>&-', "bash", *words], capture_output=True, text=True, check=False)

    assert json.loads(done.stdout)["failed"] == 0


@pytest.mark.parametrize("words", ["--help", "schema", "list", "plan", "top -n 3 --every 0.1"])
def test_a_reader_that_ends_early_is_no_error(here: Path, words: str) -> None:
    shared = f"-f {here} --state {here}/state" if words.split()[0] in ("list", "plan", "top") else ""
    command = f"{' '.join(REAL)} {words} {shared} | head -c 1 >/dev/null; echo ${{PIPESTATUS[0]}}"

    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)

    assert (done.stdout, "Traceback" in done.stderr, "Errno" in done.stderr) == ("0\n", False, False)


def test_an_answer_that_a_full_disk_loses_is_an_error(here: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = run("list", "-f", str(here), "--state", str(here / "state"), stdout=full)

    assert (done.returncode, "standard output: No space left on device" in done.stderr) == (Exit.HOST_CANNOT, True)


def test_a_log_on_a_full_disk_stops_no_work(here: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = run("--once", "-f", str(here), "--state", str(here / "state"), stderr=full)

    assert (done.returncode, "failed=0" in done.stdout) == (Exit.OK, True)


# ----------------------------------------------------------------------------------------------- internal errors

CRASH = "from reconciler.cli import inspect, main\nfrom reconciler.status import inventory\nimport sys\n"
CRASH += "def listing(host):\n    raise KeyError('planted')\n"
CRASH += "inventory.listing = listing\nsys.exit(main.main())\n"


def crashed(here: Path, *words: str, env: dict[str, str] | None = None) -> Done:
    command = [sys.executable, "-c", CRASH, *words, "list", "-f", str(here), "--state", str(here / "state")]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | (env or {}), check=False)


def test_an_internal_error_is_one_line_and_a_report(here: Path) -> None:
    (here / "state").mkdir(mode=0o700)

    done = crashed(here)

    [report] = (here / "state").glob("crash-*.txt")
    assert (done.returncode, done.stdout) == (Exit.INTERNAL, "")
    assert done.stderr == f"error: internal error in `reconcile list`: KeyError: 'planted'; the report is in {report}\n"
    assert "Traceback" in report.read_text() and "raise KeyError('planted')" not in done.stderr
    assert report.stat().st_mode & 0o777 == 0o600


def test_reports_are_bounded_in_number(here: Path) -> None:
    (here / "state").mkdir()
    for number in range(30):
        (here / "state" / f"crash-20200101T0000{number:02}-1.txt").touch()
    (here / "state" / "crash-notes.txt").touch()

    crashed(here)

    assert len(list((here / "state").glob("crash-2*.txt"))) == 10
    assert (here / "state" / "crash-notes.txt").exists()


def test_without_a_state_directory_the_report_is_in_the_temporary_one(here: Path, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()

    done = crashed(here, env={"TMPDIR": str(tmp_path / "tmp")})

    [report] = (tmp_path / "tmp").glob("crash-*.txt")
    assert str(report) in done.stderr
    assert not (here / "state").exists()


def test_with_debug_the_traceback_is_printed(here: Path) -> None:
    (here / "state").mkdir()

    done = crashed(here, "--debug")

    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.splitlines()[-1] == "error: internal error in `reconcile list`: KeyError: 'planted'"
    assert not list((here / "state").glob("crash-*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_a_state_directory_that_cannot_be_read_is_named(here: Path, tmp_path: Path) -> None:
    """As another user: 69, with what to do."""
    assert run("--once", "-f", str(here), "--state", str(here / "state")).returncode == Exit.OK
    for path in (tmp_path, *tmp_path.parents):
        if path != Path("/") and path != Path("/tmp"):
            path.chmod(path.stat().st_mode | 0o055)
    (here / "state").chmod(0o700)
    code = "import os, sys; os.setgid(65534); os.setuid(65534); from reconciler.cli.main import main; sys.exit(main())"

    for words in (["list"], ["plan"], ["--once"], ["suspend", "image/here"], ["health"]):
        command = [sys.executable, "-c", code, *words, "-f", str(here), "--state", str(here / "state")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if "No module named" in done.stderr or ("Permission denied" in done.stderr and "Traceback" in done.stderr):
            pytest.skip("the checkout can't be read by another user")
        assert done.returncode == (Exit.FAILED if words == ["health"] else Exit.HOST_CANNOT), done.stderr
        assert "Permission denied" in done.stderr + done.stdout and "Traceback" not in done.stderr


# ------------------------------------------------------------------------------------------------------- signals

SIGNALS = """
import os, signal, sys, time
from reconciler.cli import converge, main
from reconciler.controller import service
def stubborn(self):
    print("started", flush=True)
    while True:
        time.sleep(0.01)
def told(self):
    self._stop.wait(60)
service.Service.run = stubborn if sys.argv[1] == "stubborn" else told
if sys.argv[1] == "expired":
    service.Service.run = lambda self: self._stop.set()
del sys.argv[1]
sys.exit(main.main())
"""


@pytest.mark.parametrize(("first", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_work_that_does_not_stop(here: Path, first: signal.Signals, code: int) -> None:
    command = [sys.executable, "-c", SIGNALS, "stubborn", "-f", str(here), "--state", str(here / "state")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "started\n"
        process.send_signal(first)
        try:
            process.wait(0.3)
        except subprocess.TimeoutExpired:
            process.send_signal(first)
        assert process.wait(30) == code


def test_a_service_that_ends_without_a_signal_has_no_signal_s_exit_code(here: Path) -> None:
    command = [sys.executable, "-c", SIGNALS, "expired", "-f", str(here), "--state", str(here / "state")]

    assert subprocess.run([*command, "--timeout", "5"], check=False).returncode == Exit.NOT_CONVERGED
    assert subprocess.run(command, check=False).returncode == Exit.OK


# ------------------------------------------------------------------------------------------------------- faults


def on_terminal(*words: str, **env: str) -> str:
    """Standard error of a command whose standard error is a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen([*REAL, *words], stdout=subprocess.DEVNULL, stderr=theirs, env=os.environ | env) as process:
        os.close(theirs)
        text = b""
        try:
            while piece := os.read(ours, 4096):
                text += piece
        except OSError:  # the other end is closed
            pass
        process.wait()
    os.close(ours)
    return text.decode().replace("\r\n", "\n")


@pytest.fixture
def faulty(here: Path) -> Path:
    text = (here / "here.yaml").read_text()
    (here / "here.yaml").write_text(text.replace("size: 16MiB", "siez: 16MiB").replace("kind: Image", "kind: Imgae"))
    (here / "bad.yaml").write_text(text.replace("16MiB", "many"))
    return here


def test_on_a_terminal_a_fault_shows_its_line_and_marks_the_span(faulty: Path) -> None:
    lines = on_terminal("validate", "-f", str(faulty), COLUMNS="100").splitlines()

    at = next(number for number, line in enumerate(lines) if line.startswith(f"{faulty}/bad.yaml:5:9: spec.size: "))
    assert lines[at + 1 : at + 3] == [" 5 |   size: many", "   |         ^^^^"]
    assert lines[-1] == "error: 2 faults in 2 files; nothing touched"


@pytest.mark.parametrize("words", [["validate"], ["plan"], ["--once"]])
def test_elsewhere_a_fault_is_one_line_and_all_have_the_same_form(faulty: Path, words: list[str]) -> None:
    done = run(*words, "-f", str(faulty), "--state", str(faulty / "state"))

    *faults, summary = done.stderr.splitlines()
    assert done.returncode == Exit.INVALID
    assert len(faults) == 2 and all(line.startswith(f"{faulty}/") for line in faults)
    assert summary == "error: 2 faults in 2 files; nothing touched"


def test_json_logs_have_one_line_for_each_fault(faulty: Path) -> None:
    done = run("plan", "-f", str(faulty), "--state", str(faulty / "state"), "--log-format", "json")

    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["reason"] for line in lines] == ["InvalidSpec"] * 3
    assert all("\n" not in line["message"] and "^" not in line["message"] for line in lines)


def test_a_verb_that_goes_on_notes_which_manifests_it_uses(faulty: Path) -> None:
    done = run("list", "-f", str(faulty), "--state", str(faulty / "state"))

    assert done.returncode == Exit.OK
    assert done.stderr.splitlines()[-1].startswith("note: 2 faults in 2 files; the last valid manifests")


# -------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "words",
    [
        *(["suspend"], ["resume"], ["protect"], ["unprotect"], ["retry"], ["wait"], ["wait", "--for", "gone"]),
        *(["describe"], ["events"], ["get"], ["verify"]),
    ],
    ids=" ".join,
)
def test_an_unknown_name_is_a_usage_error_that_suggests_the_right_one(here: Path, words: list[str]) -> None:
    """Exit code 4 where a manifest that can't be read may declare it."""
    common = ["-f", str(here), "--state", str(here / "state")]

    wrong = run(words[0], "image/heer", *words[1:], *common)
    (here / "bad.yaml").write_text("kind: [\n")
    unreadable = run(words[0], "image/heer", *words[1:], *common)

    assert (wrong.returncode, wrong.stdout) == (Exit.USAGE, "")
    assert "there is no image 'heer' (did you mean 'here'?)" in wrong.stderr
    assert (unreadable.returncode, unreadable.stdout) == (Exit.INVALID, "")
    assert "bad.yaml:" in unreadable.stderr


def test_an_image_that_is_gone_can_be_waited_for(here: Path) -> None:
    common = ["-f", str(here), "--state", str(here / "state")]
    other = here / "other.yaml"
    other.write_text((here / "here.yaml").read_text().replace("here", "other"))
    assert run("--once", *common).returncode == Exit.OK
    other.unlink()
    assert run("--once", "--prune", "--prune-max", "1", *common).returncode == Exit.OK

    assert run("wait", "image/other", "--for", "gone", "--timeout", "0", *common).returncode == Exit.OK
    assert run("events", "image/other", *common).stdout.count("image/other") > 0
    assert run("wait", "image/here", "--for", "gone", "--timeout", "0s", *common).returncode == Exit.NOT_CONVERGED


@pytest.mark.parametrize("value", ["5s", "5", "1.5"])
def test_a_time_is_a_duration_or_a_number_of_seconds(here: Path, value: str) -> None:
    common = ["-f", str(here), "--state", str(here / "state")]

    assert run("--once", "--timeout", value, "--interval", value if value == "5s" else "5", *common).returncode == Exit.OK
    assert run("wait", "image/here", "--timeout", value, *common).returncode == Exit.OK


def test_a_duration_that_is_none_is_named_with_its_option_alone(here: Path) -> None:
    common = ["-f", str(here), "--state", str(here / "state")]

    assert "--prune-max" not in run("--once", "--prune-grace", "5", *common).stderr
    assert "'soon' is not a duration such as" in run("wait", "image/here", "--timeout", "soon", *common).stderr


def test_no_image_counts_as_gone_while_manifests_are_invalid(here: Path) -> None:
    common = ["-f", str(here), "--state", str(here / "state")]
    (here / "here.yaml").write_text("spec: [")

    assert run("wait", "image/here", "--for", "gone", "--timeout", "0", *common).returncode == Exit.INVALID


@pytest.mark.parametrize("name", ["here", "image/here"])
def test_verify_takes_a_name_with_or_without_its_kind(here: Path, name: str) -> None:
    common = ["-f", str(here), "--state", str(here / "state")]
    assert run("--once", *common).returncode == Exit.OK

    assert run("verify", name, *common).returncode == Exit.OK


def test_a_saved_plan_is_shown_without_counts_that_it_does_not_hold(here: Path) -> None:
    common = ["-f", str(here), "--state", str(here / "state")]
    run("plan", "--out", str(here / "plan"), "--fetch", *common)

    assert run("show", str(here / "plan"), *common).stdout.splitlines()[-1] == "Plan: 3 to change."
