"""The matrix as a page, in a real browser: it says what `explain` says, can be used by keyboard, and asks nobody."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netpold.ctl.matrix_page import page
from netpold.policy.index import Index
from netpold.policy.model import Direction
from netpold.rules.answers import explain_json, matrix_json
from netpold.rules.matrix import matrix
from netpold.rules.offline import offline_ruleset
from netpold.rules.page import explained
from netpold.rules.settings import CompileSettings
from tests.browser import CHROMIUM, Browser, browser
from tests.cases import Case, all_cases
from tests.objects import to_world
from tests.tiers.mixtures import Place, mixture

PORTS = [("TCP", 80), ("TCP", 6379), ("UDP", 53), ("ICMP", None)]
OUTSIDE = ["192.0.2.1", "2001:db8::1"]
CASES = all_cases()
HOSTILE = "</script><script>document.title='broken'</script><!--<script>\u2028&amp;"

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no chromium")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as each:
        yield each


def a_pod(namespace: str, name: str, number: int, port: int = 80) -> dict[str, Any]:
    metadata = {
        "namespace": namespace,
        "name": name,
        "labels": {"app": name.rstrip("0123456789"), "n": str(number % 3)},
    }
    containers = [{"ports": [{"name": "http", "containerPort": port}]}]
    address = f"10.72.{number // 250}.{number % 250 + 1}"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": containers},
        "status": {"phase": "Running", "podIPs": [{"ip": address}]},
    }


def shop() -> list[dict[str, Any]]:
    """web reaches db on its port http, and ops reaches all."""
    peers = [{"podSelector": {"matchLabels": {"app": "web"}}}]
    rules = [
        {"from": peers, "ports": [{"port": "http"}]},
        {"from": [{"namespaceSelector": {"matchLabels": {"team": "ops"}}}]},
    ]
    spec = {"podSelector": {"matchLabels": {"app": "db"}}, "ingress": rules}
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ops", "labels": {"team": "ops"}}}
    pods = [a_pod("shop", "db", 1, 6379), a_pod("shop", "web", 2), a_pod("ops", "admin", 3), a_pod("other", "web", 4)]
    return [*pods, space, policy | {"metadata": {"namespace": "shop", "name": "db"}, "spec": spec}]


class Made:
    """A page that was written, with what it is of."""

    def __init__(self, path: Path, index: Index, mode: str = "enforce", about: str = "a test") -> None:
        self.path = path
        self.index = index
        self.ruleset = offline_ruleset(index, settings=CompileSettings(mode=mode))  # type: ignore[arg-type]
        pods = sorted(key for key, pod in index.world.pods.items() if pod.takes_part and pod.addresses)
        found = matrix(index, self.ruleset, pods, OUTSIDE, PORTS)
        self.answer = matrix_json(found) | {"explained": explained(index, self.ruleset, found)}
        path.write_text(page(self.answer, about))

    def expected(self) -> list[Any]:
        """What `explain` says of each cell."""
        cells = []
        names = [each["name"] for each in self.answer["ends"]]
        common = [set(each["addresses"]) for each in self.answer["ends"]]
        for source, here in enumerate(names):
            for destination, there in enumerate(names):
                if not common[source] & common[destination] or not ("/" in here or "/" in there):
                    cells.append(None)
                    continue
                for port in PORTS:
                    told = explain_json(self.index, self.ruleset, here, there, *port)
                    cells.append([told["verdict"], *[_side(told[str(each)]) for each in Direction]])
        return cells


def _side(judgement: dict[str, Any]) -> Any:
    names = ("verdict", "audit", "isolating", "allowed_by", "denied_by", "tiers", "nearest_miss", "reason")
    return {name: judgement[name] for name in names}


ALL_CELLS = """
ends.flatMap((_, from) => ends.flatMap((_, to) => families(from, to).length ? ports.map((_, port) => {
  const told = explain(from, to, port);
  const side = (each) => ({...each, isolating: each.isolating.map((policy) => policy.policy)});
  return [told.verdict, side(told.ingress), side(told.egress)];
}) : [null]))
"""


@pytest.mark.parametrize("case", CASES[:: max(1, len(CASES) // 10)], ids=lambda case: case.name)
@pytest.mark.parametrize("mode", ["enforce", "audit"])
def test_each_cell_says_what_explain_says(chromium: Browser, tmp_path: Path, case: Case, mode: str) -> None:
    made = Made(tmp_path / "page.html", Index(case.steps[-1].world), mode)
    chromium.open(made.path)
    assert chromium.run(ALL_CELLS) == made.expected()


@pytest.mark.parametrize("number", range(4))
def test_each_cell_says_what_explain_says_of_tiers(chromium: Browser, tmp_path: Path, number: int) -> None:
    places = [Place("n1", (f"10.72.0.{each}", f"fd72::{each}")) for each in range(1, 6)]
    nodes = {"n1": (OUTSIDE[0], OUTSIDE[1]), "n2": ("192.0.2.2",)}
    objects = mixture(number, places, nodes, ["10.72.0.0/29", "192.0.2.0/24", "fd72::/64"])
    made = Made(tmp_path / "page.html", Index(to_world(objects)), ("enforce", "audit")[number % 2])
    chromium.open(made.path)
    assert chromium.run(ALL_CELLS) == made.expected()


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "page.html", Index(to_world(shop())))


def panel(chromium: Browser) -> str:
    return str(chromium.run("panel.innerText"))


def test_a_click_explains(chromium: Browser, made: Made) -> None:
    chromium.open(made.path, "#port=80/TCP")
    assert panel(chromium) == ""
    where = chromium.run(
        "(() => { const b = view.getBoundingClientRect(), p = place([ends.findIndex(e => e.name === 'other/web'),"
        " ends.findIndex(e => e.name === 'shop/db')]); return [b.left + sizes.left + (p.column + .5) * sizes.cell,"
        " b.top + sizes.top + (p.row + .5) * sizes.cell] })()"
    )
    chromium.click(*where)
    text = panel(chromium)
    assert "other/web → shop/db" in text
    assert "denied on 80/TCP" in text
    assert (
        "Nearest miss: shop/db ingress[1] would allow it but for the namespace: other lacks the label team=ops" in text
    )
    assert "from=other%2Fweb&to=shop%2Fdb" in chromium.run("location.hash")


def in_tier(name: str, tier: str, action: str) -> dict[str, Any]:
    rule = {"action": action, "name": f"{name}'s", "from": [{"namespaces": {}}]}
    spec = {"tier": tier, "priority": 1, "subject": {"namespaces": {}}, "ingress": [rule]}
    kind = {"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy"}
    return {**kind, "metadata": {"name": name}, "spec": spec}


def test_the_way_through_the_tiers_is_told(chromium: Browser, tmp_path: Path) -> None:
    objects = [*shop(), in_tier("guard", "Admin", "Pass"), in_tier("floor", "Baseline", "Deny")]
    chromium.open(Made(tmp_path / "page.html", Index(to_world(objects))).path, "#port=80/TCP&from=shop/db&to=shop/web")
    text = re.sub(r"\s+", " ", panel(chromium))
    assert "Admin guard ingress[0] “guard's” passes it on Baseline floor ingress[0] “floor's” denies it" in text
    assert "No rule lacks just one thing" not in text
    chromium.open(tmp_path / "page.html", "#port=80/TCP&from=other/web&to=shop/db")
    text = re.sub(r"\s+", " ", panel(chromium))
    assert "Admin guard ingress[0] “guard's” passes it on isolated by shop/db" in text and "Nearest miss" in text
    signs = "['isolated', 'tiers'].map((each) => document.querySelector(`[data-sign=${each}]`).hidden)"
    assert chromium.run(f"new Promise((done) => setTimeout(() => done({signs}), 50))") == [False, False]
    chromium.open(Made(tmp_path / "plain.html", Index(to_world(shop()))).path)
    assert chromium.run(f"new Promise((done) => setTimeout(() => done({signs}), 50))") == [False, True]


def test_tiers_judge_also_where_they_speak_of_no_end_of_the_page(chromium: Browser, tmp_path: Path) -> None:
    """The sign beside a name, as `pod` says it."""
    rules = [{"action": "Deny", "to": [{"networks": ["198.51.100.0/24"]}]}]
    spec = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": rules}
    metadata = {"name": "no-metadata"}
    kind = {"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy"}
    policy = {**kind, "metadata": metadata, "spec": spec}
    chromium.open(Made(tmp_path / "page.html", Index(to_world([*shop(), policy]))).path)
    judged = "ends.map((end, at) => end.pod && inTiers.{}[at] ? end.name : null).filter(Boolean)"
    pods = chromium.run("ends.map((end) => end.pod).filter(Boolean)")
    assert len(pods) > 2 and chromium.run(judged.format("egress")) == pods
    assert chromium.run(judged.format("ingress")) == []
    assert chromium.run("document.querySelector('[data-sign=tiers]').hidden") is False


def test_the_keyboard_is_enough(chromium: Browser, made: Made) -> None:
    chromium.open(made.path, "#port=80/TCP&from=shop/db&to=shop/web")
    chromium.run("view.focus()")
    assert "shop/db → shop/web" in panel(chromium)
    chromium.key("s")
    assert "shop/web → shop/db" in panel(chromium)
    assert "denied on 80/TCP" in panel(chromium)
    chromium.key("]")
    assert "passes on 6379/TCP" in panel(chromium)
    assert "shop/db ingress[0] allows it" in panel(chromium)
    chromium.key("ArrowRight")
    assert "shop/web → shop/web" in panel(chromium)
    chromium.key("Escape")
    assert panel(chromium) == ""
    chromium.key("/")
    chromium.key("x")
    assert chromium.run("shown.query") == "x"


@pytest.mark.parametrize(
    ("fragment", "sources", "destinations"),
    [
        ("", 6, 6),
        ("#namespaces=shop,ops", 3, 3),
        ("#filter=app%3Dweb", 2, 2),
        ("#filter=app!%3Dweb", 4, 4),
        ("#filter=!app", 2, 2),
        ("#filter=shop/&side=from", 2, 6),
        ("#filter=app%3Dweb+other&side=to", 6, 1),
        ("#filter=nobody", 0, 0),
    ],
)
def test_filters(chromium: Browser, made: Made, fragment: str, sources: int, destinations: int) -> None:
    chromium.open(made.path, fragment)
    assert chromium.run("[shown.from.length, shown.to.length]") == [sources, destinations]
    assert chromium.run("$('empty').hidden") is (sources > 0)
    wanted = "/".join(map(str, chromium.run("(() => { let a = 0, b = 0; for (const f of shown.from) for (const t of"
        " shown.to) if (f !== t && families(f, t).length) { b++; a += outcome(f, t, shown.port).kind !== 'deny' }"
        " return [a, b] })()")))  # fmt: skip
    assert chromium.run("document.documentElement.dataset.pass") == wanted


def test_what_passes_is_drawn(chromium: Browser, made: Made) -> None:
    """In light and dark, at each size: the middle of a cell has the colour of what passes, or of what does not."""
    chromium.open(made.path, "#port=80/TCP")
    middle = """((from, to) => { const p = place([from, to]), r = devicePixelRatio; return [...grid.getContext("2d")
      .getImageData((sizes.left + (p.column + .5) * sizes.cell) * r, (sizes.top + (p.row + .3) * sizes.cell) * r, 1, 1)
      .data].slice(0, 3).join() })"""
    colour = "((name) => { const c = document.createElement('canvas').getContext('2d'); c.fillStyle = colours[name];"
    colour += " c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data].slice(0, 3).join() })"
    admin, db, web = (
        chromium.run(f"ends.findIndex(e => e.name === '{name}')") for name in ("ops/admin", "shop/db", "shop/web")
    )
    for _ in ("light", "dark"):
        for size in (3, 10, 28):
            chromium.run(f"shown.cell = {size}; layout()")
            assert chromium.run(f"{middle}({admin}, {db})") == chromium.run(f"{colour}('allow')"), size
            assert chromium.run(f"{middle}({web}, {db})") == chromium.run(f"{colour}('deny')"), size
        chromium.run("$('theme').click()")


def test_it_prints_all_of_it(chromium: Browser, made: Made) -> None:
    chromium.open(made.path)
    assert chromium.run("$('paper').width") == 300  # as it comes: nothing was drawn
    assert chromium.printed().startswith(b"%PDF-")
    assert chromium.run("$('paper').width") > 300
    assert chromium.run("document.documentElement.dataset.theme") is None


def test_500_pods(chromium: Browser, tmp_path: Path) -> None:
    pods = [a_pod(f"team-{number % 20}", f"web{number}", number) for number in range(498)]
    made = Made(tmp_path / "page.html", Index(to_world([*shop()[-1:], *pods])))
    chromium.open(made.path)
    assert chromium.run("document.documentElement.dataset.pass").endswith(
        f"/{500 * 499 - 2}".replace("249498", "248502")
    )
    chromium.run("$('fit').click()")
    assert chromium.run("sizes.cell") < 3
    assert len(made.path.read_bytes()) < 1_000_000


def test_it_asks_nobody(chromium: Browser, made: Made) -> None:
    text = made.path.read_text()
    assert not re.findall(r"https?://|src=|@import|url\(", text)
    chromium.requested.clear()
    chromium.open(made.path)
    assert {url for url in chromium.requested if url != "about:blank"} == {f"file://{made.path}"}
    refused = chromium.run("fetch('http://127.0.0.1:9/').then(() => 'asked', (error) => 'refused')")
    assert refused == "refused"


def test_what_manifests_say_is_no_markup(chromium: Browser, tmp_path: Path) -> None:
    objects = shop()
    index = Index(to_world(objects))
    made = Made(tmp_path / "page.html", index, about=HOSTILE)
    assert json.loads(json.dumps(HOSTILE)) == HOSTILE
    chromium.open(made.path)
    assert chromium.run("document.title") == f"Who reaches whom · {HOSTILE}"
    assert chromium.run("$('about').textContent") == HOSTILE
    assert chromium.run("document.scripts.length") == 2


def test_what_passes_in_one_family_only(chromium: Browser, tmp_path: Path) -> None:
    """And the counts, which are of namespaces, not of addresses."""
    pods = [a_pod("x", name, number) for number, name in enumerate("ab", 1)]
    for number, pod in enumerate(pods, 1):
        pod["status"]["podIPs"].append({"ip": f"2001:db8:9::{number}"})
    spec = {
        "podSelector": {"matchLabels": {"app": "b"}},
        "ingress": [{"from": [{"ipBlock": {"cidr": "2001:db8::/32"}}]}],
    }
    kind = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
    objects = [*pods, kind | {"metadata": {"namespace": "x", "name": "b"}, "spec": spec}]
    made = Made(tmp_path / "page.html", Index(to_world(objects)))
    left_out = [{"protocol": "TCP", "port": 9100}]
    made.path.write_text(page(made.answer | {"ports_left_out": left_out}, "a test"))
    chromium.open(made.path, "#port=80/TCP&from=x/a&to=x/b")
    assert "passes in IPv6 only on 80/TCP" in panel(chromium) and "Below is IPv4: denied." in panel(chromium)
    assert "On each port that was asked about" in panel(chromium)
    assert chromium.run("document.querySelector('[data-sign=none]').hidden") is False, "addresses among themselves"
    counts = chromium.run("$('counts').textContent")
    assert re.search(r", 1 of them in one family only · 4 of 4 ends in 1 namespace$", counts), counts
    assert chromium.run("document.documentElement.dataset.pass").startswith(counts.split()[0])
    assert chromium.run("[$('left').textContent, $('left').title]") == [
        "1 more that manifests name, too: ask with --ports",
        "9100/TCP",
    ]


def test_the_filter_shows_all_of_its_example(chromium: Browser, made: Made) -> None:
    chromium.open(made.path)
    room = """(() => { const box = $("query"), style = getComputedStyle(box);
      measuring.font = style.font;
      return box.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight) - 20
        - measuring.measureText(box.placeholder).width })()"""
    assert chromium.run(room) > 0, "20 pixels are the search field's own button"
