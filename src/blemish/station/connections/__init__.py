"""Sources and sinks: what can be said of them, tried, and changed while the station runs."""
