"""The person's own training script: is it where the ranks will look for it, with everything it imports?"""

from __future__ import annotations

import json
import posixpath
import shlex

from remote.checks.context import CheckContext
from remote.checks.model import Check, Finding, Fix, Severity, Verdict, each_host, fail, ok, skip, unknown
from remote.plan_contract import DATA_FOLDER, OUTPUT_FOLDER
from remote.plan_folders import Folders
from remote.runner import Completed

QUESTION = """
import ast, importlib.util, json, os, sys
path, said = sys.argv[1], {}
def is_missing(name):
    try:
        return importlib.util.find_spec(name) is None
    except (ImportError, ValueError):
        return True
try:
    with open(path, "rb") as file:
        body = ast.parse(file.read(), path).body
except OSError as error:
    said["problem"] = error.strerror or str(error)
except (SyntaxError, ValueError) as error:
    said["syntax"] = "%s (line %s)" % (error, getattr(error, "lineno", None))
else:
    sys.path[0] = os.path.dirname(os.path.abspath(path))
    names = set()
    for node in body:
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    said["missing"] = sorted(filter(is_missing, names))
print("\\nHETERO " + json.dumps(said))
"""
"""Reads and looks up, but runs nothing of the script. Imports inside functions, ``if`` and ``try`` may be optional."""
_MARK = "HETERO "


def script_finding(host: str, path: str, place: str, completed: Completed) -> Finding:
    """Judge ``QUESTION``'s answer; ``place`` is the image, or the host's Python."""
    evidence = f"{place}: exit {completed.exit_status}\n{completed.stdout}{completed.stderr}"[-4000:]
    line = next((each for each in reversed(completed.stdout.splitlines()) if each.startswith(_MARK)), "")
    try:
        said = json.loads(line.removeprefix(_MARK)) if line else None
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        return unknown(f"{place} gave no answer about {path}", evidence)
    if said.get("problem"):
        return fail(f"{path}: {said['problem']} in {place}{_hidden(path)}", evidence, _where(host, path))
    if said.get("syntax"):
        return fail(f"{path} is no Python that {place} understands: {said['syntax']}", evidence, _where(host, path))
    named = said.get("missing")
    missing = [str(name) for name in named] if isinstance(named, list) else []
    if missing:
        return fail(
            f"{path} imports {', '.join(missing)}, which {place} does not have",
            evidence,
            Fix("put it into the image (or the virtual environment), or beside the script", host=host),
        )
    return ok(f"{path} and what it imports are there", evidence)


def _hidden(path: str) -> str:
    for folder, key in ((DATA_FOLDER, "data_dir"), (OUTPUT_FOLDER, "checkpoint_dir")):
        if posixpath.normpath(path).startswith(f"{folder}/"):
            return f": {key} is mounted over {folder} and hides what the image has there"
    return ""


def _where(host: str, path: str) -> Fix:
    return Fix(
        f"put {posixpath.basename(path)} where no folder of the host is mounted (not below {DATA_FOLDER} or "
        f"{OUTPUT_FOLDER}), build the image again, and name its path there as script under [training]",
        host=host,
    )


async def _script(context: CheckContext, name: str) -> Finding:
    training, host = context.inventory.training, context.host(name)
    if not training.script:
        return skip("no script under [training]")
    if training.workdir:
        return skip("the script comes with the folder workdir names, when the run is launched")
    software = "python" if host.runtime == "process" else "image-python"
    for check_id, place in ((software, name), ("data", ""), ("output", name)):
        finding = context.findings.get((check_id, place))
        if finding is not None and finding.verdict is Verdict.FAIL:
            return skip(f"needs “{check_id}”, which failed: {finding.reason}")
    facts = await context.facts(name)
    folders = Folders.of(context.inventory, host, facts, "checklist", "")
    if host.runtime == "process":
        command = f"exec {shlex.quote(folders.python)} - {shlex.quote(folders.script)}"
        completed = await context.runner(name).run(command, input=QUESTION.encode(), timeout=30.0)
        return script_finding(name, folders.script, folders.python, completed)
    ref = await context.image_ref(name)
    if await context.image(name) is None:
        return skip(f"needs “image”: {ref} is not on the host")
    engine = await context.engine(name)
    argv = ("python3", "-c", QUESTION, folders.script)
    completed = await engine.run_once(ref, argv, mounts=folders.mounts, timeout=40.0)
    return script_finding(name, folders.script, ref, completed)


SCRIPT = Check(
    id="script",
    title="Training script",
    codes=("PF-21",),
    severity=Severity.BLOCKS,
    scope="host",
    question="Is your own script where the ranks will look for it, and can everything it imports at the top be found? "
    "Asked in a container of the job's image with the job's folders mounted, for a mount hides what the image has "
    "there. Nothing of the script is run.",
    remedy="Keep the code outside the mounted folders; put what it imports into the image.",
    probe=each_host(_script),
    needs=("system",),
    after=("python", "image-python", "data", "output"),
    deadline=60.0,
)
