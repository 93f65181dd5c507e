"""The pages of the station over HTTP: who sees what, their headers, their words, and hostile names in them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from fastapi.testclient import TestClient

from blemish.station import pages
from blemish.station.app import make_app
from blemish.station.errors import Code, database_unavailable
from blemish.station.pages.texts import LANGUAGES
from blemish.station.people import Right
from blemish.station.station import Sent, Station
from blemish.station.tables import Inspection, now
from stations import NG, make_model, part, settings

HOME = "http://127.0.0.1"
PAGES = files(pages)
TEMPLATES = {path.name: path.read_text("utf-8") for path in (PAGES / "templates").iterdir()}
SCRIPTS = {path.name: path.read_text("utf-8") for path in (PAGES / "static").iterdir() if path.name.endswith(".js")}
PLACES = [room.PLACE for room in pages.ROOMS]
PASSWORD = "correct horse"


def client_of(station: Station, **headers: str) -> TestClient:
    return TestClient(make_app(station), base_url=HOME, headers=headers, follow_redirects=False)


@pytest.fixture(scope="module")
def open_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    """A station without accounts, with one model."""
    options = settings(tmp_path_factory.mktemp("open"))
    make_model(options.models / "cap.blemish")
    station = Station(options)
    yield station
    station.close()


HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}.png"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;&amp;{{7*7}}.png"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    """A station that was told hostile names and notes wherever a name or a note can be told."""
    options = settings(tmp_path_factory.mktemp("hostile"))
    make_model(options.models / "cap.blemish")
    (options.models / "<b>lid.blemish").write_bytes(b"no model")
    station = Station(options)
    client = client_of(station)
    for image in (part(NG), b"<html><script>alert(1)</script>"):
        judged = [answer.result(60) for answer in station.models.submit("cap", None, [image])]
        station.record([Sent(image, HOSTILE)], judged, HOSTILE)
    review = {"answer": "confirmed", "note": HOSTILE}
    assert client.post("/api/v1/inspections/1/reviews", json=review).status_code == 201
    yield station
    station.close()


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    """A station with an account of each role, each named like it."""
    options = settings(tmp_path_factory.mktemp("closed"))
    make_model(options.models / "cap.blemish")
    station = Station(options)
    station.people._hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    for role in ("admin", "reviewer", "viewer"):
        station.people.add_account(role, role, PASSWORD, "test")  # type: ignore[arg-type]
    yield station
    station.close()


@pytest.fixture(scope="module")
def signed(line: Station) -> dict[str, TestClient]:
    """A signed-in browser of each role."""
    clients = {role: client_of(line) for role in ("admin", "reviewer", "viewer")}
    for role, client in clients.items():
        assert client.post("/api/v1/sign-in", json={"name": role, "password": PASSWORD}).status_code == 200
    return clients


class Words(HTMLParser):
    """The words of a template that stand in it as they are: text, and the attributes that people read or hear."""

    READ = ("alt", "aria-label", "placeholder", "title", "label")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in self.READ and value]

    def handle_data(self, data: str) -> None:
        self.found.append(data)


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_template_holds_words_that_are_not_translated(name: str) -> None:
    bare = re.sub(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", "", TEMPLATES[name], flags=re.DOTALL)
    words = Words()
    words.feed(bare)
    same_everywhere = {"Blemish", "UTC", "ms", "kbd", "A", "X", "J", "K", "U", "n", "p", "sha256", "s", "GiB", "MiB"}

    assert {word for found in words.found for word in re.findall(r"[^\W\d_]+", found)} - same_everywhere == set()


def test_all_languages_have_the_same_texts_with_the_same_blanks() -> None:
    first, *others = LANGUAGES.values()

    def blanks(text: str) -> set[str]:
        return set(re.findall(r"\{(\w+)\}", text))

    for other in others:
        assert other.all.keys() == first.all.keys()
        assert {key for key in first.all if blanks(first.all[key]) != blanks(other.all[key])} == set()
        assert all(text.strip() for text in other.all.values())


def test_every_text_that_is_named_is_there_and_every_code_has_one() -> None:
    everything = LANGUAGES["en"].all
    named = {found for text in TEMPLATES.values() for found in re.findall(r'\bt\("([\w.]+)"[,)]', text)}
    said = {found for text in SCRIPTS.values() for found in re.findall(r'\btext\("(\w+)"[,)]', text)}
    assert "sign_in.title" in named
    assert named - everything.keys() == set()
    assert {f"script.{key}" for key in said} - everything.keys() == set()
    assert {f"error.{code.value}" for code in Code} == {key for key in everything if key.startswith("error.")}
    assert {f"nav.{place.name}" for place in PLACES} <= everything.keys()


def test_no_text_is_left_over() -> None:
    """A key counts as used where it is named, or where a name is put together from its section."""
    sources = "".join([*TEMPLATES.values(), *SCRIPTS.values(), *(p.read_text() for p in Path(str(PAGES)).glob("*.py"))])
    built = {*re.findall(r'"([\w]+\.[\w]*)" ~', sources), *re.findall(r'f"([\w]+\.[\w]*)\{', sources)}
    table = tomllib.loads((PAGES / "texts" / "en.toml").read_text("utf-8"))
    unused = [
        f"{section}.{key}"
        for section, keys in table.items()
        for key in keys
        if f'"{section}.{key}"' not in sources
        and not any(f"{section}.{key}".startswith(start) for start in built)
        and not (section == "script" and f'text("{key}"' in sources)
        and section not in ("language",)
    ]
    assert unused == []


def test_nothing_in_a_template_runs_or_is_styled_in_place_or_comes_from_elsewhere() -> None:
    for name, text in TEMPLATES.items():
        assert not re.search(r"\son\w+=|\sstyle=|javascript:|\|\s*safe|https?://", text), name
        for script in re.findall(r"<script[^>]*>", text):
            assert 'src="/static/' in script or 'type="application/json"' in script, name
    for name, text in SCRIPTS.items():
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|\beval\b|innerHTML|document\.write", text), name


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_pages_are_shown_to_those_who_may_see_them(line: Station, signed: dict[str, TestClient], place: Any) -> None:
    stranger = client_of(line).get(f"{place.path}?a=b")
    assert (stranger.status_code, stranger.headers["location"]) == (
        303,
        f"/sign-in?next=%2F{place.path[1:]}%3Fa%3Db",
    )
    for role, client in signed.items():
        answer = client.get(place.path)
        allowed = place.right in {Right.LOOK} or role == "admin" or (role == "reviewer" and place.right is Right.REVIEW)
        assert answer.status_code == (200 if allowed else 403), (role, answer.text)
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-frame-options"] == "DENY"
        assert f'href="{place.path}"' in answer.text or not allowed


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_pages_speak_both_languages(open_line: Station, place: Any) -> None:
    for header, language in (("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("fr, en;q=0.5, zh;q=0.1", "en"), ("fr", "en")):
        answer = client_of(open_line, **{"accept-language": header}).get(place.path)
        assert answer.status_code == 200
        texts = LANGUAGES[language]
        assert f'<html lang="{texts.tag}">' in answer.text
        assert f">{texts(f'nav.{place.name}')}</a>" in answer.text
    chosen = client_of(open_line, **{"accept-language": "en", "cookie": "blemish_language=zh"}).get(place.path)
    assert '<html lang="zh-CN">' in chosen.text


def test_the_first_page_leads_to_the_first_place(open_line: Station) -> None:
    assert client_of(open_line).get("/").headers["location"] == PLACES[0].path


@pytest.mark.parametrize(
    ("wanted", "followed"),
    [
        ("/system?a=b", "/system?a=b"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("/a\\b", "/"),
    ],
)
def test_signing_in_leads_to_pages_of_this_station_only(line: Station, wanted: str, followed: str) -> None:
    answer = client_of(line).get("/sign-in", params={"next": wanted})

    assert answer.status_code == 200
    assert f'data-next="{followed}"' in answer.text
    # Nobody is signed in, so the navigation shows nothing.
    assert not any(f'href="{place.path}"' in answer.text for place in PLACES)


def test_static_files_are_sent_with_their_type_and_only_when_they_changed(line: Station) -> None:
    client = client_of(line)
    for name, media_type in (
        ("station.css", "text/css; charset=utf-8"),
        ("palette.css", "text/css; charset=utf-8"),
        ("station.js", "text/javascript; charset=utf-8"),
        ("mark.svg", "image/svg+xml"),
    ):
        first = client.get(f"/static/{name}")
        assert (first.status_code, first.headers["content-type"]) == (200, media_type)
        again = client.get(f"/static/{name}", headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert client.get("/static/../frame.py").status_code == 404
    assert client.get("/static/nothing.js").status_code == 404


@pytest.mark.parametrize("path", [place.path for place in PLACES] + ["/live/board", "/inspections/1", "/inspections/2"])
def test_hostile_names_stay_text(hostile: Station, path: str) -> None:
    answer = client_of(hostile).get(path)

    assert answer.status_code == 200
    assert "<script>alert" not in answer.text
    assert "<b>lid" not in answer.text
    assert "49.png" not in answer.text
    if path == "/inspections/1":
        # File, source and note as text; in the JSON for the script, the signs that could end it are escaped.
        assert answer.text.count(f"<bdi>{ESCAPED}</bdi>") == 3
        assert "\\u003cscript\\u003ealert(1)" in answer.text


def test_an_inspection_shows_its_reasons_and_reviews_and_one_that_is_not_there_is_a_page(hostile: Station) -> None:
    client = client_of(hostile)
    judged, rejected, none = (client.get(f"/inspections/{number}").text for number in (1, 2, 3))

    assert "At most 5 % of good parts are expected to score this high" in judged
    assert "Score 0.6, p-value 0.05, 19 calibration images" in judged
    assert judged.count('class="bar calibration"') >= 10
    assert '<th class="number">Area in pixels</th>' in judged
    assert "The file cannot be read as an image." in rejected
    assert 'class="chart"' not in rejected
    assert "There is no such inspection" in none
    assert client.get("/inspections/3").status_code == 404
    chinese = client_of(hostile, cookie="blemish_language=zh").get("/inspections/2").text
    assert LANGUAGES["zh"]("why.unreadable") in chinese


def test_the_list_is_filtered_and_paged(hostile: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages.inspections, "ROWS", 1)
    client = client_of(hostile)

    def numbers(query: str) -> list[str]:
        return re.findall(r'<th scope="row"><a href="/inspections/(\d+)">', client.get(f"/inspections?{query}").text)

    assert numbers("") == ["2"]
    older = re.search(r'href="\?([^"]*)" rel="next"', client.get("/inspections?model=cap").text)
    assert older is not None
    assert older[1] == "model=cap&amp;before=2"
    assert numbers("model=cap&before=2") == ["1"]
    assert numbers("verdict=NG") == ["1"]
    assert numbers("verdict=OK") == []
    assert numbers("reviewed=false") == ["2"]
    assert client.get("/inspections?verdict=BAD").status_code == 422
    assert "What was asked for cannot be" in client.get("/inspections?verdict=BAD").text


def test_the_live_board_says_what_is_wrong(hostile: Station, tmp_path: Path) -> None:
    board = client_of(hostile).get("/live/board").text
    assert "The model &lt;b&gt;lid is not ready" in board
    station = Station(settings(tmp_path))
    client = client_of(station)
    assert "No model is active: nothing can be inspected" in client.get("/live/board").text
    # What was trained here judges nothing until someone activates it.
    station.models.add_candidate("cap", make_model(tmp_path / "trained.blemish"), "ann", {})
    assert "No model is active: nothing can be inspected" in client.get("/live/board").text
    station.models.activate("cap", 1, "ann")
    assert "nothing can be inspected" not in client.get("/live/board").text
    station.drain()
    assert "The station is shutting down" in client.get("/live/board").text
    station.close()


@pytest.mark.parametrize(
    ("seconds_ago", "minutes"),
    [
        # One image a second: after half a minute without one, the line is quiet.
        ([20, 21, 22, 23], None),
        ([40, 41, 42, 43], 0),
        ([300, 301, 302], 5),
        # One every five minutes: nobody is alarmed by four minutes without one, nor by twenty.
        ([240, 540, 840], None),
        ([1200, 1500, 1800], None),
        ([3400, 3700, 4000], 56),
        # Once an hour has gone by, it is said whatever was usual.
        ([3700, 13700, 23700], 61),
        ([], None),
    ],
)
def test_a_line_is_quiet_when_nothing_came_for_unusually_long(seconds_ago: list[int], minutes: int | None) -> None:
    moment = now()
    rows = [Inspection(time=moment - timedelta(seconds=ago)) for ago in seconds_ago]

    assert pages.live._quiet_minutes(rows, moment) == minutes


def test_pages_say_when_the_database_is_gone(hostile: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> None:
        raise database_unavailable()

    monkeypatch.setattr(hostile.store, "read", gone)

    answer = client_of(hostile).get("/inspections")

    assert answer.status_code == 503
    assert "The database cannot be reached" in answer.text
    assert answer.headers["retry-after"] == "5"


def test_pages_are_no_part_of_the_api(line: Station, signed: dict[str, TestClient]) -> None:
    paths = signed["admin"].get("/api/v1/openapi.json").json()["paths"]

    assert not {place.path for place in PLACES} & paths.keys()


WRONG: list[tuple[str, str, dict[str, Any], set[str]]] = [
    ("POST", "/api/v1/accounts", {"role": "king", "password": ""}, {"missing", "literal_error", "string_too_short"}),
    ("POST", "/api/v1/accounts", {"name": "a/b", "role": "admin", "password": PASSWORD}, {"name_signs"}),
    ("POST", "/api/v1/accounts", {"name": "a", "role": "admin", "password": "short"}, {"password_length"}),
    (
        "POST",
        "/api/v1/tokens",
        {"name": "x" * 101, "role": "machine", "more": 1},
        {"string_too_long", "extra_forbidden"},
    ),
    ("POST", "/api/v1/models/cap/activate", {"version": "two"}, {"int_parsing"}),
    ("POST", "/api/v1/models/cap/activate", {"version": 0}, {"greater_than_equal"}),
    (
        "POST",
        "/api/v1/models/cap/versions/1/rates",
        {"false_alarm_rate": 0, "review_rate": 2},
        {"greater_than", "less_than_equal"},
    ),
    ("GET", "/api/v1/models/cap/versions/1/what-if?false_alarm_rate=x&review_rate=0.1", {}, {"float_parsing"}),
    ("POST", "/api/v1/trainings", {"model": "../x", "folder": None, "method": "rd", "preset": "auto"}, {"model_signs"}),
    ("POST", "/api/v1/trainings", {"model": "x", "folder": None, "false_alarm_rate": 1}, {"less_than"}),
    (
        "POST",
        "/api/v1/models/cap/recalibrate",
        {"mode": "no", "since": "soon"},
        {"literal_error", "datetime_from_date_parsing"},
    ),
]


@pytest.mark.parametrize(("method", "path", "sent", "codes"), WRONG)
def test_what_is_wrong_with_a_field_has_a_sentence_in_both_languages(
    open_line: Station, method: str, path: str, sent: dict[str, Any], codes: set[str]
) -> None:
    answer = client_of(open_line).request(method, path, json=sent or None)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    complaints = answer.json()["fields"]
    assert {one["code"] for one in complaints} == codes
    for texts in LANGUAGES.values():
        for one in complaints:
            assert one["field"]
            sentence = texts.all[f"field.{one['code']}"]
            # Nothing stays blank, and the browser has the same sentence.
            assert "{" not in sentence.format_map(one["values"])
            assert texts.scripts[f"field_{one['code']}"] == sentence


def test_a_page_that_is_asked_for_what_cannot_be_says_so_in_its_language(open_line: Station) -> None:
    answer = client_of(open_line, **{"Accept-Language": "zh"}).get("/inspections?since=soon&before=0")

    assert answer.status_code == 422
    text = LANGUAGES["zh"]
    assert f"<bdi>since</bdi></code>: {text('field.datetime_from_date_parsing')}" in answer.text
    assert "Input should be" not in answer.text
