"""The meter's REST interface: the HTTP client and the messages of the nodes."""
