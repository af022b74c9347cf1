"""Runs many meters in one process behind EVerest's MQTT API: configuration, tasks, log, systemd, metrics."""
