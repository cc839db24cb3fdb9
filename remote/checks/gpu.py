"""GPUs: a driver that works, devices that exist, and containers that may use them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from remote.checks import systems
from remote.checks.context import CheckContext
from remote.checks.devices import wants_gpu
from remote.checks.model import Check, Finding, Fix, Severity, each_host, fail, ok, skip, unknown, warn
from remote.errors import PlanError
from remote.facts import Facts
from remote.inventory import Host
from remote.plan_devices import choose_devices


def gpu_finding(host: Host, facts: Facts) -> Finding:
    """Judge driver and devices of a host whose ranks want GPUs, or that seems to have some."""
    wanted = wants_gpu(host, facts)
    listing = "; ".join(f"{gpu.index}: {gpu.name} {gpu.uuid} driver {gpu.driver}" for gpu in facts.gpus)
    evidence = f"nvidia-smi: {facts.gpu_error or listing or 'no GPU'}"
    if facts.gpu_error and not facts.gpus:
        if not wanted and host.devices == "cpu":
            return skip("devices is cpu")
        if "version mismatch" in facts.gpu_error.lower():
            return fail(
                "the NVIDIA driver was upgraded under the running kernel: its two halves do not match",
                evidence,
                Fix("reboot", ("sudo reboot",), host=facts.host, needs_root=True),
            )
        return fail(f"nvidia-smi does not work: {facts.gpu_error}", evidence, _driver_fix(facts))
    if not wanted:
        return skip("the ranks of this host run on the CPU")
    if not facts.gpus:
        return fail("GPUs are asked for and none is there", evidence, _driver_fix(facts))
    try:
        chosen = choose_devices(host, facts).gpus
    except PlanError as error:
        return fail(error.message, evidence, Fix(error.next_step, ("nvidia-smi -L",), host=facts.host))
    return ok(f"{len(chosen)} × {chosen[0].name}, driver {chosen[0].driver}", evidence)


def _driver_fix(facts: Facts) -> Fix:
    packages: dict[systems.Family, str] = {
        "debian": "nvidia-driver" if facts.distribution.lower().startswith("debian") else "ubuntu-drivers-common",
        "fedora": "akmod-nvidia",
        "arch": "nvidia",
    }
    fix = systems.install(facts, packages, "install the NVIDIA driver, then reboot: https://www.nvidia.com/drivers")
    commands = fix.commands
    if any("ubuntu-drivers-common" in command for command in commands):
        commands = (*commands, "sudo ubuntu-drivers install")
    return Fix(f'{fix.text}; or set devices = "cpu" for this host', commands, host=facts.host, needs_root=True)


async def _gpu(context: CheckContext, name: str) -> Finding:
    return gpu_finding(context.host(name), await context.facts(name))


def toolkit_finding(facts: Facts, info: Mapping[str, Any]) -> Finding:
    """Judge whether the engine can hand GPUs to containers."""
    runtimes = sorted(info.get("Runtimes") or {})
    cdi = [str(each.get("ID", "")) for each in info.get("DiscoveredDevices") or () if isinstance(each, dict)]
    desktop = "docker desktop" in str(info.get("OperatingSystem") or "").lower()
    evidence = (
        f"docker info: Runtimes={', '.join(runtimes)}; CDI devices={', '.join(cdi) or 'none'}; "
        f"nvidia-ctk: {facts.nvidia_container_toolkit or 'not found'}"
    )
    if "nvidia" in runtimes or any("nvidia.com/gpu" in each for each in cdi) or desktop:
        return ok(facts.nvidia_container_toolkit or "the engine knows NVIDIA GPUs", evidence)
    restart = "systemctl --user restart docker" if _rootless(info) else "sudo systemctl restart docker"
    configure = ("sudo nvidia-ctk runtime configure --runtime=docker", restart)
    # The engine also finds the toolkit's hook by itself if it was there when the engine started; that cannot be seen
    # from here, so this is a warning and not a failure.
    if facts.nvidia_container_toolkit:
        return warn(
            "the NVIDIA container toolkit is installed, but the engine was not told about it",
            evidence,
            Fix("tell the engine about it and restart it", configure, host=facts.host, needs_root=True),
        )
    return fail(
        'containers cannot use the GPU: could not select device driver "" with capabilities: [[gpu]]',
        evidence,
        Fix(
            "install the NVIDIA container toolkit",
            (*_toolkit_install(facts), *configure),
            host=facts.host,
            needs_root=True,
        ),
    )


def _rootless(info: Mapping[str, Any]) -> bool:
    return any("name=rootless" in str(each) for each in info.get("SecurityOptions") or ())


def _toolkit_install(facts: Facts) -> tuple[str, ...]:
    """Source: https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/install-guide.html."""
    base = "https://nvidia.github.io/libnvidia-container"
    match systems.family(facts):
        case "debian":
            key = "/usr/share/keyrings/nvidia-container-toolkit-keyring.gpg"
            return (
                f"curl -fsSL {base}/gpgkey | sudo gpg --dearmor -o {key}",
                (
                    f"curl -fsSL {base}/stable/deb/nvidia-container-toolkit.list "
                    f"| sed 's#deb https://#deb [signed-by={key}] https://#g' "
                    "| sudo tee /etc/apt/sources.list.d/nvidia-container-toolkit.list"
                ),
                "sudo apt-get update && sudo apt-get install -y nvidia-container-toolkit",
            )
        case "fedora":
            return (
                (
                    f"curl -fsSL {base}/stable/rpm/nvidia-container-toolkit.repo "
                    "| sudo tee /etc/yum.repos.d/nvidia-container-toolkit.repo"
                ),
                "sudo dnf install -y nvidia-container-toolkit",
            )
        case "suse":
            return (
                f"sudo zypper ar {base}/stable/rpm/nvidia-container-toolkit.repo",
                "sudo zypper --gpg-auto-import-keys install -y nvidia-container-toolkit",
            )
        case "arch":
            return ("sudo pacman -S --needed nvidia-container-toolkit",)
        case _:
            return ()


async def _toolkit(context: CheckContext, name: str) -> Finding:
    facts = await context.facts(name)
    if not wants_gpu(context.host(name), facts):
        return skip("the ranks of this host run on the CPU")
    return toolkit_finding(facts, await context.engine_info(name))


def cuda_finding(facts: Facts, env: Sequence[str], header: str, ref: str) -> Finding:
    """Compare the CUDA an image requires with the one the driver supports.

    The image says it as ``NVIDIA_REQUIRE_CUDA=cuda>=12.8 brand=…``, the driver in the header of ``nvidia-smi``. A
    requirement with ``brand=`` clauses also accepts older drivers of data centre GPUs.
    """
    requirement = next((each.partition("=")[2] for each in env if each.startswith("NVIDIA_REQUIRE_CUDA=")), "")
    supported = re.search(r"CUDA Version:\s*([0-9]{1,9})\.([0-9]{1,9})", header)
    limit = f"{supported[1]}.{supported[2]}" if supported else "unknown"
    evidence = f"{ref}: NVIDIA_REQUIRE_CUDA={requirement or 'not set'}; nvidia-smi: CUDA Version: {limit}"
    wanted = re.search(r"cuda>=([0-9]{1,9})\.([0-9]{1,9})", requirement)
    if wanted is None:
        return skip("the image names no CUDA it needs")
    if supported is None:
        return unknown("nvidia-smi did not say which CUDA the driver supports", f"{evidence}\n{header[:400]}")
    if (int(supported[1]), int(supported[2])) >= (int(wanted[1]), int(wanted[2])):
        return ok(f"CUDA {wanted[1]}.{wanted[2]} needed, {limit} supported", evidence)
    reason = f"{ref} needs CUDA {wanted[1]}.{wanted[2]}; the driver goes up to {limit}"
    fix = Fix(
        "upgrade the driver and reboot, or use an image made for an older CUDA",
        _driver_fix(facts).commands,
        host=facts.host,
        needs_root=True,
    )
    return (warn if "brand=" in requirement else fail)(reason, evidence, fix)


async def _cuda(context: CheckContext, name: str) -> Finding:
    facts = await context.facts(name)
    image = await context.image(name)
    if not wants_gpu(context.host(name), facts) or image is None:
        return skip("the ranks of this host run on the CPU")
    completed = await context.runner(name).run("nvidia-smi", timeout=15.0)
    return cuda_finding(facts, image.env, completed.stdout, image.ref)


CUDA = Check(
    id="cuda",
    title="Driver new enough",
    codes=("PF-53",),
    severity=Severity.BLOCKS,
    scope="host",
    question="Does the driver support the CUDA that the image requires (`NVIDIA_REQUIRE_CUDA`)?",
    remedy="Upgrade the driver and reboot, or use an image for an older CUDA.",
    probe=each_host(_cuda),
    needs=("image", "gpu"),
)
GPU = Check(
    id="gpu",
    title="GPU and driver",
    codes=("PF-54", "PF-58"),
    severity=Severity.BLOCKS,
    scope="host",
    question="Does nvidia-smi work where GPUs are wanted or seem to be there, and does every device asked for exist?",
    remedy="Install the driver; reboot after a driver upgrade; correct `devices`.",
    probe=each_host(_gpu),
    needs=("system",),
)
TOOLKIT = Check(
    id="gpu-containers",
    title="GPUs in containers",
    codes=("PF-52",),
    severity=Severity.BLOCKS,
    scope="host",
    question="Does the engine know the NVIDIA runtime or its CDI devices? Only where the ranks want GPUs.",
    remedy="Install nvidia-container-toolkit, `nvidia-ctk runtime configure`, restart Docker.",
    probe=each_host(_toolkit),
    needs=("engine", "gpu"),
)
CHECKS = (GPU, TOOLKIT)
