"""What two probes said becomes a matrix, and the matrix becomes findings that name the host to mend."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies

from remote.checks.addresses import ephemeral_finding, interface_finding, lookup_finding
from remote.checks.model import Finding, Verdict
from remote.checks.network import (
    data_ports_finding,
    master_link_finding,
    master_port_finding,
    packets_finding,
    probe_finding,
    seen_as_finding,
    speed_finding,
)
from remote.checks.network_firewall import Firewall, read_firewall
from remote.checks.network_paths import Target, gloo_dials
from remote.checks.network_probe import (
    Answer,
    Job,
    Place,
    build_report,
    choose_ports,
    configuration,
    port_range,
    read_answer,
)
from remote.checks.network_report import (
    HostReport,
    LinkError,
    NetworkReport,
    PairLink,
    PairMatrix,
    PortBind,
    ProbeTimings,
)
from remote.facts import Facts
from remote.inventory import Cluster, Host, Inventory, Network

INVENTORY = Inventory(cluster=Cluster(name="c"), hosts=(Host(name="a"), Host(name="b"), Host(name="c")))
FACTS = Facts(
    host="a",
    system="Linux",
    interface="eth0",
    address="10.0.0.1",
    addresses=(("lo", "127.0.0.1"), ("eth0", "10.0.0.1")),
    firewalls=("ufw",),
)
LINK = PairLink("b", "a", "10.0.0.1", 40001, round_trip=0.001, sent_bytes_per_second=1e8, seen_as="10.0.0.2")
PLACES = tuple(Place(name, "host", f"10.0.0.{number}") for number, name in enumerate("abc", 1))


def payload(host: str, **changes: Any) -> dict[str, Any]:
    said = {
        "hetero_probe": 1,
        "token": "t",
        "started": 100.0,
        "ended": 108.0,
        "binds": [{"port": 40000 + "abc".index(host), "error": "", "in_use": False}],
        "links": [],
    }
    return said | changes


def dialled(target: str, port: int, **outcome: Any) -> dict[str, Any]:
    return {"to": target, "kind": "data", "attempts": {str(port): outcome}}


def report(*links: PairLink, missing: dict[str, str] | None = None) -> NetworkReport:
    hosts = {name: HostReport(name, "container", data_ports=(40000,)) for name in "abc" if name not in (missing or {})}
    matrix = PairMatrix(("a", "b", "c"), {(link.source, link.target): link for link in links})
    return NetworkReport(hosts, missing or {}, matrix, {})


def test_ports_never_repeat_and_stay_in_range() -> None:
    inventory = INVENTORY.model_copy(update={"network": Network(port_range="29900-29910")})
    ports = choose_ports(inventory, dict.fromkeys("abc", FACTS))
    every = [port for each in ports.values() for port in each]
    assert len(every) == len(set(every)) == 9
    assert all(29900 <= port <= 29910 for port in every)


def test_a_range_with_room_for_one_each_is_shared_out() -> None:
    inventory = INVENTORY.model_copy(update={"network": Network(port_range="29900-29902")})
    assert all(len(ports) == 1 for ports in choose_ports(inventory, dict.fromkeys("abc", FACTS)).values())


def test_the_master_s_two_ports_are_never_data_ports() -> None:
    inventory = INVENTORY.model_copy(update={"network": Network(port_range="29500-29502")})
    assert set(choose_ports(inventory, {"a": FACTS})["a"]) == {29502}


def test_ephemeral_ports_come_from_the_hosts_own_range() -> None:
    facts = replace(FACTS, ephemeral_ports=(50000, 50099))
    assert all(50000 <= port <= 50099 for port in choose_ports(INVENTORY, {"a": facts})["a"])


@pytest.mark.parametrize(("text", "parsed"), [("29900-29950", (29900, 29950)), ("", None), ("x-y", None)])
def test_port_ranges(text: str, parsed: tuple[int, int] | None) -> None:
    assert port_range(text) == parsed


def test_configurations_agree_with_each_other() -> None:
    ports = {"a": (1,), "b": (2,), "c": (3,)}
    job = Job(ports, "t", 1000.0, ProbeTimings(), PLACES[0], 29500)
    configs = {place.host: configuration(job, place, PLACES, 5.0) for place in PLACES}
    assert configs["a"]["until"] == 1005.0, "on the host's own clock"
    assert [config["master_port"] for config in configs.values()] == [29500, 0, 0]
    assert [config["membership_port"] for config in configs.values()] == [29501, 0, 0]
    for host, config in configs.items():
        for peer in config["peers"]:
            assert [host, peer["kind"]] in configs[peer["name"]]["expect"]
    assert [peer["kind"] for peer in configs["b"]["peers"]] == ["data", "data", "master", "membership"]


def answer(host: str, *, at: float = 100.0, **changes: Any) -> Answer:
    line = json.dumps(payload(host, started=at, ended=at + 8, **changes))
    found = read_answer(PLACES["abc".index(host)], f"motd\n{line}\ntrailing\n", "t", 0.0)
    assert found is not None
    return found


def test_the_answer_is_found_among_noise_and_only_with_the_token() -> None:
    assert answer("a").report.data_ports == (40000,)
    line = json.dumps(payload("a"))
    for output, token in (
        (line, "other"),
        ('{"hetero_probe": 1, "token": "t"}', "t"),
        ('{"hetero_probe": broken', "t"),
        ('{"hetero_probe": 1, "token": "t", "started": true, "ended": 1e999}', "t"),
        ('{"hetero_probe": ' + "[" * 100_000, "t"),
        ("", "t"),
    ):
        assert read_answer(PLACES[0], output, token, 0.0) is None


def test_times_are_moved_to_this_machines_clock() -> None:
    found = read_answer(PLACES[0], json.dumps(payload("a")), "t", 30.0)
    assert found is not None
    assert (found.started, found.ended) == (70.0, 78.0)


_JSON = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats() | strategies.text(),
    lambda children: strategies.lists(children) | strategies.dictionaries(strategies.text(), children),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no finding
@given(
    strategies.dictionaries(
        strategies.sampled_from(sorted(payload("a").keys() | {"environment", "master_bind"})), _JSON
    )
)
def test_no_answer_of_a_host_breaks_the_others(changes: dict[str, Any]) -> None:
    changes = {key: value for key, value in changes.items() if key not in {"token", "started", "ended", "hetero_probe"}}
    attempts = {"40000": {"seen": "10.0.0.2", "round_trip": 0.002}}
    good = answer("b", links=[{"to": "a", "kind": "data", "attempts": attempts}])
    built = build_report(("a", "b"), [answer("a", **changes), good], {}, 29500)
    assert set(built.hosts) == {"a", "b"}


def test_a_link_is_read_at_the_port_the_target_says_it_bound() -> None:
    attempts = {
        "40099": {"error": "refused", "detail": "not this one", "seconds": 0.001},
        "40000": {"seen": "10.0.0.2", "round_trip": 0.002, "sent": 5e7, "received": 6e7, "seconds": 0.1},
    }
    answers = [answer("a"), answer("b", links=[{"to": "a", "kind": "data", "attempts": attempts}])]
    built = build_report(("a", "b"), answers, {}, 29500)
    link = built.matrix.link("b", "a")
    assert link is not None
    assert (link.error, link.port, link.round_trip, link.seen_as) == (None, 40000, 0.002, "10.0.0.2")
    assert built.matrix.link("a", "b") is None


def test_a_pair_whose_probes_did_not_meet_proves_nothing() -> None:
    refused = dialled("a", 40000, error="refused", detail="", seconds=0.001)
    answers = [answer("a", at=110.0), answer("b", links=[refused])]
    assert build_report(("a", "b"), answers, {}, 29500).matrix.links == {}


def test_what_was_dialled_before_the_listener_was_there_proves_nothing() -> None:
    early, late = ({"error": "refused", "detail": "", "seconds": 0.001, "at": at} for at in (103.0, 106.0))
    for outcome, tried in ((early, False), (late, True)):
        entry = {"to": "a", "kind": "data", "attempts": {"40000": outcome}}
        built = build_report(("a", "b"), [answer("a", at=105.0), answer("b", links=[entry])], {}, 29500)
        assert (built.matrix.link("b", "a") is not None) == tried


def test_an_unheard_of_error_of_a_foreign_probe_is_still_an_error() -> None:
    answers = [answer("a"), answer("b", links=[dialled("a", 40000, error="gremlins")])]
    link = build_report(("a", "b"), answers, {}, 29500).matrix.link("b", "a")
    assert link is not None
    assert link.error is LinkError.CLOSED


@pytest.mark.parametrize(
    ("seen", "runtime", "verdict"),
    [
        (HostReport("a", "container", data_ports=(1,)), "docker", Verdict.OK),
        (HostReport("a", "host", data_ports=(1,)), "process", Verdict.OK),
        (HostReport("a", "host", data_ports=(1,)), "docker", Verdict.WARN),
        (HostReport("a", "host", binds=(PortBind(1, "in use", True),)), "process", Verdict.UNKNOWN),
        (None, "docker", Verdict.UNKNOWN),
    ],
)
def test_probes(seen: HostReport | None, runtime: str, verdict: Verdict) -> None:
    found = NetworkReport({"a": seen} if seen else {}, {}, PairMatrix((), {}), {})
    assert probe_finding("a", runtime, found).verdict is verdict


HOST_SIDE = HostReport("a", "host", interface_addresses=("10.0.0.1",))


@pytest.mark.parametrize(
    ("interface", "address", "seen", "loopback", "verdict"),
    [
        ("eth0", "10.0.0.1", HOST_SIDE, False, Verdict.OK),
        ("", "10.0.0.1", HOST_SIDE, False, Verdict.FAIL),
        ("lo", "127.0.0.1", HOST_SIDE, False, Verdict.FAIL),
        ("lo", "127.0.0.1", HOST_SIDE, True, Verdict.OK),
        ("eth0", "10.0.0.1", replace(HOST_SIDE, place="container"), False, Verdict.OK),
        ("eth0", "10.0.0.1", replace(HOST_SIDE, place="container", interface_addresses=None), False, Verdict.FAIL),
        ("eth0", "10.0.0.1", replace(HOST_SIDE, place="container", interface_addresses=("192.168.65.3",)), False,
         Verdict.FAIL),
        ("eth0", "100.64.0.9", HOST_SIDE, False, Verdict.WARN),
    ],
)  # fmt: skip
def test_interfaces(interface: str, address: str, seen: HostReport, loopback: bool, verdict: Verdict) -> None:
    assert interface_finding(FACTS, interface, address, seen, loopback=loopback).verdict is verdict


@pytest.mark.parametrize(
    ("outside", "inside", "peers", "verdict"),
    [
        (0.01, 0.02, {"b": "10.0.0.2"}, Verdict.OK),
        (0.01, 5.0, {"b": "10.0.0.2"}, Verdict.WARN),
        (2.0, 0.01, {"b": "10.0.0.2"}, Verdict.WARN),
        (0.01, None, {"b": "10.0.0.2"}, Verdict.WARN),
        (0.01, None, {}, Verdict.SKIP),
    ],
)
def test_lookups(outside: float, inside: float | None, peers: dict[str, str], verdict: Verdict) -> None:
    finding = lookup_finding(
        replace(FACTS, reverse_dns_seconds=outside), HostReport("a", "host", reverse_seconds=inside), peers
    )
    assert finding.verdict is verdict
    if verdict is Verdict.WARN:
        assert finding.fix is not None
        assert finding.fix.commands == ("echo '10.0.0.2 b' | sudo tee -a /etc/hosts",)


@pytest.mark.parametrize(
    ("port", "promised", "system", "is_master", "verdict"),
    [
        (29500, "", (32768, 60999), True, Verdict.OK),
        (40000, "", (32768, 60999), True, Verdict.WARN),
        (40000, "", (32768, 60999), False, Verdict.OK),
        (29500, "29900-29950", (32768, 60999), False, Verdict.FAIL),
        (29500, "29900-29950", (29900, 29950), True, Verdict.OK),
        (29500, "29900-29950", (29910, 29920), True, Verdict.OK),
    ],
)
def test_ephemeral_ranges(port: int, promised: str, system: tuple[int, int], is_master: bool, verdict: Verdict) -> None:
    inventory = Inventory(
        cluster=Cluster(name="c", port=port), network=Network(port_range=promised), hosts=(Host(name="a"),)
    )
    facts = replace(FACTS, ephemeral_ports=system)
    assert ephemeral_finding(inventory, facts, is_master=is_master).verdict is verdict


@pytest.mark.parametrize(
    ("bind", "verdict", "words"),
    [
        (PortBind(29500), Verdict.OK, "free"),
        (PortBind(29500, "Address already in use", in_use=True), Verdict.FAIL, "in use by python 4711"),
        (PortBind(80, "Permission denied"), Verdict.FAIL, "Permission denied"),
    ],
)
def test_master_ports(bind: PortBind, verdict: Verdict, words: str) -> None:
    finding = master_port_finding(FACTS, bind, "python 4711")
    assert finding.verdict is verdict
    assert words in finding.reason


def broken(error: LinkError, source: str = "b", detail: str = "said so") -> PairLink:
    return PairLink(source, "a", "10.0.0.1", 40001, error=error, detail=detail, seconds=0.002)


@pytest.mark.parametrize(
    ("link", "verdict", "words"),
    [
        (LINK, Verdict.OK, "1.0 ms"),
        (broken(LinkError.STALLED), Verdict.OK, "ms"),
        (broken(LinkError.REFUSED), Verdict.FAIL, "REJECT"),
        (broken(LinkError.TIMEOUT), Verdict.FAIL, "DROP"),
        (broken(LinkError.UNREACHABLE), Verdict.FAIL, "no way"),
        (broken(LinkError.NAME), Verdict.FAIL, "resolve"),
        (broken(LinkError.STRANGER), Verdict.FAIL, "something else"),
        (None, Verdict.UNKNOWN, "not tried: because"),
    ],
)
def test_master_links(link: PairLink | None, verdict: Verdict, words: str) -> None:
    finding = master_link_finding([link] if link else [], TARGET, (29500, 29501), "because")
    assert finding.verdict is verdict
    assert words in finding.reason


def test_the_fix_opens_the_master_port_for_the_one_who_cannot_reach_it() -> None:
    finding = master_link_finding([broken(LinkError.TIMEOUT)], TARGET, (29500, 29501), "")
    assert finding.fix is not None
    assert finding.fix.commands == ("sudo ufw allow proto tcp from 10.0.0.2 to any port 29500:29501",)
    assert finding.fix.host == "a"


ADDRESSES = {"b": "10.0.0.2", "c": "10.0.0.3"}
TARGET = Target(FACTS, "10.0.0.1", ADDRESSES)


def judged(found: NetworkReport, *sources: str, target: Target = TARGET, both_ways: bool = False) -> Finding:
    return data_ports_finding(INVENTORY, target, found, sources, both_ways=both_ways)


def test_data_ports_that_everybody_reaches_are_ok() -> None:
    finding = judged(report(LINK, replace(LINK, source="c")), "b", "c")
    assert finding.verdict is Verdict.OK
    assert finding.reason == "reached by b, c"


def test_one_closed_direction_names_both_ends_and_opens_the_range_for_that_source() -> None:
    found = report(LINK, broken(LinkError.TIMEOUT, "c"))
    finding = judged(found, "b", "c")
    assert finding.verdict is Verdict.FAIL
    assert finding.reason == "c gets no answer from a at 10.0.0.1:40001: DROP rule, or a wrong address"
    assert finding.fix is not None
    assert finding.fix.commands == ("sudo ufw allow proto tcp from 10.0.0.3 to any port 32768:60999",)
    assert "port_range" in finding.fix.text


def test_other_networks_are_named_when_everything_is_unreachable() -> None:
    finding = judged(report(broken(LinkError.UNREACHABLE)), "b")
    assert finding.fix is not None
    assert "guest Wi-Fi" in finding.fix.text


HIGH = replace(TARGET, address="198.19.3.2", seen_as="10.0.0.9")


@pytest.mark.parametrize(
    ("target", "both_ways", "verdict", "words"),
    [
        (TARGET, False, Verdict.FAIL, "DROP"),
        (replace(TARGET, address="10.0.0.200"), False, Verdict.WARN, "not needed"),
        (replace(TARGET, address="10.0.0.200"), True, Verdict.FAIL, "DROP"),
        (HIGH, False, Verdict.OK, "dialled by nobody, and itself dials b"),
        (replace(HIGH, address="10.0.0.1"), False, Verdict.FAIL, "DROP"),
    ],
)
def test_only_the_higher_address_has_to_reach_the_lower(
    target: Target, both_ways: bool, verdict: Verdict, words: str
) -> None:
    finding = judged(report(broken(LinkError.TIMEOUT)), "b", target=target, both_ways=both_ways)
    assert (finding.verdict, words in finding.reason) == (verdict, True)


def test_who_dials() -> None:
    assert gloo_dials("10.0.0.10", "10.0.0.9")
    assert not gloo_dials("10.77.0.3", "198.19.3.2")
    assert gloo_dials("b.local", "10.0.0.9")


@pytest.mark.parametrize("error", [LinkError.TIMEOUT, LinkError.REFUSED])
def test_the_way_behind_nat_is_told_with_its_recipes(error: LinkError) -> None:
    finding = judged(report(broken(error)), "b", target=replace(TARGET, seen_as="10.0.0.9"))
    assert finding.fix is not None
    assert "198.19.0.0/16" in finding.fix.text
    assert finding.fix.commands == ()


RULESET = """\
has nft
has iptables
table inet mine {
\tchain incoming {
\t\ttype filter hook input priority filter; policy drop;
\t\tiifname "lo" accept
\t}
\tchain out {
\t\ttype filter hook output priority filter; policy drop;
\t}
}
table ip filter {
\tchain INPUT {
\t\ttype filter hook input priority filter; policy accept;
\t\ttcp dport 1 counter packets 0 bytes 0 drop
\t}
}
-P INPUT ACCEPT
-A INPUT -p tcp -m tcp --dport 1 -j DROP
end
"""


def opened(reply: str, **facts: Any) -> tuple[str, ...]:
    target = replace(TARGET, facts=replace(FACTS, firewalls=(), **facts), firewall=read_firewall(reply))
    finding = judged(report(broken(LinkError.TIMEOUT)), "b", target=target)
    assert finding.fix is not None
    return finding.fix.commands


def test_the_fix_is_for_the_firewalls_that_close_the_port() -> None:
    accept = "ip saddr 10.0.0.2 tcp dport 32768-60999 accept"
    rule = 'rule family="ipv4" source address="10.0.0.2" port port="32768-60999" protocol="tcp" accept'
    by_iptables = "sudo iptables -I INPUT -p tcp -s 10.0.0.2 --dport 32768:60999 -j ACCEPT"
    assert opened(RULESET) == (f"sudo nft insert rule inet mine incoming {accept}", by_iptables)
    assert opened("on ufw\n" + RULESET) == ("sudo ufw allow proto tcp from 10.0.0.2 to any port 32768:60999",)
    assert opened("on firewalld\nhas nft\nend\n") == (
        f"sudo firewall-cmd --permanent --add-rich-rule='{rule}'",
        "sudo firewall-cmd --reload",
    )
    assert opened("has iptables\nclosed\nend\n") == (by_iptables,), "the best guess, with the way to be sure"
    assert opened("has nft\nend\n") == ("sudo nft list ruleset || sudo iptables -S",), "nothing on the host itself"


def test_a_reply_that_makes_no_sense_blames_no_firewall() -> None:
    assert read_firewall("motd\n\x1b[31m") == Firewall(evidence="motd\n\x1b[31m")


def test_a_pair_that_was_not_tried_is_unknown_with_the_reason() -> None:
    finding = judged(report(LINK), "b", "c")
    assert finding.verdict is Verdict.UNKNOWN
    assert "did not run at the same time" in finding.reason


def test_a_stall_is_not_a_closed_port_but_a_packet_that_is_too_big() -> None:
    stalled = broken(LinkError.STALLED, detail="0 of 1048576 bytes arrived in time")
    assert judged(report(stalled), "b").verdict is Verdict.OK
    finding = packets_finding(replace(FACTS, mtu=1500), [stalled])
    assert finding.verdict is Verdict.FAIL
    assert finding.fix is not None
    assert finding.fix.commands == ("sudo ip link set dev eth0 mtu 1280",)


def test_packets_that_arrive_are_ok_and_none_at_all_is_unknown() -> None:
    assert packets_finding(FACTS, [LINK]).verdict is Verdict.OK
    assert packets_finding(FACTS, []).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("moved", "said"), [(10_010_624, "10 MB there"), (3_145_728, "3.1 MB there"), (None, "a part of the data")]
)
def test_how_much_arrived_is_said_as_it_was(moved: int | None, said: str) -> None:
    whole = replace(LINK, source="c", moved_bytes=20_000_000)
    assert packets_finding(FACTS, [replace(LINK, moved_bytes=moved), whole] if moved else [LINK]).reason.startswith(
        said
    )


@pytest.mark.parametrize(("hosts", "seconds"), [(1, 1.0), (2, 1.0), (3, 0.625), (16, 5 / 60), (64, 0.05), (256, 0.05)])
def test_the_time_of_one_exchange_shrinks_with_the_number_of_hosts(hosts: int, seconds: float) -> None:
    assert ProbeTimings().enough(hosts) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("address", "links", "verdict"),
    [
        ("10.0.0.2", [LINK], Verdict.OK),
        ("10.0.0.9", [LINK], Verdict.WARN),
        ("b.local", [LINK], Verdict.OK),
        ("10.0.0.2", [replace(LINK, seen_as="")], Verdict.SKIP),
    ],
)
def test_translation_in_between(address: str, links: list[PairLink], verdict: Verdict) -> None:
    assert seen_as_finding("b", address, links).verdict is verdict


@pytest.mark.parametrize(("rate", "verdict"), [(1e8, Verdict.OK), (1.2e7, Verdict.WARN), (None, Verdict.UNKNOWN)])
def test_speeds(rate: float | None, verdict: Verdict) -> None:
    assert speed_finding("a", [replace(LINK, sent_bytes_per_second=rate)]).verdict is verdict
