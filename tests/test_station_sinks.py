"""Sinks: nothing is lost while one is down, order, signatures, dead letters; on real servers on this machine."""

from __future__ import annotations

import base64
import csv
import hashlib
import hmac
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from blemish.errors import UsageError
from blemish.station.app import make_app
from blemish.station.connections.kinds import CsvSink, MqttSink, WebhookSink
from blemish.station.drift.watch import COMPONENTS
from blemish.station.settings import Drift
from blemish.station.sinks import senders
from blemish.station.station import Station
from stations import NG, OK, document, make_model, part, settings, until

SECRET = b"thirty-two bytes, none is secret"
OPENER = "whsec_" + base64.b64encode(SECRET).decode()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are short."""
    monkeypatch.setattr(senders, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(senders, "LONGEST_WAIT", 0.05)
    monkeypatch.setattr(senders, "LOOK_SECONDS", 0.1)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Receiver:
    """A web server that takes webhooks. answers : the status of each request. taken : those it answered with 200."""

    def __init__(self, port: int, answers: Callable[[dict[str, Any]], int]) -> None:
        self.taken: list[dict[str, Any]] = []
        self.asked = 0
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                found = json.loads(body)
                receiver.asked += 1
                status = answers(found)
                receiver.headers.append({name.lower(): value for name, value in self.headers.items()})
                receiver.bodies.append(body)
                if status == 200:
                    receiver.taken.append(found)
                self.send_response(status)
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def inspections(self) -> list[int]:
        return [event["inspection"]["id"] for event in self.taken if event["type"] == "inspection"]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "mes.secret"
    path.write_text(OPENER + "\n")
    return path


class Line:
    """A station with sinks, which can be closed and opened again."""

    def __init__(self, root: Path, *sinks: Any, **changes: Any) -> None:
        self.options = settings(root, sinks=sinks, **changes)
        make_model(self.options.models / "cap.blemish")
        self.open()

    def open(self) -> None:
        self.station = Station(self.options)
        self.client = TestClient(make_app(self.station), base_url="http://localhost")
        self.station.senders.start()

    def inspect(self, *images: bytes) -> list[int]:
        files = [("image", ("p.png", image)) for image in images]
        return [row["id"] for row in self.client.post("/api/v1/inspect", files=files).json()["inspections"]]

    def sink(self, name: str = "mes") -> dict[str, Any]:
        (found,) = [sink for sink in document(self.client.get("/api/v1/sinks"))["sinks"] if sink["name"] == name]
        return dict(found)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Line]]:
    lines: list[Line] = []

    def started(*sinks: Any, **changes: Any) -> Line:
        lines.append(Line(tmp_path, *sinks, **changes))
        return lines[-1]

    yield started
    for line in lines:
        line.station.close()


def webhook(port: int, secret: Path, **changes: Any) -> WebhookSink:
    return WebhookSink(
        name="mes", kind="webhook", url=f"http://127.0.0.1:{port}/in?key=1", secret_file=secret, **changes
    )


def test_a_webhook_gets_every_result_once_in_order_and_can_tell_who_sent_it(
    start: Callable[..., Line], secret: Path
) -> None:
    receiver = Receiver(port := free_port(), lambda event: 200)
    line = start(webhook(port, secret))

    sent = line.inspect(*(part(NG, i) for i in range(7))) + line.inspect(b"no image")

    until(lambda: len(receiver.taken) == 8, "all results are delivered")
    assert receiver.inspections() == sent
    assert len({event["id"] for event in receiver.taken}) == 8
    shown = document(line.client.get(f"/api/v1/inspections/{sent[0]}"))
    told = receiver.taken[0]["inspection"]
    assert {key: told[key] for key in ("verdict", "score", "p_value", "regions", "model", "image_sha256")} == {
        key: shown[key] for key in ("verdict", "score", "p_value", "regions", "model", "image_sha256")
    }
    assert receiver.taken[7]["inspection"]["verdict"] == "REJECTED"
    for headers, body in zip(receiver.headers, receiver.bodies, strict=True):
        said = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        expected = base64.b64encode(hmac.new(SECRET, said, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"
        assert headers["webhook-id"] == json.loads(body)["id"]
        assert abs(int(headers["webhook-timestamp"]) - time.time()) < 300
    until(lambda: line.sink()["waiting"] == 0, "the outbox is empty")
    state = line.sink()
    assert (state["delivered"], state["dead"], state["problem"]) == (8, 0, None)
    # What stands behind the question mark may be a key.
    assert state["address"] == f"http://127.0.0.1:{port}/in"
    receiver.close()


def test_nothing_is_lost_while_a_sink_is_down_and_the_station_ends_in_between(
    start: Callable[..., Line], secret: Path
) -> None:
    port = free_port()
    line = start(webhook(port, secret, timeout_seconds=2))
    sent = line.inspect(part(NG, 0), part(OK, 1))
    until(lambda: line.sink()["problem"], "the sink is found to be down")
    assert line.sink()["waiting"] == 2
    line.station.close()
    line.open()
    sent += line.inspect(part(NG, 2))
    receiver = Receiver(port, lambda event: 200 if receiver.asked > 3 else 503)

    until(lambda: len(receiver.taken) >= 3, "all results are delivered")

    assert receiver.inspections() == sent
    until(lambda: line.sink()["waiting"] == 0, "the outbox is empty")
    assert line.sink()["problem"] is None
    receiver.close()


@pytest.mark.parametrize("status", [400, 302, 500])
def test_what_a_sink_refuses_becomes_a_dead_letter_that_can_be_sent_again(
    start: Callable[..., Line], secret: Path, status: int
) -> None:
    refusing = True

    def answer(event: dict[str, Any]) -> int:
        return status if refusing and event["inspection"]["verdict"] == "NG" else 200

    receiver = Receiver(port := free_port(), answer)
    line = start(webhook(port, secret))
    first, bad, last = line.inspect(part(OK, 1), part(NG, 2), part(OK, 3))

    until(lambda: len(receiver.taken) == 2, "the others are delivered")
    assert receiver.inspections() == [first, last]
    # It was tried as often as it says, and the others waited for it.
    assert receiver.asked == 2 + senders.ATTEMPTS
    until(lambda: line.sink()["waiting"] == 0, "nothing waits")
    letters = document(line.client.get("/api/v1/sinks/mes/dead-letters"))["letters"]
    assert [letter["body"]["inspection"]["id"] for letter in letters] == [bad]
    assert (letters[0]["attempts"], letters[0]["problem"]) == (senders.ATTEMPTS, f"it answers {status}")
    metrics = line.client.get("/metrics").text
    assert 'blemish_sink_dead_letters{sink="mes"} 1.0' in metrics

    refusing = False
    other = line.client.post("/api/v1/sinks/mes/dead-letters/send", json={"ids": [letters[0]["id"] + 1]})
    assert document(other)["count"] == 0
    again = line.client.post("/api/v1/sinks/mes/dead-letters/send", json={})

    assert document(again)["count"] == 1
    until(lambda: len(receiver.taken) == 3, "the dead letter is delivered")
    assert receiver.taken[-1]["id"] == letters[0]["event"]
    entry = document(line.client.get("/api/v1/audit"))["entries"][0]
    assert (entry["action"], entry["subject"]) == ("send again", "sink mes")
    receiver.close()


def test_a_sink_gets_the_verdicts_it_wants_and_alarms_of_drift(
    start: Callable[..., Line], secret: Path, tmp_path: Path
) -> None:
    receiver = Receiver(port := free_port(), lambda event: 200)
    table = CsvSink(name="table", kind="csv", path=tmp_path / "out" / "{date}.csv")
    line = start(webhook(port, secret, verdicts={"REJECTED"}), table, drift=Drift(reference=20))

    for start_at in range(0, 40, 20):
        line.inspect(*(part(NG, start_at + i) for i in range(20)))
    line.inspect(b"no image")

    until(lambda: len(receiver.taken) == 2, "the alarm and the rejected image are delivered")
    alarm, rejected = receiver.taken
    assert (alarm["type"], alarm["drift"]["model"], alarm["station"]) == ("drift", "cap", "line-1")
    assert alarm["drift"]["cause"] in COMPONENTS
    assert alarm["drift"]["value"] >= alarm["drift"]["limit"]
    assert rejected["inspection"]["verdict"] == "REJECTED"
    until(lambda: line.sink("table")["delivered"] == 41, "the table has every inspection")
    receiver.close()


def test_a_csv_file_gets_a_line_for_each_result_also_after_a_cut_and_begins_anew_when_moved(
    start: Callable[..., Line], tmp_path: Path
) -> None:
    path = tmp_path / "out" / "inspections.csv"
    line = start(CsvSink(name="table", kind="csv", path=path))
    files = [("image", ('=cmd|"calc"\n.png', part(NG)))]
    first = line.client.post("/api/v1/inspect", files=files).json()["inspections"][0]
    until(lambda: line.sink("table")["delivered"] == 1, "the first line is written")
    with path.open("ab") as file:
        file.write(b"cut sho")
    line.inspect(part(OK, 1))
    until(lambda: line.sink("table")["delivered"] == 2, "the second line is written")

    with path.open(newline="") as file:
        header, one, _, two = list(csv.reader(file))

    found = dict(zip(header, one, strict=True))
    assert (found["id"], found["verdict"], found["score"]) == (str(first["id"]), "NG", str(first["score"]))
    assert json.loads(found["regions"]) == first["regions"]
    # A spreadsheet must not take it for a formula.
    assert found["file"].startswith("'=cmd")
    assert dict(zip(header, two, strict=True))["verdict"] == "OK"
    path.rename(tmp_path / "moved.csv")
    line.inspect(part(OK, 2))
    until(lambda: path.exists() and len(path.read_text().splitlines()) == 2, "a new file with a header begins")


def test_too_many_results_that_wait_let_the_oldest_go_and_say_so(
    start: Callable[..., Line], secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(senders, "TRIM_SECONDS", 0.0)
    port = free_port()
    line = start(webhook(port, secret, max_waiting=3))
    sent = line.inspect(*(part(NG, i) for i in range(8)))
    until(lambda: line.sink()["dropped"] == 5, "the oldest are gone")
    receiver = Receiver(port, lambda event: 200)

    until(lambda: len(receiver.taken) == 3, "the rest is delivered")

    assert receiver.inspections() == sent[5:]
    # They are not lost: the station still has them.
    assert len(document(line.client.get("/api/v1/inspections"))["inspections"]) == 8
    receiver.close()


@pytest.mark.parametrize(("content", "complaint"), [("", "empty"), ("whsec_abc", "24 bytes"), ("???", "24 bytes")])
def test_a_secret_that_is_none_is_refused_at_start(
    start: Callable[..., Line], tmp_path: Path, content: str, complaint: str
) -> None:
    path = tmp_path / "secret"
    path.write_text(content)

    with pytest.raises(UsageError, match=complaint) as caught:
        start(webhook(1, path))

    assert caught.value.where == "sinks.mes.secret_file"
    assert content not in str(caught.value) or not content


@pytest.mark.parametrize(("method", "path"), [("GET", "dead-letters"), ("POST", "dead-letters/send")])
def test_a_sink_that_is_not_there_is_refused(start: Callable[..., Line], method: str, path: str) -> None:
    line = start()

    answer = line.client.request(method, f"/api/v1/sinks/none/{path}", json={} if method == "POST" else None)

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


# MQTT, on a real broker


class Broker:
    """mosquitto from Debian's package, on a port of its own."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
        if program is None:
            pytest.skip("needs the MQTT broker mosquitto from Debian's package")
        self.port = free_port()
        passwords = folder / "passwords"
        subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "blemish", "geheim"], check=True)
        config = folder / "mosquitto.conf"
        config.write_text(
            f"user root\nlistener {self.port} 127.0.0.1\nallow_anonymous false\npassword_file {passwords}\n"
        )
        self.command = [program, "-c", str(config)]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self.listens, "the broker listens")

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None

    def listener(self) -> tuple[Client, list[tuple[str, dict[str, Any]]]]:
        """A client that hears everything."""
        heard: list[tuple[str, dict[str, Any]]] = []
        client = Client(CallbackAPIVersion.VERSION2)
        client.username_pw_set("blemish", "geheim")
        subscribed = threading.Event()
        client.on_subscribe = lambda *_: subscribed.set()
        client.on_message = lambda _client, _data, message: heard.append((message.topic, json.loads(message.payload)))
        client.connect("127.0.0.1", self.port)
        client.subscribe("#", qos=1)
        client.loop_start()
        assert subscribed.wait(30)
        return client, heard


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    started = Broker(tmp_path)
    started.start()
    yield started
    started.stop()


def mqtt(broker: Broker, tmp_path: Path, password: str) -> MqttSink:
    file = tmp_path / "mqtt.password"
    file.write_text(password)
    return MqttSink(
        name="plant",
        kind="mqtt",
        host="127.0.0.1",
        port=broker.port,
        topic="plant/line-1",
        user="blemish",
        password_file=file,
        timeout_seconds=5,
    )


def test_a_broker_gets_every_result_also_when_it_was_away(
    start: Callable[..., Line], broker: Broker, tmp_path: Path
) -> None:
    line = start(mqtt(broker, tmp_path, "geheim"))
    client, heard = broker.listener()
    sent = line.inspect(part(NG, 0), part(OK, 1))
    until(lambda: len(heard) == 2, "the broker has both")
    assert {topic for topic, _ in heard} == {"plant/line-1/inspection"}
    client.loop_stop()
    broker.stop()
    sent += line.inspect(part(NG, 2))
    until(lambda: line.sink("plant")["problem"], "the broker is missed")
    sent += line.inspect(part(NG, 3))
    assert line.sink("plant")["waiting"] == 2

    # Nobody listens at the moment when the station is back, so its letters have to be caught while they wait.
    line.station.senders.stop(5)
    broker.start()
    client, again = broker.listener()
    line.station.close()
    line.open()

    until(lambda: len(again) >= 2, "the broker has the rest")
    assert [event["inspection"]["id"] for _, event in [*heard, *again]] == sent
    client.loop_stop()


def test_a_broker_that_lets_nobody_in_is_a_problem_that_is_told(
    start: Callable[..., Line], broker: Broker, tmp_path: Path
) -> None:
    line = start(mqtt(broker, tmp_path, "wrong"))
    line.inspect(part(NG))

    problem = until(lambda: line.sink("plant")["problem"], "the refusal is told")

    assert "Not authorized" in problem or "Bad user name or password" in problem
    assert "wrong" not in problem
    assert line.sink("plant")["waiting"] == 1


def test_people_see_what_a_sink_has_refused(start: Callable[..., Line], secret: Path) -> None:
    receiver = Receiver(port := free_port(), lambda event: 400)
    line = start(webhook(port, secret))
    (number,) = line.inspect(part(NG))
    until(lambda: line.sink()["dead"] == 1, "it is a dead letter")

    shown = line.client.get("/connections", headers={"accept-language": "en"}).text

    assert "Refused by mes" in shown
    assert f'href="/inspections/{number}"' in shown
    assert "it answers 400" in shown
    assert "key=1" not in shown
    receiver.close()
