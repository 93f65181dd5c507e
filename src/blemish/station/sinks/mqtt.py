"""Results over MQTT, with QoS 1: the broker says of each that it has it."""

from __future__ import annotations

import json
import threading

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from blemish.station.connections.kinds import MqttSink, first_line
from blemish.station.sinks.delivery import RefusedError, UnreachableError
from blemish.station.tables import OutboxEntry


class Mqtt:
    """Publishes each result. After any trouble it connects anew, so that nothing is sent behind our back."""

    def __init__(self, settings: MqttSink) -> None:
        self.settings = settings
        self._password = None
        if settings.password_file is not None:
            self._password = first_line(settings.password_file, f"sinks.{settings.name}.password_file")
        self._client: Client | None = None

    def deliver(self, entry: OutboxEntry) -> None:
        """Publish an entry, and wait for the broker to have it."""
        seconds = self.settings.timeout_seconds
        try:
            client = self._client = self._client or self._connected()
            body = json.dumps(entry.body, ensure_ascii=False, separators=(",", ":"))
            sent = client.publish(f"{self.settings.topic}/{entry.body['type']}", body, qos=1)
            sent.wait_for_publish(seconds)
        except (OSError, RuntimeError) as error:
            self.close()
            raise UnreachableError.because(error) from error
        except ValueError as error:  # larger than MQTT allows
            raise RefusedError(str(error)) from error
        if not sent.is_published():
            self.close()
            raise UnreachableError(f"the broker has not confirmed it within {seconds:g} seconds")

    def try_out(self) -> dict[str, int]:
        """Connect to the broker, and publish nothing."""
        try:
            self._client = self._connected()
        except (OSError, RuntimeError, ValueError) as error:
            raise UnreachableError.because(error) from error
        finally:
            self.close()
        return {}

    def close(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client is not None:
            client.disconnect()
            client.loop_stop()

    def _connected(self) -> Client:
        """A client that the broker has accepted."""
        answered = threading.Event()
        answers: list[ReasonCode] = []

        def on_connect(
            client: Client, userdata: object, flags: ConnectFlags, code: ReasonCode, properties: Properties | None
        ) -> None:
            answers.append(code)
            answered.set()

        def on_disconnect(
            client: Client, userdata: object, flags: DisconnectFlags, code: ReasonCode, properties: Properties | None
        ) -> None:
            answered.set()

        client = Client(CallbackAPIVersion.VERSION2)
        client.on_connect = on_connect
        client.on_disconnect = on_disconnect
        client.connect_timeout = self.settings.timeout_seconds
        if self.settings.user is not None:
            client.username_pw_set(self.settings.user, self._password)
        if self.settings.tls:
            client.tls_set(None if self.settings.ca_file is None else str(self.settings.ca_file))
        port = self.settings.port or (8883 if self.settings.tls else 1883)
        if client.connect(self.settings.host, port, keepalive=30) != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise OSError("no connection to the broker")
        client.loop_start()
        answered.wait(self.settings.timeout_seconds)
        if not answers or answers[0].is_failure:
            client.disconnect()
            client.loop_stop()
            raise OSError(f"the broker says: {answers[0]}" if answers else "the broker does not answer")
        return client
