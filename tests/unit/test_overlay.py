"""The encrypted overlay: who has which place in it, who cannot take part, and what a run without one does not do."""

from __future__ import annotations

import ipaddress
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from hetero_tui.homecoming import Homecoming
from remote.checks.model import Finding, Fix, Verdict
from remote.checks.network_firewall import Firewall, open_ports
from remote.checks.overlay import overlay_finding, refused_finding, wireguard_finding
from remote.errors import OverlayError, PlanError
from remote.export import FORMATS, export_plan
from remote.facts import EngineSocket, Facts
from remote.hosts import Hosts
from remote.inventory import Cluster, Host, Inventory, Network
from remote.overlay import Overlay, choose_network, interface_name, is_encrypted, plan_overlay, why_not
from remote.overlay_host import Available, NoHandshake, Raised
from remote.overlay_run import overlaid
from remote.plan import make_plan
from remote.progress import LaunchProgress

RUN_ID = "20261123-034500-ab12"
FACTS = Facts(
    host="", system="Linux", distribution="debian 12", user="anna", sudo="nopass", home="/home/anna", mtu=1500
)
ALL = Available(tools=True, kernel=True, userspace=True, tun=True, ip=True)


def inventory(*names: str, encryption: str = "wireguard", **hosts: Any) -> Inventory:
    network = Network.model_validate({"encryption": encryption})
    return Inventory(
        cluster=Cluster(name="lab"), network=network, hosts=tuple(Host(name=name, **hosts) for name in names)
    )


def facts(**changes: Any) -> dict[str, Facts]:
    return {
        name: replace(
            FACTS,
            host=name,
            hostname=name,
            machine_id=name * 8,
            address=f"192.168.1.{number}",
            interface="eth0",
            addresses=(("eth0", f"192.168.1.{number}"),),
            networks=(("eth0", "192.168.1.0/24"),),
            **changes,
        )
        for number, name in enumerate(("a", "b", "c"), 1)
    }


def overlay(**changes: Any) -> Overlay:
    return plan_overlay(inventory("a", "b", "c"), facts(**changes), RUN_ID, "192.168.1.1")


def test_every_host_has_an_address_of_its_own_and_is_reached_where_it_was_before() -> None:
    planned = overlay(mtu=1400)
    network = ipaddress.IPv4Network(planned.network)
    assert len({each.address for each in planned.hosts}) == 3
    assert all(ipaddress.IPv4Address(each.address) in network for each in planned.hosts)
    assert [each.endpoint for each in planned.hosts] == ["192.168.1.1", "192.168.1.2", "192.168.1.3"]
    assert (planned.hub, planned.mtu, planned.port) == ("a", 1320, 29500)
    assert list(planned.pairs()) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert "b" in planned
    assert "d" not in planned
    with pytest.raises(KeyError):
        planned.host("d")


def test_the_interface_is_one_linux_takes_and_differs_between_runs() -> None:
    assert len(interface_name(RUN_ID)) <= 15
    assert interface_name(RUN_ID) != interface_name("20261123-034500-ab13")


def test_no_host_has_a_route_into_the_network_and_an_old_overlay_is_no_route() -> None:
    usual = choose_network("lab", facts().values())
    assert choose_network("lab", facts().values()) == usual
    taken = replace(FACTS, networks=(("wg0", str(usual.supernet(new_prefix=16))),))
    assert not choose_network("lab", [taken]).overlaps(usual.supernet(new_prefix=16))
    left = replace(FACTS, networks=((interface_name(RUN_ID), str(usual)),))
    assert choose_network("lab", [left]) == usual
    with pytest.raises(PlanError, match=r"cover all of 10\.0\.0\.0/8"):
        choose_network("lab", [replace(FACTS, networks=(("tun0", "10.0.0.0/8"),))])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"system": "Darwin"}, "on Linux only, not on Darwin"),
        ({"system": "Windows"}, "on Linux only, not on Windows"),
        ({"sudo": "password"}, "anna is neither root nor may use sudo without a password"),
        (
            {"engine_sockets": (EngineSocket("/run/user/1000/docker.sock", writable=True),)},
            "a rootless engine's containers are in a network of their own",
        ),
        (
            {"engine_sockets": (EngineSocket("/home/a/.docker/desktop/docker.sock", writable=True),)},
            "Docker Desktop's containers are in a network of their own",
        ),
    ],
)
def test_who_cannot_take_part_is_told_why_before_anything_is_done(changes: dict[str, Any], reason: str) -> None:
    some = facts()
    some["b"] = replace(some["b"], **changes)
    assert reason in why_not(Host(name="b"), some["b"])
    with pytest.raises(PlanError, match="cannot be set up") as caught:
        plan_overlay(inventory("a", "b", "c"), some, RUN_ID, "192.168.1.1")
    assert reason in caught.value.message
    assert caught.value.host == "b"
    finding = refused_finding(some["b"], why_not(Host(name="b"), some["b"]))
    assert finding.verdict is Verdict.FAIL
    assert finding.fix is not None


def test_one_machine_is_in_the_overlay_once() -> None:
    some = facts()
    some["b"] = replace(some["b"], hostname="a", machine_id=some["a"].machine_id)
    with pytest.raises(PlanError, match="a and b are one machine"):
        plan_overlay(inventory("a", "b", "c"), some, RUN_ID, "192.168.1.1")


def test_a_plan_with_an_overlay_is_not_written_for_another_launcher() -> None:
    plan = make_plan(inventory("a", "b", "c", runtime="process"), facts(), RUN_ID)
    assert plan.overlay is not None
    for launcher in FORMATS:
        with pytest.raises(PlanError, match="by this program alone"):
            export_plan(plan, launcher)


def _text(fix: Fix | None) -> str:
    assert fix is not None
    return "\n".join((fix.text, *fix.commands))


@pytest.mark.parametrize(
    ("changes", "verdict", "words", "way_out"),
    [
        ({}, Verdict.OK, "the kernel's WireGuard", ""),
        ({"kernel": False}, Verdict.OK, "wireguard-go", ""),
        ({"kernel": False, "tun": False}, Verdict.FAIL, "/dev/net/tun", "sudo modprobe tun"),
        ({"tools": False}, Verdict.FAIL, "missing: wg", "apt-get install -y wireguard-tools iproute2"),
        ({"kernel": False, "userspace": False}, Verdict.FAIL, "wireguard-go", "iproute2 wireguard-go"),
        ({"port_taken": True}, Verdict.FAIL, "UDP port 29500 is in use", "sudo ss -Hlunp 'sport = :29500'"),
    ],
)
def test_what_a_host_lacks_is_named_with_the_command_that_brings_it(
    changes: dict[str, bool], verdict: Verdict, words: str, way_out: str
) -> None:
    finding = wireguard_finding(replace(FACTS, host="a"), replace(ALL, **changes), 29500)
    assert (finding.verdict, words in finding.reason) == (verdict, True), finding
    assert (finding.fix is None) == (verdict is Verdict.OK)
    if way_out:
        assert way_out in _text(finding.fix)


def test_a_hostile_account_stays_one_word_in_the_fix() -> None:
    some = replace(FACTS, host="a", user="x'; rm -rf ~; '", sudo="password")
    fix = refused_finding(some, why_not(Host(name="a"), some)).fix
    assert fix is not None
    assert shlex.split(fix.commands[0])[1] == f"{some.user} ALL=(ALL) NOPASSWD: ALL"


def test_what_came_of_the_trial_is_told_with_the_way_on() -> None:
    planned = overlay()
    kinds = {"a": "kernel", "b": "kernel", "c": "userspace"}
    way_in = open_ports(FACTS, Firewall(("iptables",), (), seen=True), "29500", (), protocol="udp")
    outcomes: list[tuple[Finding, Verdict, str]] = [
        (overlay_finding(Raised(planned, kinds, frozenset()), None), Verdict.OK, "every host has met every other"),
        (overlay_finding(Raised(planned, kinds, frozenset({("b", "c")})), None), Verdict.WARN, "b and c meet over a"),
        (overlay_finding(NoHandshake("no handshake", host="a"), way_in), Verdict.FAIL, "no handshake"),
        (overlay_finding(OverlayError("wg set did not work", host="b"), None), Verdict.FAIL, "wg set did not work"),
        (overlay_finding(None, None), Verdict.UNKNOWN, "no overlay was tried"),
    ]
    for finding, verdict, words in outcomes:
        assert finding.verdict is verdict
        assert words in finding.reason
        assert (finding.fix is not None) == (verdict in (Verdict.WARN, Verdict.FAIL))
    assert "iptables -I INPUT -p udp -s 0.0.0.0/0 --dport 29500 -j ACCEPT" in _text(way_in)


@pytest.mark.parametrize(
    ("firewall", "command"),
    [
        (Firewall(("ufw",), (), seen=True), "sudo ufw allow proto udp from 0.0.0.0/0 to any port 29500"),
        (Firewall(("firewalld",), (), seen=True), 'port port="29500" protocol="udp" accept'),
        (
            Firewall((), ("inet filter input",), seen=True),
            "inet filter input ip saddr 0.0.0.0/0 udp dport 29500 accept",
        ),
        (Firewall((), (), tools=("nft",)), "udp dport 29500 accept"),
    ],
)
def test_firewalls_are_opened_for_udp(firewall: Firewall, command: str) -> None:
    fix = open_ports(FACTS, firewall, "29500", (), protocol="udp")
    assert command in "\n".join(fix.commands)
    assert "UDP 29500" in fix.text
    assert "tcp" not in _text(fix).lower()


async def test_a_run_without_encryption_asks_no_host_anything_for_it(tmp_path: Path) -> None:
    plain = inventory("a", "b", encryption="none", runtime="process")
    assert not is_encrypted(plain)
    assert not is_encrypted(inventory("a"))
    nobody = cast("Hosts", object())  # whatever is asked of it fails
    reported: list[LaunchProgress] = []
    async with overlaid(make_plan(plain, facts(), RUN_ID), nobody, reported.append) as before_start:
        assert before_start is None
    await Homecoming(plain, tmp_path).clear_overlays(nobody)
    assert reported == []
