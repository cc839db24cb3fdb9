# ruff: noqa: E501, ISC004 - tables of mistakes read best one a line
"""``cluster.toml``: what is accepted, and that every mistake is told with its line and a way out."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from remote.errors import InventoryError
from remote.inventory import Host, Inventory, load_inventory, parse_inventory

GOOD = """\
[cluster]
name = "home"

[image]
ref = "hetero:1"

[training]
workload = "simple_cnn"

[[hosts]]
name = "tower"
address = "192.168.1.100"
"""


def _told(text: str) -> list[str]:
    """Return the lines of the error that ``text`` must give."""
    with pytest.raises(InventoryError) as caught:
        parse_inventory(text)
    return str(caught.value).splitlines()


def _mistake(addition: str, *, replace: tuple[str, str] = ("", "")) -> str:
    """Return the one mistake that a change of the good file makes."""
    old, new = replace
    assert old in GOOD
    text = (GOOD.replace(old, new) if old else GOOD) + addition
    (told,) = _told(text)
    return told


def test_a_small_file_is_complete() -> None:
    inventory = parse_inventory(GOOD)
    assert inventory.master.name == "tower"
    assert inventory.cluster.port == 29500
    assert inventory.training.chosen_dataset == "synthetic_images"
    assert inventory.needs_docker
    assert inventory.image_for(inventory.hosts[0], "cuda") == "hetero:1"
    assert inventory.hosts[0].ssh_address == "192.168.1.100"
    assert not inventory.hosts[0].is_local


def test_every_key_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(
        """\
[cluster]
name = "all"
master = "b"
master_address = "192.168.1.2"
port = 29600
backend = "gloo"
[image]
ref = "r:1"
variants = { cpu = "c:1" }
method = "send"
[training]
script = "train.py"
args = ["--a", "1"]
global_batch = 64
epochs = 2
learning_rate = 1
seed = 7
policy = "hybrid"
communication = "powersgd"
elastic = false
data_dir = "/data"
checkpoint_dir = "~/checkpoints"
resume = true
checkpoint_every = 5
env = { A = "1" }
[network]
interface = "eth0"
port_range = "29900-29950"
[[hosts]]
name = "a"
address = "a.lan"
user = "ml"
port = 2222
identity_file = "keys/id"
jump_host = "me@gate.lan:22,10.0.0.1"
host_key = "SHA256:abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ"
train_address = "10.0.0.2"
interface = "eth1"
devices = [0, "GPU-1"]
image = "own:1"
docker_socket = "/run/user/1000/docker.sock"
env = { B = "2" }
simulated_samples_per_second = 10
[[hosts]]
name = "b"
address = "local"
runtime = "process"
devices = "cpu"
python = "~/venv/bin/python"
"""
    )
    inventory = load_inventory(path)
    a, b = inventory.hosts
    assert inventory.master is b
    assert b.is_local
    assert inventory.training.learning_rate == 1.0
    assert a.devices == (0, "GPU-1")
    assert a.identity_file == str(tmp_path / "keys" / "id")
    assert b.identity_file == ""
    assert inventory.image_for(a, "cpu") == "own:1"
    assert inventory.image_for(b, "cpu") == "c:1"
    assert inventory.image_for(b, "cuda") == "r:1"


def test_home_of_identity_file_is_expanded() -> None:
    inventory = parse_inventory(GOOD + 'identity_file = "~/.ssh/id_ed25519"\n')
    assert inventory.hosts[0].identity_file == str(Path.home() / ".ssh" / "id_ed25519")


def test_address_is_the_name_when_left_out() -> None:
    assert Host(name="tower").ssh_address == "tower"


def test_a_missing_image_is_an_error_at_lookup() -> None:
    inventory = parse_inventory(GOOD.replace('ref = "hetero:1"', 'variants = { cpu = "c" }'))
    with pytest.raises(InventoryError, match=r"tower: no image for cuda ranks"):
        inventory.image_for(inventory.hosts[0], "cuda")


@pytest.mark.parametrize(
    ("addition", "replace", "message"),
    [
        ('runtme = "docker"\n', ("", ""), "cluster.toml:13: hosts[0].runtme: unknown key; did you mean runtime?"),
        ('gpus = "all"\n', ("", ""), "cluster.toml:13: hosts[0].gpus: unknown key; did you mean devices?"),
        (
            "rank = 1\n",
            ("", ""),
            "cluster.toml:13: hosts[0].rank: unknown key; ranks and world size are computed, leave it out",
        ),
        ("epochs = 3\n", ("", ""), "cluster.toml:13: hosts[0].epochs: unknown key here; it belongs in [training]"),
        ("", ("[image]", "[imagee]\n[image]"), "cluster.toml:4: imagee: unknown key; did you mean image?"),
        (
            'runtime = "proces"\n',
            ("", ""),
            'cluster.toml:13: hosts[0].runtime: unknown value "proces"; did you mean process? (valid: docker, process)',
        ),
        (
            "",
            ('"simple_cnn"', '"resnet-50"'),
            'cluster.toml:8: training.workload: unknown value "resnet-50"; did you mean resnet50? '
            "(valid: simple_cnn, resnet18, resnet50, gpt_small, bert_small)",
        ),
        ('port = "22"\n', ("", ""), 'cluster.toml:13: hosts[0].port: expected a whole number, found "22"'),
        ("port = 0\n", ("", ""), "cluster.toml:13: hosts[0].port: 0 is out of range; it must be at least 1"),
        ("user = 5\n", ("", ""), 'cluster.toml:13: hosts[0].user: expected text in quotes: "5"'),
        (
            "user = 1979-05-27\n",
            ("", ""),
            "cluster.toml:13: hosts[0].user: expected text in quotes, found a date or time",
        ),
        ("env = { A = 1 }\n", ("", ""), 'cluster.toml:13: hosts[0].env.A: expected text in quotes: "1"'),
        (
            "",
            ('workload = "simple_cnn"', 'workload = "simple_cnn"\nlearning_rate = nan'),
            "cluster.toml:9: training.learning_rate: nan is not a usable number",
        ),
        (
            "",
            ('workload = "simple_cnn"', 'workload = "simple_cnn"\nelastic = 1'),
            "cluster.toml:9: training.elastic: expected true or false, found 1",
        ),
        (
            "",
            ('ref = "hetero:1"', 'ref = "hetero:1"\nvariants.gpu = "x"'),
            "cluster.toml:6: image.variants.gpu: unknown key; did you mean cuda?",
        ),
        (
            "",
            ('name = "tower"', 'name = "my tower"'),
            'cluster.toml:11: hosts[0].name: "my tower" cannot be a name; use letters, digits, ".", "_" and "-", '
            "beginning with a letter or digit, at most 63",
        ),
        ("", ('name = "tower"\n', ""), "cluster.toml:10: hosts[0].name: is missing"),
        (
            "",
            ('[cluster]\nname = "home"\n', ""),
            'cluster.toml:1: cluster: the file needs [cluster] with name = "…"',
        ),
        (
            'devices = "gpu"\n',
            ("", ""),
            'cluster.toml:13: hosts[0].devices: "gpu": write "auto", "cpu", "mps" or a list of GPU indices or UUIDs '
            "such as [0, 1]",
        ),
        (
            "devices = [true]\n",
            ("", ""),
            'cluster.toml:13: hosts[0].devices: a list: write "auto", "cpu", "mps" or a list of GPU indices or UUIDs '
            "such as [0, 1]",
        ),
        (
            "port = 0x1ffffffffffffffffffff\n",
            ("", ""),
            "cluster.toml:13: hosts[0].port: the number is out of range",
        ),
        (
            "",
            ('workload = "simple_cnn"', 'workload = "simple_cnn"\nepochs = 0x1ffffffffffffffffffff'),
            "cluster.toml:9: training.epochs: the number is out of range",
        ),
        ('user = "a\\u001b[2J"\n', ("", ""), "cluster.toml:13: hosts[0].user: holds control characters"),
    ],
)
def test_a_wrong_key_or_value_is_told(addition: str, replace: tuple[str, str], message: str) -> None:
    assert _mistake(addition, replace=replace) == message


@pytest.mark.parametrize(
    ("addition", "replace", "where", "says"),
    [
        ('[[hosts]]\nname = "Tower"\naddress = "b"\n', ("", ""), "14: hosts[1].name", "is also the name of hosts[0]"),
        ('[[hosts]]\nname = "b"\naddress = "192.168.1.100"\n', ("", ""), "15: hosts[1].address", "same address, user and port"),
        ("", ('name = "home"', 'name = "home"\nmaster = "twoer"'), "3: cluster.master", 'did you mean "tower"?'),
        ('[[hosts]]\nname = "GPU-Box"\n', ('name = "home"', 'name = "home"\nmaster = "gpu_box"'), "3: cluster.master", 'did you mean "GPU-Box"?'),
        ("", ('name = "home"', 'name = "home"\nmaster_address = "tower.lan"'), "3: cluster.master_address", "not an IP address"),
        ('train_address = "x"\n', ("", ""), "13: hosts[0].train_address", "not an IP address"),
        ('jump_host = "a b"\n', ("", ""), "13: hosts[0].jump_host", "user@host:port"),
        ('jump_host = "gate:99999"\n', ("", ""), "13: hosts[0].jump_host", "user@host:port"),
        ('jump_host = "-oProxyCommand=x"\n', ("", ""), "13: hosts[0].jump_host", "user@host:port"),
        ('host_key = "aa:bb"\n', ("", ""), "13: hosts[0].host_key", "ssh-keygen -lf"),
        ('identity_file = "~/.ssh/id.pub"\n', ("", ""), "13: hosts[0].identity_file", "private key without .pub"),
        ("", ('"192.168.1.100"', '"ml@tower"'), "12: hosts[0].address", "into user"),
        ("", ('"192.168.1.100"', '"tower:22"'), "12: hosts[0].address", "into port"),
        ("", ('"192.168.1.100"', '"-oX=y"'), "12: hosts[0].address", "neither a host name nor an IP"),
        ('user = "-x"\n', ("", ""), "13: hosts[0].user", "cannot be a user name"),
        ('user = "ml"\n', ('"192.168.1.100"', '"local"'), "13: hosts[0].user", "uses no SSH"),
        ("", ('workload = "simple_cnn"', ""), "7: training", "give a built-in model"),
        ("", ('workload = "simple_cnn"', 'workload = "simple_cnn"\nscript = "t.py"'), "9: training.script", "not both"),
        ("", ('workload = "simple_cnn"', 'script = "~/t.py"'), "8: training.script", "inside the image"),
        ("", ('workload = "simple_cnn"', 'script = "-c"'), "8: training.script", "write ./-c"),
        ("", ('workload = "simple_cnn"', 'script = "t.py"\nsamples = 5'), "9: training.samples", "your script"),
        ("", ('workload = "simple_cnn"', 'workload = "gpt_small"\ndataset = "cifar10"'), "9: training.dataset", "use synthetic_text or text"),
        ("", ('workload = "simple_cnn"', 'workload = "simple_cnn"\ndataset = "cifar10"'), "9: training.dataset", "needs data_dir"),
        (
            "",
            ('workload = "simple_cnn"', 'workload = "simple_cnn"\ndataset = "cifar10"\ndata_dir = "/d"\nsamples = 1'),
            "11: training.samples",
            "size of its own",
        ),
        ("", ('workload = "simple_cnn"', 'workload = "simple_cnn"\nargs = ["x"]'), "9: training.args", "your own script"),
        ("", ('workload = "simple_cnn"', 'workload = "simple_cnn"\ndata_dir = "d"'), "9: training.data_dir", "relative"),
        ("", ('workload = "simple_cnn"', 'workload = "simple_cnn"\nresume = true'), "9: training.resume", "checkpoint_dir"),
        ("[network]\nport_range = \"29900\"\n", ("", ""), "14: network.port_range", '"29900-29950"'),
        ("[network]\nport_range = \"30000-29000\"\n", ("", ""), "14: network.port_range", '"29000-30000"'),
        ("[network]\nport_range = \"80-90000\"\n", ("", ""), "14: network.port_range", "1024 to 65535"),
        ("[network]\ninterface = \"^lo,docker\"\n", ("", ""), "14: network.interface", "no list and no ^"),
        ("devices = []\n", ("", ""), "13: hosts[0].devices", "empty"),
        ("devices = [0, 1, 0]\n", ("", ""), "13: hosts[0].devices", "0 is listed twice"),
        ("devices = [-1]\n", ("", ""), "13: hosts[0].devices", "first GPU is 0"),
        ('devices = ["0"]\n', ("", ""), "13: hosts[0].devices", "without quotes: 0"),
        ('devices = "mps"\n', ("", ""), "13: hosts[0].devices", 'runtime = "process"'),
        ('devices = "cpu"\n', ('name = "home"', 'name = "home"\nbackend = "nccl"'), "14: hosts[0].devices", "cannot use NCCL"),
        ("", ('ref = "hetero:1"', ""), "10: hosts[0]", "has no image"),
        ('devices = "cpu"\n', ('ref = "hetero:1"', 'variants = { cuda = "x" }'), "10: hosts[0]", "has no image"),
        ('image = "-v x"\n', ("", ""), "13: hosts[0].image", "cannot be an image name"),
        ('runtime = "process"\npython = ""\n', ("", ""), "14: hosts[0].python", "not a command"),
        ('python = "venv/bin/python"\n', ("", ""), "13: hosts[0].python", "relative"),
        ('env = { "A B" = "1" }\n', ("", ""), '13: hosts[0].env."A B"', "environment variable"),
        ('env = { WORLD_SIZE = "4" }\n', ("", ""), "13: hosts[0].env.WORLD_SIZE", "computed by the launch plan"),
        ('env = { HETERO_NEW = "4" }\n', ("", ""), "13: hosts[0].env.HETERO_NEW", "computed by the launch plan"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_told(addition: str, replace: tuple[str, str], where: str, says: str) -> None:
    told = _mistake(addition, replace=replace)
    assert told.startswith(f"cluster.toml:{where}: ")
    assert says in told


def test_every_mistake_is_told_at_once_in_the_order_of_the_file() -> None:
    told = _told(
        """\
[cluster]
name = "a b"
masterr = "x"
master = "hosst"
[training]
workload = "simplecnn"
[[hosts]]
name = "host"
runtme = "docker"
port = "22"
[[hosts]]
name = "gpu"
address = "192.168.1.1:22"
devices = "gpu"
"""
    )
    assert [line.split(": ")[1] for line in told] == [
        "cluster.name",
        "cluster.masterr",
        "cluster.master",
        "training.workload",
        "hosts[0]",
        "hosts[0].runtme",
        "hosts[0].port",
        "hosts[1].devices",
    ]


def test_a_wrong_runtime_brings_no_second_mistake_about_images() -> None:
    assert "unknown value" in _mistake('runtime = "proces"\n', replace=('ref = "hetero:1"', ""))


SECRETS = [
    ('password = "hunter2"\n', "hosts[0].password"),
    ('sudo_password = "hunter2"\n', "hosts[0].sudo_password"),
    ('env = { HF_TOKEN = "hunter2" }\n', "hosts[0].env.HF_TOKEN"),
    ('env = { WANDB_API_KEY = "hunter2" }\n', "hosts[0].env.WANDB_API_KEY"),
    ('env = { wandbApiKey = "hunter2" }\n', "hosts[0].env.wandbApiKey"),
    ('env = { AWS_ACCESS_KEY_ID = "hunter2" }\n', "hosts[0].env.AWS_ACCESS_KEY_ID"),
    ('env = { CLIENT_SECRET = "hunter2" }\n', "hosts[0].env.CLIENT_SECRET"),
    ("password = 5\n", "hosts[0].password"),
    ('[training.env]\nHF_TOKEN = "hunter2"\n', "training.env.HF_TOKEN"),
]


@pytest.mark.parametrize(("addition", "where"), SECRETS)
def test_a_secret_is_refused_without_showing_it(addition: str, where: str) -> None:
    text = GOOD.replace('[training]\nworkload = "simple_cnn"\n', "") if "[training" in addition else GOOD
    told = _told(text + addition)
    (about,) = [line for line in told if f" {where}: " in line]
    assert "ssh-add" in about
    assert "docker login" in about
    assert not any("hunter2" in line for line in told)


@pytest.mark.parametrize(
    "value",
    [
        "ghp_" + "a1" * 18,
        "hf_" + "aB" * 17,
        "AKIAIOSFODNN7EXAMPLE",
        "dckr_pat_" + "x" * 27,
        "https://me:hunter2secret@registry.lan/x",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
    ],
)
@pytest.mark.parametrize(
    "line", ['user = "{}"', "# {}", 'unknown_key = "{}"', 'env = {{ A = "{}" }}', 'devices = "{}"']
)
def test_a_secret_is_known_by_its_form_anywhere(value: str, line: str) -> None:
    told = _told(GOOD + line.format(value) + "\n")
    assert any(text.startswith("cluster.toml:13: this line looks like a secret") for text in told)
    secret = value.removeprefix("https://").removesuffix("@registry.lan/x")
    assert not any(secret in text for text in told)


def test_a_secret_among_the_arguments_is_refused() -> None:
    told = _mistake("", replace=('workload = "simple_cnn"', 'script = "t.py"\nargs = ["--api-key=hunter2"]'))
    assert told.startswith("cluster.toml:9: training.args[0]: looks like a secret")
    assert "hunter2" not in told


@pytest.mark.parametrize("name", ["TOKENIZERS_PARALLELISM", "AWS_REGION", "NCCL_DEBUG", "KEYBOARD", "MONKEY", "PASSES"])
def test_harmless_variables_are_accepted(name: str) -> None:
    assert parse_inventory(f'{GOOD}env = {{ {name} = "1" }}\n').hosts[0].env == {name: "1"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cluster.toml:1: the file is empty"),
        (" \n\t\n", "cluster.toml:1: the file is empty"),
        ("[cluster]\nname = \n", "cluster.toml:2: not valid TOML: Invalid value"),
        ('[cluster]\nname = "a"\nname = "b"\n', "cluster.toml:3: not valid TOML: Cannot overwrite a value"),
        ("a = " + "[" * 5000, "cluster.toml: nested too deeply"),
        ("a" + ".a" * 500 + " = 1", "cluster.toml:1: nested too deeply"),
        ("a = " + "9" * 5000, "cluster.toml: a number has too many digits"),
        ('a = "\ud800"', "cluster.toml:1: not UTF-8"),
    ],
)
def test_what_is_not_toml_is_told_with_its_line(text: str, says: str) -> None:
    assert _told(text)[0].startswith(says)


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("name = tower", "text must stand in quotes"),
        ("address = 192.168.1.1", ""),
        ("identity_file = ~/.ssh/id", "text must stand in quotes"),
        ("elastic = True", "write true or false in small letters"),
        ("name = ", ""),
    ],
)
def test_the_commonest_slips_get_a_hint(line: str, hint: str) -> None:
    told = _told(f"[cluster]\n{line}\n")
    assert told[0].startswith("cluster.toml:2: not valid TOML: ")
    assert told[1:] == ([f"  → {hint}"] if hint else [])


def test_brackets_that_are_single_or_double_by_mistake() -> None:
    assert _mistake("", replace=("[[hosts]]", "[hosts]")).endswith("write [[hosts]] with double brackets")
    assert _mistake("", replace=("[image]", "[[image]]")).endswith("write [image] with single brackets")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match="no such file"):
        load_inventory(tmp_path / "cluster.toml")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match="this is a folder"):
        load_inventory(tmp_path)


def test_a_path_through_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InventoryError, match="cannot be read: Not a directory"):
        load_inventory(tmp_path / "file" / "cluster.toml")


def test_a_path_that_cannot_be_one() -> None:
    with pytest.raises(InventoryError, match="cannot be read"):
        load_inventory(Path("a\0b"))


def test_a_file_nobody_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may read everything, so the refusal of the operating system is replayed.
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InventoryError, match="you may not read this file"):
        load_inventory(tmp_path / "cluster.toml")


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_bytes(b'[cluster]\nname = "\xff"\n')
    with pytest.raises(InventoryError, match=r"cluster\.toml:2: not UTF-8"):
        load_inventory(path)


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_inventory(path).cluster.name == "home"


def test_a_huge_file(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_bytes(b"#" * (5 << 20))
    with pytest.raises(InventoryError, match="larger than 1 MiB"):
        load_inventory(path)


@pytest.mark.parametrize(
    "line",
    [
        'k{0} = "AKIAIOSFODNN7EXAMPLE"',
        "password{0}_token = 1",
        "[[hosts]]\nname = 1\nrank{0} = 2",
        'a.b{0} = ["-----BEGIN ", "x"]',
        "# https://a:b{0}",
        "x{0} = [[[[[1]]]]]",
    ],
)
def test_a_large_file_full_of_mistakes_is_told_in_good_time(line: str) -> None:
    text = "\n".join(line.format(number) for number in range(4_000))
    started = time.process_time()
    with pytest.raises(InventoryError):
        parse_inventory(text)
    # Work that grows with the square of the file would take far longer.
    assert time.process_time() - started < 15


def test_an_inventory_made_in_code_names_an_unknown_master() -> None:
    inventory = parse_inventory(GOOD)
    broken = inventory.model_copy(update={"cluster": inventory.cluster.model_copy(update={"master": "x"})})
    with pytest.raises(InventoryError, match="no host named 'x'"):
        _ = broken.master


def _only_inventory_errors(text: str) -> None:
    try:
        inventory = parse_inventory(text)
    except InventoryError:
        return
    assert isinstance(inventory, Inventory)


@settings(deadline=None)
@given(st.text())
def test_any_text_gives_an_inventory_or_an_inventory_error(text: str) -> None:
    _only_inventory_errors(text)


@settings(deadline=None)
@given(st.binary())
@example(b"\xef\xbb\xbf")
def test_any_bytes_give_an_inventory_or_an_inventory_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.toml"
    path.write_bytes(content)
    try:
        inventory = load_inventory(path)
    except InventoryError:
        return
    assert isinstance(inventory, Inventory)


KEYS = st.sampled_from(
    [*Host.model_fields, "cluster", "image", "training", "network", "hosts", "ref", "variants", "workload", "script", "args",
     "dataset", "master", "master_address", "backend", "port_range", "policy", "samples", "x", "", "a b", "cpu"]
)  # fmt: skip
SCALARS = st.sampled_from(
    ['"local"', '"cpu"', '"mps"', '"docker"', '"process"', '"a"', '""', '"~"', '"~nobody/x"', '"[::1]"', '"::1"', '"a\\u0000b"',
     '"\\u001b"', "0", "-1", "1", "29500", "0xffffffffffffffffffffffff", "true", "1.5", "nan", "inf", "1979-05-27", "07:32:00",
     '"nccl"', '"gloo"', '"simple_cnn"', '"text"', '"99999999-1"', '"1.2.3.4"']
)  # fmt: skip
TOML_VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(KEYS, inner, max_size=3).map(
            lambda items: "{" + ", ".join(f'"{key}" = {value}' for key, value in items.items()) + "}"
        ),
    ),
    max_leaves=6,
)
TABLES = st.tuples(
    st.sampled_from(
        ["[cluster]", "[image]", "[training]", "[network]", "[[hosts]]", "[[hosts]]", "[hosts]", "[[cluster]]"]
    ),
    st.dictionaries(KEYS, TOML_VALUES, max_size=5),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(TABLES, max_size=5))
def test_any_toml_with_our_keys_gives_an_inventory_or_an_inventory_error(
    tables: list[tuple[str, dict[str, str]]],
) -> None:
    lines: list[str] = []
    for header, pairs in tables:
        lines += [header, *(f'"{key}" = {value}' for key, value in pairs.items())]
    _only_inventory_errors("\n".join(lines))
