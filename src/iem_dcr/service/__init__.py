"""Many meters in one process, each behind EVerest's MQTT API: the configuration file, the tasks, the log, systemd."""
