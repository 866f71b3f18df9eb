"""Tables become matplotlib figures."""
