"""Nothing that names a person or a machine survives; the same name has the same placeholder everywhere."""

from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hetero_tui.doctor import know_facts, know_inventory
from hetero_tui.redact import Redaction
from remote.facts import Facts
from remote.inventory import Cluster, Host, Image, Inventory


def redaction() -> Redaction:
    found = Redaction()
    inventory = Inventory(
        cluster=Cluster(name="maier-home"),
        image=Image(ref="registry.maier.example:5000/team/trainer:1"),
        hosts=(
            Host(name="gaming-pc", address="pc.maier.example", user="anna", jump_host="bob@gate.maier.example:2222"),
            Host(name="laptop", address="192.168.1.42", user="anna", train_address="10.9.8.7"),
        ),
    )
    know_inventory(found, inventory)
    know_facts(
        found,
        {
            "laptop": Facts(
                host="laptop", hostname="anna-thinkpad.maier.example", user="amaier", home="/home/amaier",
                machine_id="0123456789abcdef0123456789abcdef",
            )
        },
    )  # fmt: skip
    return found


SAID = """\
gaming-pc: permission denied (anna@pc.maier.example) key SHA256:p5xKz0o4mJ7T0P2rXx2q9mC1m0yZ6QJ3h1q3S0Q2k9E
laptop 192.168.1.42 seen as 10.9.8.7; GAMING-PC and hetero-20251009-120000-ab12-laptop under /home/carla/.ssh
anna-thinkpad says eth0 inet6 fe80::1234:5678:9abc:def0/64 ether aa:bb:cc:0d:0e:0f
machine 0123456789abcdef0123456789abcdef
bob@gate.maier.example:2222 mail carla@maier.example image registry.maier.example:5000/team/trainer:1
GPU-1b2c3d4e-1111-2222-3333-444455556666 2001:db8::17 ::ffff:192.168.1.42 cluster maier-home C:\\Users\\Dora\\x
ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB0xabcdefghijklmnop
"""
SECRETS = (
    "gaming-pc", "laptop", "anna", "maier", "bob", "gate", "carla", "dora", "thinkpad", "192.168", "10.9.8", "fe80",
    "aa:bb", "0123456789abcdef", "1b2c3d4e", "2001:db8", "p5xKz0o4", "AAAAC3Nz",
)  # fmt: skip


def test_no_name_and_no_address_survives() -> None:
    text = redaction().apply(SAID).casefold()
    assert [secret for secret in SECRETS if secret.casefold() in text] == []


def test_the_same_name_has_the_same_placeholder() -> None:
    found = redaction()
    first, second = found.apply("gaming-pc at pc.maier.example"), found.apply("GAMING-PC again")
    assert first == "<host-1> at <host-1>"
    assert second == "<host-1> again"
    twice = found.apply("10.9.8.7 to 192.168.1.42, 10.9.8.7")
    assert len(set(re.findall(r"<address-\d+>", twice))) == 2


@pytest.mark.parametrize(
    "said",
    [
        "127.0.0.1 and 127.0.1.1 and ::1 and 0.0.0.0 and 255.255.255.0",
        "driver 550.54.14, torch 2.13.0, at 12:34:56, docker.io/library/python",
        "needs root; localhost; /home",
        "std::vector of rank::Event",
    ],
)
def test_what_names_nobody_stays(said: str) -> None:
    assert redaction().apply(said) == said


def test_a_part_of_a_longer_word_is_not_a_name() -> None:
    found = Redaction()
    found.know("host", ["ode"])
    assert found.apply("node ode NODE_ode") == "node <host-1> NODE_<host-1>"


LETTERS = "abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-"
NAMES = st.text(LETTERS, min_size=2, max_size=12).map(lambda middle: f"n{middle}z")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(NAMES, min_size=1, max_size=5), st.lists(st.sampled_from([" ", "/", "@", ":", "_", ".", "\n", "'"])))
def test_known_names_never_survive_whatever_stands_around_them(names: list[str], between: list[str]) -> None:
    found = Redaction()
    found.know("host", names)
    ends = [*between, " ", " ", " ", " ", " "]
    text = found.apply("".join(f"{name}{end}" for name, end in zip(names, ends, strict=False)))
    left = re.sub(r"<host-\d+>", "\0", text).casefold()
    for name in names:
        assert re.search(rf"(?<![^\W_]){re.escape(name.casefold())}(?![^\W_])", left) is None


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_no_address_survives(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    said = Redaction().apply(f"dial {address} now, or [{address}]:22")
    if address.is_loopback or address.is_unspecified or str(address).startswith("255."):
        return
    assert str(address) not in said
    assert len(set(re.findall(r"<address-\d+>", said))) == 1
