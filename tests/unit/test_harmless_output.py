"""What hosts said and files keep comes out of every command as text that no terminal acts on."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from hetero_tui import cli, doctor
from remote.run_dir import RunDir
from remote.runtime import LogLine
from tests.unit.stored import stored_run
from trainer.events import Failed, Notice, Output, encode

HOSTILE = "x\x1b]52;c;eA==\x07\x1b[2J\rover\x9b31m\x9d0;t\x9c\x85\x7f\x08\u202egnp\u202c\u2066i\u200b\u2028[red]y[/red]"


def raw_letters(text: str) -> set[str]:
    """Return the names of what a terminal would act on, or turn the reading direction for."""
    acting = {"Cc", "Cs", "Cf", "Zl", "Zp"}
    return {hex(ord(each)) for each in text if each != "\n" and unicodedata.category(each) in acting}


@pytest.mark.parametrize(
    "words",
    [["runs"], ["runs", "--json"], ["replay", "@", "--json"],
     ["report", "@"], ["report", "@", "--json"], ["doctor"], ["doctor", "--json"]],
    ids=" ".join,
)  # fmt: skip
def test_of_a_recorded_run(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = stored_run(tmp_path / "experiments")
    with RunDir.open(tmp_path / "experiments", run.plan.cluster, run.run_id) as run_dir:
        said = (
            Output(rank=-1, text=HOSTILE, source_rank=0),
            Notice(rank=0, seq=90, level="error", text=HOSTILE, code=HOSTILE, about=HOSTILE),
            Failed(rank=1, seq=91, error=HOSTILE, traceback=f"{HOSTILE}\n{HOSTILE}"),
        )
        run_dir.append("pc", [LogLine(HOSTILE, "y"), *(LogLine(encode(each), "z") for each in said)], 1_760_000_060.0)
    code = cli._called([run.run_id if word == "@" else word for word in words])
    out, err = capsys.readouterr()
    assert code in (0, 1), err
    assert not raw_letters(out), out
    assert not raw_letters(err), err
    if "--json" in words:
        for line in out.splitlines() if words[0] == "replay" else [out]:
            json.loads(line)


@pytest.mark.parametrize("as_json", [True, False])
async def test_what_an_engine_says_of_itself_is_harmless_in_the_doctors_report(
    *, as_json: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def told(*_: object) -> list[str]:
        engine = json.dumps({"OperatingSystem": HOSTILE}, ensure_ascii=False)
        return [f"## Hosts\n\n```json\n{engine}\n```\n"]

    monkeypatch.setattr(doctor, "_about_cluster", told)
    page = tmp_path / "page.md"
    await doctor.run(Path("cluster.toml"), report=page, redact=False, experiments=tmp_path, as_json=as_json)
    out, _ = capsys.readouterr()
    assert not raw_letters(out)
    assert not raw_letters(page.read_text("utf-8"))
    assert "gnp" in page.read_text("utf-8")
    assert "gnp" in out or not as_json
