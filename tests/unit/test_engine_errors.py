"""Raw error text to cause and next step: one real text for each entry of the table."""

from __future__ import annotations

import pytest

from remote.decode_errors import ENTRY_NAMES, decode, decode_exit
from remote.engine_errors import engine_error

SAMPLES = [
    (
        "engine-denied",
        "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock",
    ),
    ("engine-denied", "('Connection aborted.', PermissionError(13, 'Permission denied'))"),
    (
        "engine-down",
        "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
    ),
    ("gpu-runtime-missing", 'could not select device driver "" with capabilities: [[gpu]]'),
    ("gpu-runtime-missing", "unknown or invalid runtime name: nvidia"),
    (
        "gpu-driver",
        "nvidia-container-cli: initialization error: nvml error: driver/library version mismatch: unknown",
    ),
    ("gpu-driver", "Failed to initialize NVML: Driver/library version mismatch"),
    ("gpu-unknown", "nvidia-container-cli: device error: GPU-1234-abcd: unknown device: unknown"),
    ("rootless-gpu", "bpf_prog_query(BPF_CGROUP_DEVICE) failed: operation not permitted: unknown"),
    (
        "name-taken",
        (
            'Conflict. The container name "/hetero-worker-1" is already in use by container "1f2e". You have to remove '
            "(or rename) that container to be able to reuse that name."
        ),
    ),
    ("image-missing", "No such image: hetero-trainer:latest"),
    ("image-missing", "Unable to find image 'hetero-trainer:latest' locally"),
    ("wrong-architecture", "exec /usr/bin/python3: exec format error"),
    ("wrong-architecture", "[FATAL tini (7)] exec python3 failed: Exec format error"),
    (
        "wrong-architecture",
        "The requested image's platform (linux/arm64) does not match the detected host platform (linux/amd64/v3)",
    ),
    ("no-space", "write /var/lib/docker/tmp/x: no space left on device"),
    ("no-space", "OSError: [Errno 28] No space left on device"),
    ("mount-missing", 'invalid mount config for type "bind": bind source path does not exist: /data/cifar'),
    ("mount-denied", "Mounts denied: The path /data is not shared from the host and is not known to Docker."),
    (
        "command-not-found",
        'OCI runtime create failed: exec: "python3": executable file not found in $PATH: unknown',
    ),
    ("command-not-found", "[FATAL tini (7)] exec python3 failed: No such file or directory"),
    ("command-not-found", "/bin/sh: 1: /home/me/my venv/bin/python: not found"),
    ("command-not-found", "bash: line 1: python3: command not found"),
    ("limit-denied", "error setting rlimits for ready process: error setting rlimit type 8: operation not permitted"),
    ("credentials", "error getting credentials - err: exit status 1, out: `User interaction is not allowed.`"),
    ("torch-missing", "ModuleNotFoundError: No module named 'torch'"),
    ("trainer-missing", "/usr/bin/python3: No module named trainer"),
    ("trainer-missing", "ModuleNotFoundError: No module named 'trainer.__main__'"),
    ("module-missing", "ModuleNotFoundError: No module named 'transformers'"),
    (
        "cuda-memory",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity",
    ),
    ("main-memory", "RuntimeError: [enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    ("main-memory", "MemoryError"),
    (
        "shared-memory",
        (
            "RuntimeError: DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's "
            "workers are out of shared memory."
        ),
    ),
    ("cuda-architecture", "RuntimeError: CUDA error: no kernel image is available for execution on the device"),
    ("cuda-driver-old", "RuntimeError: The NVIDIA driver on your system is too old (found version 11040)."),
    ("cuda-unavailable", "RuntimeError: No CUDA GPUs are available"),
    ("cuda-unavailable", "AssertionError: Torch not compiled with CUDA enabled"),
    ("no-nccl", "RuntimeError: Distributed package doesn't have NCCL built in"),
    ("no-nccl", "ValueError: ProcessGroupNCCL is only supported with GPUs, no GPUs found!"),
    (
        "port-in-use",
        (
            "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. "
            "port: 29615, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use"
        ),
    ),
    (
        "interface-unknown",
        (
            "RuntimeError: [enforce fail at /pytorch/third_party/gloo/gloo/transport/tcp/device.cc:84] ifa != nullptr. "
            "Unable to find address for: nosuch0"
        ),
    ),
    (
        "master-unresolved",
        "The hostname of the client socket cannot be retrieved. gai error: -2 - Name or service not known",
    ),
    ("loopback-address", "SO_ERROR: Connection refused, remote=[127.0.1.1]:22956"),
    (
        "loopback-address",
        "[W] Unable to resolve hostname to a (local) address. Using the loopback address as fallback.",
    ),
    (
        "master-unreachable",
        "The client socket has timed out after 8000ms while trying to connect to (10.77.0.1, 29500).",
    ),
    ("rank-missing", "torch.distributed.DistStoreError: wait timeout after 8000ms, keys: /default_pg/0//cpu//0/2"),
    ("clients-missing", "Timed out after 9 seconds waiting for clients. 1/2 clients joined."),
    ("full-mesh", "RuntimeError: Gloo connectFullMesh failed with [/pytorch/gloo/pair.cc:144] Connect timeout"),
    ("network-unreachable", "connect: Network is unreachable"),
    (
        "model-differs",
        "params[0] in this process with sizes [3, 10] appears not to match sizes of the same param in process 0",
    ),
    ("collectives-differ", "RuntimeError: Detected mismatch between collectives on ranks. Rank 0 is running"),
    ("dataset-missing", "FileNotFoundError: [Errno 2] No such file or directory: '/hetero/data/train.bin'"),
    ("open-files", "OSError: [Errno 24] Too many open files"),
    ("peer-gone", "RuntimeError: [../pair.cc:534] Connection closed by peer [10.77.0.2]:1024"),
    ("peer-gone", "Timed out waiting 8000ms for recv operation to complete"),
    ("gpu-lost", "RuntimeError: CUDA error: unspecified launch failure"),
    ("gpu-lost", "Unable to determine the device handle: GPU is lost. Reboot the system"),
    ("run-aborted", "RunAborted: rank 1 was lost: CheckpointError: No space left on device"),
    ("coordinator-lost", "CoordinatorLost: lost the coordinator at 10.0.0.1:29501: no sign of life for 10 s"),
    ("peer-refused", "SO_ERROR: Connection refused, remote=[10.77.0.1]:22956"),
]


@pytest.mark.parametrize(("name", "text"), SAMPLES)
def test_every_text_is_understood(name: str, text: str) -> None:
    decoded = decode(f"some line before\n{text}\nand one behind")
    assert decoded is not None
    assert decoded.name == name
    assert decoded.cause
    assert decoded.next_step
    assert "{" not in decoded.cause + decoded.next_step


def test_every_entry_has_a_sample() -> None:
    assert {name for name, _ in SAMPLES} == set(ENTRY_NAMES)
    assert len(ENTRY_NAMES) == len(set(ENTRY_NAMES))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("wait timeout after 8000ms, keys: /default_pg/0//cpu//0/2", "rank 2 never came"),
        ("Timed out after 9 seconds waiting for clients. 1/2 clients joined.", "only 1 of 2 ranks"),
        ("client socket has timed out after 8000ms while trying to connect to (10.7.0.1, 29500)", "at 10.7.0.1, 29500"),
        ('Conflict. The container name "/hetero-a" is already in use', "container called hetero-a"),
        ("nvidia-container-cli: device error: GPU-12: unknown device", "GPU GPU-12 is not there"),
        ("Unable to find image 'a/b:1' locally", "image a/b:1 is not on the host"),
        ("Unable to find address for: wlp3s0", "interface wlp3s0 does"),
        ("No module named 'a.b'", "module a.b"),
    ],
)
def test_names_and_numbers_of_the_text_are_told(text: str, said: str) -> None:
    decoded = decode(text)
    assert decoded is not None
    assert said in decoded.cause


def test_a_cause_wins_over_a_consequence_wherever_it_stands() -> None:
    decoded = decode("RuntimeError: Connection reset by peer\ntorch.OutOfMemoryError: CUDA out of memory.")
    assert decoded is not None
    assert (decoded.name, decoded.is_consequence) == ("cuda-memory", False)
    decoded = decode("RuntimeError: Connection reset by peer")
    assert decoded is not None
    assert decoded.is_consequence


def test_what_ranks_say_of_one_another_is_not_read_into_an_engines_refusal() -> None:
    said = 'Get "https://registry-1.docker.io/v2/": dial tcp: lookup registry-1.docker.io: connection refused'
    error = engine_error("h1", "POST /images/create", said)
    assert error.message == f"`POST /images/create`: the engine said: {said}"
    assert "the disk is full" in str(engine_error("h1", "PUT", "write /var/lib: no space left on device"))


@pytest.mark.parametrize("text", ["", "Epoch 1 done", "loss 0.3", "404 samples of unknown class {x}"])
def test_ordinary_output_means_nothing(text: str) -> None:
    assert decode(text) is None


@pytest.mark.parametrize(
    ("code", "out_of_memory", "said"),
    [
        (137, True, "memory ran out"),
        (1, True, "memory ran out"),
        (137, False, "SIGKILL"),
        (139, False, "SIGSEGV"),
        (143, False, "told to stop"),
        (134, False, "SIGABRT"),
        (125, False, "engine could not run it"),
        (126, False, "not executable"),
        (127, False, "no such command"),
    ],
)
def test_exit_codes(code: int, out_of_memory: bool, said: str) -> None:
    decoded = decode_exit(code, out_of_memory=out_of_memory)
    assert decoded is not None
    assert said in decoded.cause
    assert f"exited {code}" in decoded.cause
    assert decoded.next_step


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_exit_codes_without_a_meaning(code: int) -> None:
    assert decode_exit(code) is None
