"""What the meter speaks: the messages of its REST nodes and the HTTP client that asks for them."""
