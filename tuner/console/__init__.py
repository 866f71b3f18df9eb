"""What a terminal shows, and what is read from its command line."""
