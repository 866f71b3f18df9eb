"""Statistics as pure functions of tables."""
