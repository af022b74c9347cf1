"""Many meters in one process, each behind EVerest's MQTT API: configuration, tasks, log, systemd, metrics."""
