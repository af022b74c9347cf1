"""The station is EVerest: the module that its manager starts, and its installation."""
