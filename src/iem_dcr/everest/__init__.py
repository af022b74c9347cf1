"""The EVerest module, which EVerest's manager starts, and its installation."""
