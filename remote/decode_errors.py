"""From raw error text to what happened and what to do.

When one rank dies, every other rank complains too: a reset or closed connection on one host is most often only the
echo of what happened on another. So each entry says whether it is a consequence, and a cause always wins over one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Decoded:
    """What an error text means."""

    name: str
    """Short stable name of the entry."""
    cause: str
    next_step: str
    is_consequence: bool = False
    """True when another rank or host is where to look first."""


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    pattern: re.Pattern[str]
    cause: str
    """May name groups of the pattern, as in ``{port}``."""
    next_step: str
    is_consequence: bool = False


def _entry(name: str, pattern: str, cause: str, next_step: str, *, is_consequence: bool = False) -> _Entry:
    return _Entry(name, re.compile(pattern, re.IGNORECASE | re.MULTILINE), cause, next_step, is_consequence)


_ENGINE: Final = (
    _entry(
        "engine-denied",
        r"permission denied while trying to connect to the docker|docker\.sock.{0,80}permission denied"
        r"|PermissionError\(13",
        "the account has no right to the engine's socket",
        "on that host: sudo usermod -aG docker $USER, then connect anew (groups are read at login)",
    ),
    _entry(
        "engine-down",
        r"cannot connect to the docker daemon|is the docker daemon running",
        "the Docker Engine does not run",
        "on that host: sudo systemctl start docker, or open Docker Desktop",
    ),
    _entry(
        "gpu-runtime-missing",
        r"could not select device driver|unknown or invalid runtime name: nvidia|unknown runtime specified nvidia",
        "the engine cannot hand out GPUs",
        "install the NVIDIA Container Toolkit there: sudo nvidia-ctk runtime configure --runtime=docker && "
        "sudo systemctl restart docker; a snap or rootless engine needs more than that",
    ),
    _entry(
        "gpu-driver",
        r"nvidia-container-cli[^\n]{0,200}(?:driver|nvml) |failed to initialize NVML|nvml error|"
        r"nvidia-container-cli: initialization error",
        "the NVIDIA driver of the host does not answer",
        "run nvidia-smi on that host; after a driver update without a reboot, reboot",
    ),
    _entry(
        "gpu-unknown",
        r"nvidia-container-cli: device error: (?P<gpu>[^:\n]{1,80}): unknown device",
        "the GPU {gpu} is not there any more",
        "read the facts again (nvidia-smi -L) and plan anew",
    ),
    _entry(
        "rootless-gpu",
        r"bpf_prog_query[^\n]{0,80}operation not permitted",
        "a rootless engine may not set up device rules",
        "set no-cgroups = true in /etc/nvidia-container-runtime/config.toml on that host",
    ),
    _entry(
        "name-taken",
        r'conflict\. the container name "/?(?P<container>[^"\n]{1,128})" is already in use',
        "a container called {container} is already there",
        "if it belongs to an earlier run, end that run first; otherwise remove it: docker rm {container}",
    ),
    _entry(
        "image-missing",
        r"no such image: ?(?P<image>\S{1,256})|unable to find image '(?P<image2>[^'\n]{1,256})' locally",
        "the image {image} is not on the host",
        "send, pull or build it first: the image check says how",
    ),
    _entry(
        "wrong-architecture",
        r"exec format error|does not match the (?:detected host|specified) platform",
        "the image is built for another processor architecture",
        "use an image for this host's architecture: image = … of this host in cluster.toml",
    ),
    _entry(
        "no-space",
        r"no space left on device",
        "the disk is full",
        "free space on that host: docker system df, then docker image prune",
    ),
    _entry(
        "mount-missing",
        r"bind source path does not exist: (?P<path>[^\n\"]{1,256})",
        "the folder {path} to mount is not on the host",
        "make it there, or mend data_dir or checkpoint_dir in cluster.toml",
    ),
    _entry(
        "mount-denied",
        r"mounts denied|error while creating mount source path",
        "the engine may not mount that folder",
        "share the folder with the engine (Docker Desktop: Settings → Resources → File sharing)",
    ),
    _entry(
        "command-not-found",
        # The middle one is tini's, which the engine puts before the command when asked for an init.
        r'exec: "(?P<command>[^"\n]{1,200})": (?:executable file not found|stat [^\n]{0,200}no such file)'
        r"|\bexec (?P<command3>[^\n]{1,200}?) failed: No such file or directory"
        r"|(?:^|: )(?P<command2>[^\s:][^:\n]{0,200}): (?:command )?not found",
        "there is no command {command}",
        "use an image (or a python) that holds Python and the trainer",
    ),
    _entry(
        "limit-denied",
        r"error setting rlimit[^\n]{0,120}",
        "the engine may not raise a resource limit",
        "a rootless engine keeps its own limits: raise them for its service, or use a rootful engine",
    ),
    _entry(
        "credentials",
        r"error getting credentials",
        "the credential store cannot be opened over SSH",
        "remove credsStore from ~/.docker/config.json on that host, or send the image instead",
    ),
)

_RANK: Final = (
    _entry(
        "torch-missing",
        r"No module named '?torch'?\b",
        "there is no torch in the image or virtual environment",
        "use an image with PyTorch, or install torch into the python of this host",
    ),
    _entry(
        "trainer-missing",
        r"No module named '?trainer\b",
        "the trainer is not in the image or virtual environment",
        "build the image from the project's Dockerfile, or pip install hetero-tui[trainer] for this host's python",
    ),
    _entry(
        "module-missing",
        r"No module named '?(?P<module>[\w.]{1,100})",
        "there is no Python module {module}",
        "add it to the image; a bind mount may hide the code in it",
    ),
    _entry(
        "cuda-memory",
        r"CUDA out of memory|torch\.(?:cuda\.)?OutOfMemoryError|CUDNN_STATUS_ALLOC_FAILED",
        "the GPU has too little free memory",
        "see who uses it (nvidia-smi), or take a smaller global batch",
    ),
    _entry(
        "main-memory",
        r"DefaultCPUAllocator: (?:can't allocate memory|not enough memory)|\bMemoryError\b|Cannot allocate memory",
        "main memory ran out",
        "close other programs, raise the engine's memory limit, or take a smaller global batch",
    ),
    _entry(
        "shared-memory",
        r"out of shared memory|DataLoader worker \(pid[^\n]{0,60}\) is killed by signal: Bus error",
        "shared memory (/dev/shm) is too small for the data loader's workers",
        "raise shm_size",
    ),
    _entry(
        "cuda-architecture",
        r"no kernel image is available for execution on the device",
        "this torch build has no code for this GPU",
        "use a torch build for the GPU's compute capability",
    ),
    _entry(
        "cuda-driver-old",
        r"CUDA driver version is insufficient|The NVIDIA driver on your system is too old",
        "the NVIDIA driver is older than the image's CUDA needs",
        "update the driver, or use an image with an older CUDA",
    ),
    _entry(
        "cuda-unavailable",
        r"No CUDA GPUs are available|Torch not compiled with CUDA enabled|Found no NVIDIA driver"
        r"|no CUDA-capable device is detected",
        "torch sees no GPU on this host",
        'use the CUDA image there and check that the engine hands out GPUs; or devices = "cpu"',
    ),
    _entry(
        "no-nccl",
        r"Distributed package doesn't have NCCL built in|ProcessGroupNCCL is only supported with GPUs",
        "NCCL was asked of a rank without CUDA",
        'backend = "gloo" or "auto" in cluster.toml, or the CUDA image on that host',
    ),
    _entry(
        "port-in-use",
        r"EADDRINUSE|address already in use|failed to listen on any local network address(?:\. port: (?P<port>\d+))?",
        "the rendezvous port is taken",
        "another run may still be alive: end it, or take another port in cluster.toml",
    ),
    _entry(
        "interface-unknown",
        r"Unable to find address for: (?P<interface>[\w.:@-]{1,32})",
        "the network interface {interface} does not exist or has no address",
        "read the facts again and plan anew, or mend [network] interface",
    ),
    _entry(
        "master-unresolved",
        r"gai error: -?\d+ - Name or service not known|Temporary failure in name resolution",
        "the master's name does not resolve on this host",
        "give master_address as an IP address in cluster.toml",
    ),
    _entry(
        "loopback-address",
        r"remote=\[127\.0\.\d+\.\d+\]|Unable to resolve hostname to a \(local\) address",
        "a rank announced a loopback address because the host name resolves to 127.x",
        "name the interface of that host: [network] interface in cluster.toml",
    ),
    _entry(
        "master-unreachable",
        r"client socket has timed out after \d+ms while trying to connect to \((?P<address>[^)\n]{1,80})\)",
        "the master's rendezvous at {address} cannot be reached from this host",
        "open the port in the master's firewall, or mend master_address",
    ),
    _entry(
        "rank-missing",
        r"wait timeout after \d+ms, keys: \S*?/(?P<rank>\d+)\s*(?:$|[^\d/])",
        "rank {rank} never came to the rendezvous",
        "look at rank {rank} first",
        is_consequence=True,
    ),
    _entry(
        "clients-missing",
        r"(?P<joined>\d+)/(?P<wanted>\d+) clients joined",
        "only {joined} of {wanted} ranks came to the rendezvous",
        "look for the rank that is missing",
        is_consequence=True,
    ),
    _entry(
        "full-mesh",
        r"connectFullMesh failed",
        "the ranks cannot all reach each other: a rank listens on a port that a firewall closes",
        "open the ephemeral ports between the hosts; the pair check names the direction",
    ),
    _entry(
        "network-unreachable",
        r"network is unreachable",
        "a rank announced an address the others have no route to (often a bridge network's)",
        'network mode "host", or mend train_address',
    ),
    _entry(
        "model-differs",
        r"params\[\d+\] in this process with sizes .{1,80} appears not to match",
        "the ranks have different models",
        "make sure that code and arguments are the same on all hosts",
    ),
    _entry(
        "collectives-differ",
        r"Detected mismatch between collectives",
        "the ranks call different collectives",
        "code or step counts differ between the ranks",
    ),
    _entry(
        "dataset-missing",
        r"FileNotFoundError: .{0,40}No such file or directory: '?(?P<path>[^'\n]{1,256})",
        "the file {path} is not there",
        "put the data on this host, or mend data_dir",
    ),
    _entry(
        "open-files",
        r"Too many open files",
        "the limit of open files is too low",
        "raise the nofile limit, or use fewer data loader workers",
    ),
    _entry(
        "gpu-lost",
        r"GPU is lost|fallen off the bus|uncorrectable ECC error|CUDA error: (?:unspecified launch failure|"
        r"hardware stack error|no CUDA-capable device|CUDA-capable device\(s\) is/are busy or unavailable)",
        "the GPU stopped answering (driver, heat, power, or the card)",
        "look for Xid in dmesg on that host; a reboot brings the card back if anything does",
    ),
    _entry(
        "coordinator-lost",
        r"CoordinatorLost: ",
        "the host of rank 0 is gone, or cannot be reached from here",
        "look at the host of rank 0 first",
        is_consequence=True,
    ),
    _entry(
        "peer-gone",
        r"Connection (?:reset|closed) by peer|Broken pipe|Socket Timeout|recv operation timed out"
        r"|Timed out waiting \d+ms for (?:recv|send) operation|Connection was likely closed"
        r"|NCCL[^\n]{0,80}remote process exited",
        "another rank went away or stopped answering",
        "look at the other ranks: the first that failed is the cause",
        is_consequence=True,
    ),
    _entry(
        "peer-refused",
        r"Connection refused",
        "another rank does not listen (any more)",
        "look at the other ranks first; if all live, a firewall refuses",
        is_consequence=True,
    ),
)

_ABORTED: Final = _entry(
    "run-aborted",
    r"RunAborted: (?P<reason>[^\n]{1,200})",
    "the run was ended for all ranks: {reason}",
    "look at the rank that is named: it failed first",
    is_consequence=True,
)
"""Ends the search: the error it quotes is another rank's."""

ENTRIES: Final = (_ABORTED, *_ENGINE, *_RANK)
ENTRY_NAMES: Final = tuple(entry.name for entry in ENTRIES)


def decode(text: str) -> Decoded | None:
    """Return what the first known error in ``text`` means; a cause wins over a consequence, wherever it stands.

    What a rank says that was ended because of another one is a consequence, whatever it quotes.
    """
    consequence: Decoded | None = None
    for entry in ENTRIES:
        match = entry.pattern.search(text)
        if match is None:
            continue
        decoded = _filled(entry, match)
        if entry is _ABORTED or not entry.is_consequence:
            return decoded
        consequence = consequence or decoded
    return consequence


def decode_engine(text: str) -> Decoded | None:
    """Return what an engine's refusal means. What ranks say of one another in the same words is left out of it."""
    for entry in _ENGINE:
        if match := entry.pattern.search(text):
            return _filled(entry, match)
    return None


def _filled(entry: _Entry, match: re.Match[str]) -> Decoded:
    """Put the named groups into the texts; a trailing 2 or 3 marks the same name in another branch of the pattern."""
    values = {name.rstrip("23"): value for name, value in match.groupdict().items() if value}
    return Decoded(entry.name, entry.cause.format_map(values), entry.next_step.format_map(values), entry.is_consequence)


_SIGNALS: Final = {
    129: "SIGHUP", 130: "SIGINT", 132: "SIGILL", 134: "SIGABRT", 135: "SIGBUS", 136: "SIGFPE", 137: "SIGKILL",
    139: "SIGSEGV", 143: "SIGTERM",
}  # fmt: skip


def decode_exit(code: int, *, out_of_memory: bool = False) -> Decoded | None:
    """Return what an exit code of a container or process means, or ``None`` for 0 and codes without a meaning.

    128 + n stands for signal n; 125 to 127 are the conventions of ``docker run`` and the POSIX shell.
    """
    if out_of_memory:
        return Decoded(
            "exit-memory",
            f"exited {code}: killed because memory ran out",
            "give the host more memory (Docker Desktop and WSL have a limit of their own) or a smaller global batch",
        )
    match code:
        case 125:
            return Decoded("exit-125", "exited 125: the engine could not run it", "read the engine's message")
        case 126:
            return Decoded("exit-126", "exited 126: the command is not executable", "check image or python")
        case 127:
            return Decoded(
                "exit-127", "exited 127: there is no such command", "use an image (or a python) that holds the trainer"
            )
        case 137:
            return Decoded(
                "exit-137",
                "exited 137: killed (SIGKILL), by hand or because memory ran out",
                "look for 'Out of memory' in dmesg on that host",
            )
        case 139:
            return Decoded(
                "exit-139",
                "exited 139: it crashed (SIGSEGV), often a driver and a torch build that do not match",
                "compare the driver with the image's CUDA; try the CPU image",
            )
        case 143:
            return Decoded("exit-143", "exited 143: it was told to stop (SIGTERM)", "see who stopped it")
        case _ if code in _SIGNALS:
            return Decoded(f"exit-{code}", f"exited {code}: ended by {_SIGNALS[code]}", "read its last lines")
    return None
