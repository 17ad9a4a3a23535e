"""The practitioner's path: commands and reports on a model of the user."""
