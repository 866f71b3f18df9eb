"""An optimizer and a task of a package of its own."""
