"""What is to be done next and what became of it: studies, cohorts, phases; no Ray."""
