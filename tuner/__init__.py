"""The service searches, retrains, writes down and reports."""
