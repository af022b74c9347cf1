"""The name under which EVerest's Python framework is imported."""
