"""What a run is asked to do: YAML layers, their schema, classes by dotted path."""
